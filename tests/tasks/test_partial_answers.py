"""An evaluation that was stopped resumes: nothing is lost, asked twice, or taken from other settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chatbridge.common.dist import Dist
from chatbridge.config.schema import parse
from chatbridge.models.drawing.artist import NO_GENERATOR
from chatbridge.processors.image import ImageProcessor
from chatbridge.tasks.config import EvaluationConfig
from chatbridge.tasks.evaluator import Evaluator
from tests.helpers.choice_sets import question, write_mmbench, write_mme
from tests.helpers.scripted_model import ScriptedModel

MADE_WITH = {"model": 1, "checkpoint": "a"}
SIX_THEN_STOP = 6


class Stopping(ScriptedModel):
    """Answers the k-th question and ends with KeyboardInterrupt before answer number `stop`."""

    def __init__(self, stop: int | None = None) -> None:
        super().__init__(lambda text: "yes" if "here" in text else "A")
        self.stop, self.answered = stop, 0

    def generate(self, batch: Any, options: Any, stops: Any) -> list[list[int]]:
        self.answered += len(batch.ids)
        if self.stop is not None and self.answered > self.stop:
            raise KeyboardInterrupt
        return super().generate(batch, options, stops)

    def eval(self) -> None: ...

    def processors(self, train: bool) -> dict[str, Any]:
        return {"image": ImageProcessor(32)}


@pytest.fixture
def tasks(tmp_path: Path) -> dict[str, Any]:
    write_mme(tmp_path / "mme", ("count", "OCR"))
    (tmp_path / "mme/OCR/0001.png").unlink()
    path = write_mmbench(tmp_path / "t.tsv", [question(number) for number in range(4)])
    return {
        "mme": {"name": "mme", "batch_size": 2,
                "dataset": {"name": "mme", "folder": str(tmp_path / "mme"), "subjects": ["count", "OCR"]}},
        "bench": {"name": "mmbench", "batch_size": 2, "dataset": {"name": "mmbench", "file": str(path)}},
    }  # fmt: skip


def run(model: Stopping, tasks: dict[str, Any], folder: Path, made_with: dict[str, Any] | None = None) -> Stopping:
    config = parse(EvaluationConfig, {"tasks": tasks, "num_workers": 0})
    opened = {name: choice.part(choice.config, name) for name, choice in config.tasks.items()}
    evaluator: Any = Evaluator  # with a model that is none
    folder.mkdir(exist_ok=True)
    evaluator(opened, model, model, Dist(), config, made_with=made_with or MADE_WITH).run(folder)
    return model


def stopped(tasks: dict[str, Any], folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Stopping(SIX_THEN_STOP), tasks, folder)
    assert not (folder / "metrics.json").exists() and (folder / "partial").is_dir()


def files(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(folder.iterdir()) if path.suffix in (".json", ".jsonl")}


def test_a_stopped_evaluation_goes_on(tasks: dict[str, Any], tmp_path: Path):
    """fails when a resumed evaluation asks again, loses an answer, or writes other files than one without a stop"""
    whole = run(Stopping(), tasks, tmp_path / "whole")
    assert whole.answered == 10  # two of MME's eight questions have no image
    stopped(tasks, tmp_path / "run")
    with (tmp_path / "run/partial/bench.rank0.jsonl").open("a") as file:
        file.write('{"index": 3, "id": "3", "prediction": "torn')
    second = run(Stopping(), tasks, tmp_path / "run")
    assert second.answered == 10 - SIX_THEN_STOP
    assert files(tmp_path / "run") == files(tmp_path / "whole")
    assert not (tmp_path / "run/partial").exists()
    assert (tmp_path / "run/mme_mme/count.txt").read_text() == (tmp_path / "whole/mme_mme/count.txt").read_text()
    assert run(Stopping(), tasks, tmp_path / "run").answered == 10, "a complete evaluation starts from nothing"


def test_free_settings_keep_the_answers(tasks: dict[str, Any], tmp_path: Path):
    """fails when another batch size, heading or group drops answers"""
    stopped(tasks, tmp_path / "run")
    tasks["mme"] |= {"batch_size": 3, "report": {"title": "M"}, "group_by": ["image"], "metrics": ["mme", "anls"]}
    assert run(Stopping(), tasks, tmp_path / "run").answered == 10 - SIX_THEN_STOP
    found = json.loads((tmp_path / "run/metrics.json").read_text())["mme"]
    assert "image" in found["by"] and "anls" in found


@pytest.mark.parametrize("what", ["model", "prompt", "file", "length"])
def test_answers_of_other_settings_are_dropped(tasks: dict[str, Any], tmp_path: Path, what: str, caplog):
    """fails when a result mixes answers of two models, prompts, files or lengths"""
    tasks = {"bench": tasks["bench"]}
    with pytest.raises(KeyboardInterrupt):
        run(Stopping(2), tasks, tmp_path / "run")
    made_with = dict(MADE_WITH)
    if what == "model":
        made_with["model"] = 2
    elif what == "prompt":
        tasks["bench"]["dataset"]["prompt"] = "<image><QUESTION><OPTIONS>"
    elif what == "file":
        write_mmbench(tmp_path / "t.tsv", [question(number, "B", image="!") for number in range(3)] + [question(3)])
    else:
        tasks["bench"]["max_new_tokens"] = 3
    caplog.set_level("WARNING", "chatbridge")
    answered = run(Stopping(), tasks, tmp_path / "run", made_with).answered
    assert answered == (1 if what == "file" else 4)
    expected = {"model": "model", "prompt": "data", "file": "data", "length": "settings of the task"}[what]
    assert f"answers of an earlier start are dropped: different {expected}" in caplog.text


def test_damaged_files_are_asked_again(tasks: dict[str, Any], tmp_path: Path):
    """fails when lines of another shape, or settings that cannot be read, end the evaluation or enter the result"""
    stopped(tasks, tmp_path / "run")
    with (tmp_path / "run/partial/mme.rank0.jsonl").open("a") as file:
        file.write('[1]\n{"index": 99}\n{"index": 0, "id": "other", "prediction": ""}\n{"index": "0"}\n')
    (tmp_path / "run/partial/bench.json").write_text("{")
    run(Stopping(), tasks, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run/predictions_mme.jsonl").read_text().splitlines()]
    assert [row["index"] for row in rows] == list(range(8)) and rows[0]["id"] == "count/0000/1"


def test_images_that_are_not_there_are_drawn_again(tasks: dict[str, Any], tmp_path: Path):
    """fails when an answer is kept whose image is lost or could not be drawn"""
    stopped(tasks, tmp_path / "run")
    path = tmp_path / "run/partial/mme.rank0.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    found = [[{"caption": "a", "image": None, "problem": "the server refused it"}],
             [{"caption": "a", "image": "predictions_mme.drawings/1_1.png"}],
             [{"caption": "a", "image": None, "problem": NO_GENERATOR}]]  # fmt: skip
    for row, drawings in zip(rows, found, strict=False):
        row["drawings"] = drawings
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(Stopping(), tasks, tmp_path / "run").answered == 10 - SIX_THEN_STOP + 2
