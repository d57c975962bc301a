"""`chatbridge generate` and `chatbridge evaluate` draw images and store them beside the answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from chatbridge import __main__ as commands
from chatbridge.cli.answer_file import AnswerFile
from chatbridge.common.errors import ConfigError, DataError
from chatbridge.conversation.messages import Drawing
from chatbridge.conversation.tokenizer import Tokenizer
from chatbridge.datasets.builders.records import Records
from chatbridge.models.drawing.artist import Drawn
from chatbridge.models.generators import GENERATORS, RenderError
from chatbridge.models.language.causal_lm import CausalLM
from chatbridge.tasks.drawn_answers import DrawingFolder, GeneratedAnswer
from tests.cli.test_generate import lines, question
from tests.helpers.mini_world import MiniWorld, write_yaml
from tests.helpers.preloaded_processes import run_ranks
from tests.helpers.tiny_media import write_json
from tests.helpers.toy_drawing import with_toy_lab

PLUGINS = Path(__file__).parents[1] / "plugins"


@pytest.fixture(scope="module", autouse=True)
def toy_lab() -> Iterator[str]:
    yield from with_toy_lab()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> MiniWorld:
    return MiniWorld(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def often(world: MiniWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Marks of captions are likelier than the random model finds them, so that answers draw."""
    encode = Tokenizer.from_pretrained(world.folder / "lm").encode
    opening, closing = encode("{")[0], encode("}")[0]
    real = CausalLM.logits

    def logits(self: CausalLM, hidden: Tensor) -> Tensor:
        found = real(self, hidden)
        found[..., opening] += 3 * found.std(-1)
        found[..., closing] += 3.5 * found.std(-1)
        return found

    monkeypatch.setattr(CausalLM, "logits", logits)


def config_of(world: MiniWorld, folder: Path, **evaluation: Any) -> Path:
    model = world.model() | {"generator": {"name": "plain_color"}}
    content = {"plugins": ["toy_lab"], "model": model, "evaluation": {"template": "sketch", **evaluation},
               "run": {"output_dir": str(folder / "eval"), "device": "cpu"}}  # fmt: skip
    return write_yaml(folder / "draw.yaml", content)


@pytest.fixture
def given(world: MiniWorld, tmp_path: Path) -> list[str]:
    """The command line over five records."""
    records = [question("a", "i0.jpg"), question("b"), question("c", words="red ?"), question("d", "i1.jpg"),
               question("e", words="green")]  # fmt: skip
    file = write_json(tmp_path / "q.jsonl", records)
    return ["generate", str(config_of(world, tmp_path)), "--records", str(file), "--root", str(world.folder / "images"),
            "--workers", "0", "--out", str(tmp_path / "a.jsonl"), "--task", "max_new_tokens=20"]  # fmt: skip


