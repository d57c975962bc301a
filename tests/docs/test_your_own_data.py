"""The examples of docs/your_own_data.md, used as on the page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml

from chatbridge.cli.data import command
from chatbridge.common import seeds
from chatbridge.common.errors import ConfigError, DataError
from chatbridge.config.merge import load
from chatbridge.config.schema import parse
from chatbridge.conversation.messages import media_parts
from chatbridge.datasets.builders import BUILDERS
from chatbridge.datasets.config import DataConfig
from chatbridge.experiment.open import open_config
from chatbridge.experiment.roots import Evaluation
from tests.helpers.placeholder_world import write_placeholder_world
from tests.helpers.tiny_media import jpeg, mp4, wav, write_json

PAGE = Path(__file__).parents[2] / "docs" / "your_own_data.md"
TEXT = PAGE.read_text(encoding="utf-8")
MADE = {".jpg": jpeg, ".png": jpeg, ".mp4": mp4, ".wav": wav}  # ending -> content


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def sample(dataset: Any, index: int) -> Any:
    return dataset.record(index, seeds.stream(0, "test"))


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of the page."""
    folder = write_placeholder_world(tmp_path_factory.mktemp("own"))
    (folder / "runs/kitchen").mkdir()
    media = folder / "my_data/media"
    (media / "frames/stirring").mkdir(parents=True)
    for name, content in zip(("train", "test"), blocks("jsonl"), strict=True):
        (folder / f"my_data/{name}.jsonl").write_text(content, encoding="utf-8")
        for path in re.findall(r'"path": "([^"]+\.\w+)"', content):
            (media / path).write_bytes(MADE[Path(path).suffix]())
    for number in range(3):
        (media / f"frames/stirring/{number:04}.jpg").write_bytes(jpeg(number * 50))
    for name, content in zip(("kitchen", "kitchen_eval", "open_questions", "public"), blocks("yaml"), strict=True):
        (folder / f"{name}.yaml").write_text(content, encoding="utf-8")
    return folder


@pytest.fixture
def here(kitchen: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(kitchen)
    return kitchen


def test_the_example_is_read_as_described(here: Path):
    """fails when a line of the page is refused, or its parts are read in another order"""
    mapping, origins = load(here / "kitchen.yaml")
    choice = parse(DataConfig, mapping["data"], origins, "data").sources["kitchen"]
    source = choice.part(choice.config, "kitchen")
    kinds = {
        one.id: [part.modality for part in media_parts(one.conversation)] for one in map(sample, [source] * 6, range(6))
    }
    assert len(source) == 6
    assert kinds == {
        "pan": ["image"], "frying": ["video", "audio"], "timer": ["audio"], "two-pans": ["image", "image"],
        "evening": ["image", "video"], "words": [],
    }  # fmt: skip
    assert all(Path(part.ref).exists() for k in range(6) for part in media_parts(sample(source, k).conversation))


def test_the_data_commands_accept_it(here: Path, capsys: pytest.CaptureFixture[str]):
    """fails when the two commands of the page report a problem in its example"""
    assert command.main(["check", "kitchen.yaml", "--workers", "1", "--source", "kitchen", "--full"]) == 0, (
        capsys.readouterr().out
    )
    assert command.main(["show", "kitchen.yaml", "1", "--source", "kitchen"]) == 0
    assert "Onions are frying" in capsys.readouterr().out


def test_the_evaluation_accepts_it(here: Path):
    """fails when the evaluation of the page is refused, or its answers are not its references"""
    config = open_config(Evaluation, here / "kitchen_eval.yaml").config
    choice = config.evaluation.tasks["kitchen"].config.dataset
    source = choice.part(choice.config, "kitchen")
    assert [sample(source, k).references for k in range(2)] == [("onions", "onion", "fried onions"), ("3", "three")]
    assert sample(source, 1).details == {"kind": "count"}


def test_the_open_questions_are_accepted(here: Path):
    """fails when the page's task for questions without answers is refused, or drops them"""
    answered = (here / "my_data/test.jsonl").read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line) for line in answered]
    for record in questions:
        record["messages"] = [turn for turn in record["messages"] if turn["role"] != "assistant"]
    (here / "questions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in questions), encoding="utf-8")
    (here / "with_model.yaml").write_text(
        (here / "kitchen_eval.yaml").read_text(encoding="utf-8").split("evaluation:")[0]
        + (here / "open_questions.yaml").read_text(encoding="utf-8"),
        encoding="utf-8",
    )
    task = open_config(Evaluation, here / "with_model.yaml").config.evaluation.tasks["open_questions"]
    source = task.config.dataset.part(task.config.dataset.config, "open_questions")
    assert len(source) == len(questions) and task.config.max_new_tokens == 100


def test_the_mistakes_of_the_page_are_real(here: Path, tmp_path: Path):
    """fails when the messages on the page differ from those of the reader"""
    shown = blocks("text")[1]
    lines = [json.loads(line) for line in blocks("jsonl")[0].splitlines()]
    lines[1]["messages"][0]["content"][1]["type"] = "sound"
    lines[4]["messages"][1]["role"] = "asistant"
    write_json(tmp_path / "train.jsonl", lines)
    part: Any = BUILDERS.get("records")
    with pytest.raises(DataError) as caught:
        part(part.Config(file=tmp_path / "train.jsonl"), "kitchen")
    assert str(caught.value).replace(str(tmp_path), "my_data") == shown.strip()


def test_the_table_of_layouts_is_complete(here: Path):
    """fails when the page lacks a format or a key, or its example does not fit"""
    rows = {found[0]: found[1] for found in re.findall(r"^\| `(\w+)` \| (.*)$", TEXT, re.MULTILINE)}
    for builder in ("captions", "questions", "statements", "dialogues", "instructions"):
        config: Any = BUILDERS.get(builder).Config
        named = set(re.findall(r"`(\w+)`", rows[builder]))
        keys = {key for layout in config.formats.values() for key in layout.keys} - {"unanswered"}
        assert {*get_args(get_type_hints(config)["format"]), *keys} <= named
        assert named <= {*get_args(get_type_hints(config)["format"]), *get_type_hints(config)}
    with pytest.raises(ConfigError) as caught:
        parse(DataConfig, yaml.safe_load((here / "public.yaml").read_text())["data"], path="data")
    assert all("there is no" in problem.message for problem in caught.value.problems)
