"""Images that the assistant draws, from a file of records to the batch: media items with a caption beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chatbridge.cli import train
from chatbridge.cli.data import check, show
from chatbridge.common.errors import ConfigError
from chatbridge.conversation.layout import Layout
from chatbridge.conversation.messages import Drawing, Media, Message, Text, assistant, media_parts, user
from chatbridge.conversation.templates import TEMPLATES
from chatbridge.datasets.builders.records import Records
from chatbridge.datasets.collate import collate
from chatbridge.datasets.decoding import decode
from chatbridge.datasets.sample_reader import read_sample
from chatbridge.experiment.partial_data import read_data
from chatbridge.tasks import question_of
from tests.helpers.mini_world import MiniWorld, write_yaml
from tests.helpers.tiny_media import jpeg, write_json
from tests.helpers.toy_drawing import with_toy_lab

CAT, FOX = Drawing("a cat", "cat.jpg"), Drawing("a fox", "fox.jpg")
DIALOGUE = (
    user("Draw", Media("image", "mine.jpg")),
    assistant("Here ", CAT, " it is."),
    user("And a fox?"),
    assistant(FOX),
)


@pytest.fixture
def toy_lab() -> Iterator[str]:
    yield from with_toy_lab()


class Pixels:
    """Reads an image as the number of letters in its name."""

    def __call__(self, ref: Any, rng: np.random.Generator | None) -> torch.Tensor:
        return torch.full((3, 1, 1), float(len(str(ref))))


class Letters:
    """One id per letter."""

    bos_id, eos_id, pad_id, vocab_size = 1, 2, 0, 300

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def decode(self, ids: Any) -> str:
        return "".join(map(chr, ids))


def layout(toy_lab: str) -> Layout:
    kind: Any = TEMPLATES.get("sketch")
    return Layout(kind(kind.Config()), Letters(), {"image": 2})


def test_the_image_of_a_drawing_is_a_media_item():
    """fails when a drawn image is not read, or out of order: slots would hold the wrong images"""
    assert [item.ref for item in media_parts(DIALOGUE)] == ["mine.jpg", "cat.jpg", "fox.jpg"]
    assert DIALOGUE[1].media == (Media("image", "cat.jpg"),) and DIALOGUE[1].text == "Here it is."
    found = decode(DIALOGUE, {"image": Pixels()})
    assert found.conversation == DIALOGUE and [int(one[0, 0, 0]) for one in found.media] == [8, 7, 7]
    assert Drawing("a cat").image is None and assistant(Drawing("a cat")).media == ()


def test_a_drawing_is_laid_out_with_its_caption_beside_it(toy_lab):
    """fails when the caption is not supervised, the image is, or text after it does not follow the image"""
    row = layout(toy_lab).training_sequence(DIALOGUE)
    assert [(slot.item, slot.length) for slot in row.media_slots] == [(0, 2), (1, 2), (2, 2)]
    assert "".join(map(chr, row.target)) == "Here {a cat} it is.\n{a fox}\n"
    after = row.media_slots[1].start + 2
    assert row.ids[after] == ord(" ") and row.predict_at[row.target.index(ord("}")) + 1] == after - 1


def test_an_earlier_drawing_of_a_prompt(toy_lab):
    """fails when a prompt shows another base than training did, or a caption without an image is lost"""
    made = layout(toy_lab)
    prompt, row = made.prompt(DIALOGUE[:3]), made.training_sequence(DIALOGUE)
    assert row.segments is not None
    base = [number for number, segment in zip(row.ids, row.segments, strict=True) if not segment.branch]
    assert prompt.ids == base[: len(prompt)] and len(prompt.media_slots) == 2
    undrawn = made.prompt((user("Draw"), assistant(Drawing("a cat")), user("Why?")))
    assert "{a cat}" in made.tokenizer.decode(undrawn.ids) and not undrawn.media_slots


def test_training_without_the_image_is_refused(toy_lab):
    """fails when a caption is trained without the image that the rest of the conversation refers to"""
    with pytest.raises(ValueError, match=r"message 1: the drawing 'a cat' has no image.*add its image"):
        layout(toy_lab).training_sequence((user("Draw"), assistant(Drawing("a cat")), user("Why?"), assistant("So.")))


def test_removing_images_leaves_captions():
    """fails when an ablation without images keeps drawn images, or drops text"""
    asked, _ = question_of(DIALOGUE, drop_media=["image"])
    assert asked == (user("Draw"), assistant("Here ", Drawing("a cat"), " it is."), user("And a fox?"))


def drawing(**path: str) -> dict[str, Any]:
    parts = [{"type": "drawing", "caption": "a red circle", **path}, {"type": "text", "text": " . red"}]
    return {"messages": [{"role": "user", "content": "give"}, {"role": "assistant", "content": parts}]}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> MiniWorld:
    return MiniWorld(tmp_path_factory.mktemp("world"))


def run_file(world: MiniWorld, folder: Path, *records: dict[str, Any], template: str = "sketch", **model: Any) -> Path:
    """The mapping of a run that trains on these records only."""
    (folder / "red.jpg").write_bytes(jpeg(side=32))
    config = world.experiment(folder / "run", max_steps=2, save_every=2, micro_batch=2)
    config["model"] |= model
    config["plugins"] = ["toy_lab"]
    config["data"] |= {"template": template, "sources": {
        "made": {"name": "records", "file": str(write_json(folder / "made.jsonl", records))}}}  # fmt: skip
    return write_yaml(folder / "train.yaml", config)


def test_a_run_trains_on_drawings(world, tmp_path, toy_lab):
    """fails when a drawing of a file does not reach the encoder and the loss of a run"""
    path = run_file(world, tmp_path, drawing(path="red.jpg"), drawing(path="red.jpg"))
    assert train.main(["--cfg-path", str(path)]) == 0
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2 and json.loads(lines[0])["loss"] > 0
    source = Records(Records.Config(file=tmp_path / "made.jsonl"), "made")
    sample = read_sample(source, 0, {"image": Pixels()}, np.random.default_rng(0))
    batch = collate([sample], layout(toy_lab))
    assert batch.media["image"].shape == (1, 3, 1, 1) and batch.media_slots["image"].shape == (1, 2)


def test_drawings_without_images_are_reported_before_a_step(world, tmp_path, toy_lab, capsys):
    """fails when a run starts on drawings without images, or the message lacks the line and the next step"""
    path = run_file(world, tmp_path, drawing(path="red.jpg"), drawing(), drawing())
    with pytest.raises(ConfigError) as error:
        train.main(["--cfg-path", str(path)])
    (problem,) = error.value.problems
    assert problem.path == "data.sources.made" and problem.hint is not None and "`path`" in problem.hint
    assert "2 of 3 drawings have no image (line 2: message 1; line 3: message 1)" in problem.message
    assert not (tmp_path / "run").exists()
    assert check.main([str(path), "--workers", "1"]) == 2
    assert "2 of 3 drawings have no image" in capsys.readouterr().err


def test_a_template_that_cannot_draw_is_reported_before_a_step(world, tmp_path, toy_lab):
    """fails when drawings reach a template that cannot write them and end the run after its failure budget"""
    path = run_file(world, tmp_path, drawing(path="red.jpg"), template="vicuna_v0")
    with pytest.raises(ConfigError) as error:
        train.main(["--cfg-path", str(path)])
    (problem,) = error.value.problems
    assert "holds drawings, which the template vicuna_v0 cannot write" in problem.message
    assert set(problem.allowed) == {"sketch", "textbind"}
    messages = [one.message for one in read_data(path).problems]
    assert messages == [problem.message]


def test_drawings_need_a_route_for_images(world, tmp_path, toy_lab):
    """fails when a drawing in the data of a model without images is found only when the sample is read"""
    routes = {"audio": world.model()["routes"]["audio"]}
    encoders, bridges = ({"audio": world.model()["encoders"]["audio"]}, world.model()["bridges"])
    path = run_file(world, tmp_path, drawing(path="red.jpg"), routes=routes, encoders=encoders, bridges=bridges)
    code = check.main([str(path), "--workers", "1"])
    assert code == 2


def test_a_drawing_is_shown(world, tmp_path, toy_lab, capsys):
    """fails when `data show` hides the caption, the image, or that later text does not see the caption"""
    path = run_file(world, tmp_path, drawing(path="red.jpg"))
    assert show.main([str(path), "0", "--source", "made"]) == 0
    shown = capsys.readouterr().out
    assert "red.jpg" in shown and "[[{a red circle}]]" in shown and "<image>" in shown
    assert "1 image is drawn by the assistant: text after such an image sees the image" in shown


def test_an_evaluation_may_ask_for_a_drawing(tmp_path):
    """fails when the answer of a question cannot be a drawing without an image"""
    source = Records(Records.Config(file=write_json(tmp_path / "asked.jsonl", [drawing()])), "asked")
    assert source.has_drawings and source.modalities == frozenset()
    record = source.record(0, np.random.default_rng(0))
    assert record.conversation[-1] == Message("assistant", (Drawing("a red circle"), Text(" . red")))