def images(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_batch_gives_the_answers_and_images_of_single_questions(given, tmp_path):
    """fails when an answer or image depends on its batch, an image is not beside its line, or a line cannot be a
    turn of a record"""
    assert commands.main([*given, "batch_size=4"]) == 0
    assert commands.main([*given, "batch_size=1", "--out", str(tmp_path / "one.jsonl")]) == 0
    together, alone = lines(given), [json.loads(one) for one in (tmp_path / "one.jsonl").read_text().splitlines()]
    assert images(tmp_path / "a.drawings") == images(tmp_path / "one.drawings")
    assert json.dumps(together) == json.dumps(alone).replace("one.drawings", "a.drawings")
    counts = [len(row.get("drawings", ())) for row in together]
    assert len(set(counts)) > 1 and sum(counts) > 2, counts
    row = next(row for row in together if any(one["image"] for one in row.get("drawings", ())))
    first = next(one for one in row["drawings"] if one["image"])
    with Image.open(tmp_path / first["image"]) as image:
        assert image.size == (24, 24)
    turns = [{"role": "user", "content": "draw"}, {"role": "assistant", "content": row["parts"]}]
    record = Records(Records.Config(file=write_json(tmp_path / "r.jsonl", [{"messages": turns}])), "r").record(
        0, torch.Generator()
    )
    drawn = [part for part in record.conversation[1].parts if isinstance(part, Drawing)]
    assert [part.caption for part in drawn] == [one["caption"] for one in row["drawings"] if one["caption"]]
    media = [tmp_path / one["image"] for one in row["drawings"] if one["image"]]
    assert [item.ref for item in record.conversation[1].media] == media


def test_records_of_textbind_get_their_generated_turn(given, world, tmp_path):
    """fails when the last answer is not replaced, an image is not found from the folder of its record, or a record that
    fails is lost"""
    turns = [{"role": "user", "content": "what <image> ?", "image_list": ["i0.jpg"], "caption_list": ["a"]},
             {"role": "assistant", "content": "red"}, {"role": "user", "content": "describe"}]  # fmt: skip
    gone = [{"role": "user", "content": "<image> ?", "image_list": ["gone.jpg"]}, {"role": "assistant", "content": "b"}]
    asked = [[*turns, {"role": "assistant", "content": "old"}], gone, turns[:1], turns]
    records = [{"image_dir": "images", "id": number, "conversation": one} for number, one in enumerate(asked)]
    (tmp_path / "test.json").write_text(json.dumps(records))
    results = tmp_path / "inference_results.json"
    extra = ["--records", str(tmp_path / "test.json"), "--root", str(world.folder), "--format", "textbind",
             "--results", str(results)]  # fmt: skip
    assert commands.main([*given, *extra]) == 1
    found = json.loads(results.read_text())
    assert "no such file" in found[1].pop("problem") and found[1] == records[1]
    for number, before in ((0, turns), (2, turns[:1]), (3, turns)):
        *kept, last = found[number]["conversation"]
        assert kept == before and (last["role"], last["tags"]) == ("assistant", "generation")
        assert last["content"].count("<image>") == len(last["image_list"]) == len(last["caption_list"])
        assert all((world.folder / "images" / name).is_file() for name in last["image_list"])
    assert any(one["conversation"][-1].get("image_list") for one in found)
    with pytest.raises(ConfigError, match="needs --format textbind"):
        commands.main([*given, "--results", str(results)])
    for taken in (str(tmp_path / "test.json"), given[given.index("--out") + 1]):
        with pytest.raises(ConfigError, match="is the file of the records or of the answers"):
            commands.main([*given, *extra[:-1], taken])
    assert json.loads((tmp_path / "test.json").read_text()) == records


def test_a_folder_of_images_that_cannot_be_made_is_named(tmp_path):
    """fails when the message names the file of answers, which is fine, in place of the folder of its images"""

    def answers() -> Iterator[dict[str, Any]]:
        DrawingFolder(tmp_path / "a.jsonl").fields(
            0, GeneratedAnswer((), (Drawn("a cat", torch.zeros(3, 4, 4).byte()),))
        )
        yield {}

    (tmp_path / "a.drawings").touch()
    with pytest.raises(DataError, match="a.drawings: cannot be written: File exists"):
        AnswerFile(tmp_path / "a.jsonl", {}).write(answers())


@pytest.mark.slow
def test_a_stopped_command_resumes_with_its_images(given, tmp_path):
    """fails when an image that was lost is not drawn again, a kept answer changes, or images of nothing stay"""
    assert commands.main(given) == 0
    whole, before, out = lines(given), images(tmp_path / "a.drawings"), tmp_path / "a.jsonl"
    out.write_text("".join(json.dumps(row) + "\n" for row in whole[:3]) + json.dumps(whole[3])[:20])
    lost = next(one["image"] for row in whole[:3] for one in row.get("drawings", ()) if one["image"])
    (tmp_path / lost).unlink()
    (tmp_path / "a.drawings/77_1.png").write_bytes(b"of another file of records")
    assert commands.main(given) == 0
    assert lines(given) == whole and images(tmp_path / "a.drawings") == before
    assert commands.main([*given, "max_drawings=0", "--overwrite"]) == 0
    assert not any(row.get("drawings") for row in lines(given)) and not (tmp_path / "a.drawings").exists()


def test_a_generator_that_fails_is_counted_and_tried_again(given, tmp_path, monkeypatch, capsys):
    """fails when a failed image ends the command, is not told, or is not tried again by the same command"""
    assert commands.main(given) == 0
    whole, kind = lines(given), GENERATORS.get("plain_color")
    real = kind.render

    def render(self: Any, captions: list[str], seeds: list[int]) -> list[Tensor]:
        raise RenderError("the server is closed")

    monkeypatch.setattr(kind, "render", render)
    assert commands.main([*given, "--overwrite"]) == 0
    failed = [one for row in lines(given) for one in row.get("drawings", ()) if one["image"] is None]
    assert {one["problem"] for one in failed} >= {"the server is closed"}
    assert not (tmp_path / "a.drawings").exists() and "captions have no image" in capsys.readouterr().out
    monkeypatch.setattr(kind, "render", real)
    assert commands.main(given) == 0
    assert lines(given) == whole and "captions have no image" not in capsys.readouterr().out


def test_an_evaluation_draws_and_its_report_shows_the_images(world, tmp_path):
    """fails when `evaluate` renders nothing, keeps images of an earlier evaluation, or the report lacks the images"""
    dataset = {"name": "records", "unanswered": "keep", "root": str(world.folder / "images"),
               "file": str(write_json(tmp_path / "q.jsonl", [question("a", "i0.jpg"), question("b")]))}  # fmt: skip
    tasks = {"open": {"name": "generate", "dataset": dataset, "max_new_tokens": 20, "seed": 4}}
    config = config_of(world, tmp_path, tasks=tasks, num_workers=0)
    (tmp_path / "eval/predictions_open.drawings").mkdir(parents=True)
    (tmp_path / "eval/predictions_open.drawings/9_1.png").write_bytes(b"old")
    assert commands.main(["evaluate", "--cfg-path", str(config)]) == 0
    rows = [json.loads(line) for line in (tmp_path / "eval/predictions_open.jsonl").read_text().splitlines()]
    named = [one["image"] for row in rows for one in row.get("drawings", ()) if one["image"]]
    assert named and sorted(named) == [f"predictions_open.drawings/{name}"
                                       for name in images(tmp_path / "eval/predictions_open.drawings")]  # fmt: skip
    assert commands.main(["report", str(tmp_path / "eval")]) == 0
    page = (tmp_path / "eval/report.html").read_text()
    assert page.count("data:image/png;base64,") == len(named) and page.count('class="drawn"') >= len(named)
    assert all("drawings" in row for row in rows) and ">Text</h3>" in page, "also of the question without media"


@pytest.mark.slow
def test_two_ranks_draw_what_one_draws(world, tmp_path, monkeypatch):
    """fails when an image depends on the number of ranks, or a rank removes the images of another one"""
    monkeypatch.undo()  # other processes have the likely marks in their weights
    monkeypatch.setenv("PYTHONPATH", f"{PLUGINS}:{PLUGINS.parents[1]}")
    file = write_json(tmp_path / "q.jsonl", [question(name, "i0.jpg", name) for name in "abcde"])
    dataset = {"name": "records", "unanswered": "keep", "root": str(world.folder / "images"), "file": str(file)}
    tasks = {"open": {"name": "generate", "dataset": dataset, "max_new_tokens": 20, "batch_size": 2}}
    path = config_of(world, tmp_path, tasks=tasks, num_workers=0)
    settings = yaml.safe_load(path.read_text())
    settings["model"]["language"]["weights"] = str(with_likely_marks(world.folder / "lm", tmp_path / "lm"))
    write_yaml(path, settings)
    for folder, ranks in (("one", 1), ("two", 2)):
        command = ["-m", "chatbridge", "evaluate", "--cfg-path", str(path)]
        done = run_ranks([*command, "--options", f"run.output_dir={tmp_path / folder}"], num_processes=ranks)
        assert done.returncode == 0, done.stderr
    one, two = ((tmp_path / name / "predictions_open.jsonl").read_text() for name in ("one", "two"))
    drawn = images(tmp_path / "one/predictions_open.drawings")
    assert one == two and drawn == images(tmp_path / "two/predictions_open.drawings") and len(drawn) > 2


def with_likely_marks(folder: Path, copy: Path) -> Path:
    """A copy of a language model that often writes the marks of captions."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, copy)
    encode = Tokenizer.from_pretrained(folder).encode
    weights = load_file(copy / "model.safetensors")
    weights["lm_head.weight"][encode("{")[0]] *= -6
    weights["lm_head.weight"][encode("}")[0]] *= 6
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    return copy


@pytest.mark.parametrize(
    ("task", "reported"),
    [
        ({"num_beams": 2}, "answers with images are generated without beams"),
        ({"max_drawings": -1}, "max_drawings"),
    ],
)
def test_settings_that_draw_nothing_are_reported(world, tmp_path, given, task, reported):
    """fails when beams with a generator end in a traceback after the model was loaded, or are ignored"""
    with pytest.raises(ConfigError, match=reported):
        commands.main([*given, *(f"{key}={value}" for key, value in task.items())])
    dataset = {"name": "records", "unanswered": "keep", "file": str(tmp_path / "q.jsonl")}
    tasks = {"open": {"name": "generate", "dataset": dataset, **task}}
    with pytest.raises(ConfigError, match=f"(?s)evaluation.tasks.open.*{reported}"):
        commands.main(["evaluate", "--cfg-path", str(config_of(world, tmp_path, tasks=tasks))])
