"""The tiny world's renderer, the judge of its images, and the conversations in which the assistant draws."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from chatbridge.conversation.messages import Conversation, Drawing, Message, Text
from chatbridge.datasets.builders.records import Records
from chatbridge.datasets.builders.textbind import TextBind
from dataset_prep.tiny_world import drawing_talk, world, write_textbind
from dataset_prep.tiny_world.generators.tiny_renderer import TinyRenderer, read_caption
from dataset_prep.tiny_world.seen_scene import seen_scene
from dataset_prep.tiny_world.world import Scene

SCENES = [*world.all_scenes("image", held_out=False), *world.all_scenes("image", held_out=True)][::3]
RENDERER = TinyRenderer(TinyRenderer.Config())
UNREADABLE = [
    "",
    "a dragon",
    "a red circle",  # neither size nor place
    "a big red blue circle at the left",
    "a big red circle at the left and a dragon",
    "a big red circle at the left and a small star",
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    write_textbind.write_conversations(folder, seed=3, count=100)
    write_textbind.write_questions(folder, seed=3, count=6)
    return folder


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# ---------------------------------------------------------------- renderer and judge


def test_every_scene_is_drawn_as_its_caption_says():
    """Fails when the renderer misreads a caption, or the judge sees another scene than was drawn."""
    rng = np.random.default_rng(0)
    captions = [world.caption(scene, rng) for scene in SCENES]
    images = RENDERER.render(captions, list(range(len(captions))))
    assert [seen_scene(image) for image in images] == SCENES
    assert {tuple(image.shape) for image in images} == {(3, 64, 64)} and images[0].dtype == torch.uint8


def test_caption_and_seed_decide_an_image():
    """Fails when an image depends on others of its batch, or not on its seed."""
    caption = "a big red circle at the left"
    one, other, _ = RENDERER.render([caption, caption, "a dragon"], [1, 2, 1])
    (again,) = RENDERER.render([caption], [1])
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert seen_scene(one) == seen_scene(other) == read_caption(caption)


@pytest.mark.parametrize("caption", UNREADABLE)
def test_a_caption_that_cannot_be_read_gives_a_neutral_image(caption: str):
    """Fails when the renderer guesses: the image would pass for what was asked."""
    (image,) = RENDERER.render([caption], [0])
    assert (image == 128).all() and seen_scene(image) is None


def test_the_judge_sees_no_scene_where_there_is_none():
    """Fails when noise, an empty image, or a color or shape that the tiny world lacks is taken for a scene."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    bar, cyan = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64, 3), np.uint8)
    bar[30:34] = 245
    cyan[24:40, 24:40] = (0, 255, 255)
    for image in (noise, bar, cyan, np.zeros((64, 64, 3), np.uint8)):
        assert seen_scene(image) is None


# ---------------------------------------------------------------- conversations


def conversations(root: Path) -> list[Conversation]:
    source = TextBind(TextBind.Config(annotations=root / "instruct/textbind.json", root=root / "instruct"), "drawn")
    assert source.has_drawings and source.untrainable() is None
    return [source.record(number, np.random.default_rng(0)).conversation for number in range(len(source))]


def test_training_shows_what_its_captions_and_answers_say(root: Path):
    """Fails when an image is of another scene than its caption, shows a held-out combination, or an answer is wrong."""
    kinds: Counter[str] = Counter()
    for conversation in conversations(root):
        scene: Scene | None = None
        for message in conversation:
            for part in message.parts:
                if isinstance(part, Text):
                    continue
                scene = seen_scene(Image.open(part.ref))
                assert scene is not None and not scene.is_held_out
                if isinstance(part, Drawing):
                    assert scene == read_caption(part.caption)
                    kinds["drawn"] += 1
                else:
                    kinds["given"] += 1
            if scene is not None and message.role == "assistant" and len(message.text.split()) == 1:
                assert message.text in scene.values
                kinds["answered"] += 1
        kinds["without"] += scene is None
    assert min(kinds[name] for name in ("drawn", "given", "answered", "without")) >= 5


def test_requests_are_met_and_placed(root: Path):
    """Fails when a drawing lacks what its request names, or stands elsewhere than the request's wording says."""
    placed: Counter[str] = Counter()
    for question, answer, *_ in conversations(root):
        drawn = [part for part in answer.parts if isinstance(part, Drawing)]
        if len(drawn) != 1 or question.media:
            continue
        scene = read_caption(drawn[0].caption)
        assert scene is not None
        said = set(question.text.strip(".").replace(",", "").split())
        options = {value for values in world.ATTRIBUTES["image"].values() for value in values}
        assert said & options <= set(scene.values)
        wording = next(name for name, text in drawing_talk.ASKING.items() if question.text.startswith(text[:4]))
        assert placement(answer) == wording
        placed[wording] += 1
    assert placed.keys() == set(drawing_talk.PLACEMENTS)


def placement(answer: Message) -> str:
    at = next(number for number, part in enumerate(answer.parts) if isinstance(part, Drawing))
    return "first" if at == 0 else "last" if at == len(answer.parts) - 1 else "middle"


def test_questions_of_the_evaluation(root: Path):
    """Fails when a wish is not a held-out combination, a partial one names all, or a given image shows it already."""
    found = records(root / "heldout/textbind.jsonl")
    assert Counter(record["details"]["kind"] for record in found) == dict.fromkeys(drawing_talk.KINDS, 6)
    for record in found:
        kind, wishes = record["details"]["kind"], write_textbind.wanted_of(record["details"]["wanted"])
        assert len(wishes) == {"two": 2, "seen": 0, "text": 0}.get(kind, 1)
        assert ("answers" in record) == (not wishes)
        for wish in wishes if kind in ("full", "changed") else ():
            assert Scene("image", tuple(wish.named.values())).is_held_out
        if kind == "partial":
            assert 1 <= len(wishes[0].named) <= 3
        if kind == "changed":
            given = seen_scene(Image.open(root / "heldout" / record["messages"][0]["content"][0]["path"]))
            assert given is not None and not given.is_held_out
            assert sum(given[name] != value for name, value in wishes[0].named.items()) == 1
    source = Records(Records.Config(file=root / "heldout/textbind.jsonl", unanswered="keep"), "asked")
    assert len(source) == len(found)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Fails when the seed does not decide the files, or a count below one is taken."""
    monkeypatch.setattr(write_textbind, "NUM_PER_KIND", 2)
    for name in ("a", "b"):
        assert write_textbind.main(["--root", str(tmp_path / name), "--count", "12"]) == 0
    assert "12 conversations" in capsys.readouterr().out
    files = [sorted((path.name, path.read_bytes()) for path in (tmp_path / name).rglob("*.j*")) for name in ("a", "b")]
    assert files[0] == files[1] and len(files[0]) > 12
    with pytest.raises(SystemExit):
        write_textbind.main(["--root", str(tmp_path), "--count", "0"])
    assert "--count" in capsys.readouterr().err
