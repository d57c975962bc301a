"""The modality report from its files: `chatbridge score` makes the table again, and names what does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chatbridge.cli import score
from chatbridge.common.errors import DataError
from chatbridge.tasks.base import task_for_scoring
from chatbridge.tasks.modality_report.report import modality_results, remove_conditions, write_conditions
from chatbridge.tasks.prediction_lines import predictions_path, write_predictions
from tests.helpers.mini_world import write_yaml

NODE = {"name": "vqa", "group_by": ["kind"], "resample_by": ["video"]}


def row(number: int, prediction: str) -> dict[str, Any]:
    details = {"kind": "odd" if number % 2 else "even", "video": f"v{number // 2}"}
    return {"id": f"q{number}", "prediction": prediction, "references": ["red"], "details": details}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty correct answers; ten questions have audio, and without it nine of them are answered differently."""
    write_predictions(predictions_path(tmp_path, "qa"), [row(number, "red") for number in range(20)])
    changed = [row(number, "red" if number == 0 else "blue") for number in range(10)]
    write_predictions(predictions_path(tmp_path, "qa.without_audio"), changed)
    write_conditions("qa", tmp_path, ["without_audio"], {"shuffled_audio": "every question has the same audio"})
    return tmp_path


def table(folder: Path, **settings: Any) -> Any:
    task = task_for_scoring("qa", {**NODE, **settings})
    rows = [json.loads(line) for line in predictions_path(folder, "qa").read_text().splitlines()]
    return modality_results(task, task.scored(rows, folder), folder)


def test_the_table_is_made_from_the_files(folder: Path):
    """fails when questions that a condition does not change are missing or counted as asked again"""
    found = table(folder)
    line = found["conditions"]["without_audio"]
    assert (found["count"], line["asked"], line["changed"]) == (20, 10, 9)
    assert line["score"] == 0.55 and line["difference"] == pytest.approx(0.45)
    assert found["uses"]["audio"]["verdict"] == "used" and found["by"]["kind"]["odd"]["without_audio"] == 0.5
    assert found["left_out"] == {"shuffled_audio": "every question has the same audio"}
    assert (
        table(folder, resample_by=[])["conditions"]["without_audio"]["difference_interval"]
        != (line["difference_interval"])
    ), "questions about one video are resampled together"
    assert table(folder, resample_by=["base"])["conditions"] == table(folder, resample_by=[])["conditions"], (
        "questions without the field are no group: its interval would have no width"
    )
    unread = {**row(9, ""), "problem": "damaged"}
    write_predictions(predictions_path(folder, "qa.without_audio"), [row(8, "red"), unread])
    assert table(folder)["conditions"]["without_audio"] | {"p": 0} == table(folder)["conditions"]["without_audio"] | {
        "p": 0, "asked": 2, "unreadable": 1, "score": 0.95
    }  # fmt: skip


def test_a_condition_is_scored_with_the_metrics_of_its_task(folder: Path, capsys: pytest.CaptureFixture):
    """fails when `chatbridge score` of the file of a condition needs its metrics once more"""
    write_yaml(folder / "resolved.yaml", {"evaluation": {"tasks": {"qa": NODE}}})
    assert score.main([str(folder / "predictions_qa.without_audio.jsonl")]) == 0
    assert "exact_match" in (printed := capsys.readouterr().out) and "10.0%" in printed


def test_files_that_do_not_fit_are_named(folder: Path):
    """fails when a table is made from the answers to other questions, or from half of the files"""
    path = predictions_path(folder, "qa.without_audio")
    write_predictions(path, [row(3, "red"), row(77, "red")])
    with pytest.raises(DataError, match="qa.without_audio.jsonl: 1 questions, the first 'q77', are not those of its"):
        table(folder)
    path.unlink()
    with pytest.raises(DataError, match=r"qa\.without_audio\.jsonl is missing"):
        table(folder)
    (folder / "modalities_qa.json").write_text('{"conditions": 3}')
    with pytest.raises(DataError, match=r"modalities_qa\.json: is no list of conditions"):
        table(folder)
    (folder / "modalities_qa.json").unlink()
    assert table(folder) is None


@pytest.mark.parametrize("listed", [None, "{", '{"conditions": ["../other"], "left_out": {}}'])
def test_an_earlier_report_is_removed_whole(folder: Path, listed: str | None):
    """fails when a new evaluation leaves the conditions of an earlier one beside its answers, or stops at a torn list
    of them, whose error says to evaluate again"""
    if listed is not None:
        (folder / "modalities_qa.json").write_text(listed)
    remove_conditions("qa", folder)
    assert [path.name for path in folder.iterdir()] == ["predictions_qa.jsonl"]
