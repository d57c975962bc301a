"""The receipts on the report page."""

from __future__ import annotations

import json
from pathlib import Path

from chatbridge.report.receipt_section import receipt_section
from chatbridge.report.runs import Runs, TaskRun
from chatbridge.tasks.receipt import PARTS, Receipt, TaskReceipt, file_sha256
from tests.report.test_page import Checker


def evaluation(folder: Path) -> Runs:
    """Two tasks with answers, and their receipt."""
    folder.mkdir(parents=True)
    tasks = {}
    for name in ("okvqa", "gqa"):
        path = folder / f"predictions_{name}.jsonl"
        path.write_text('{"id": "a", "prediction": "x"}\n')
        answers = {"file": path.name, "sha256": str(file_sha256(path))}
        tasks[name] = TaskReceipt({part: {"of": name} for part in PARTS}, predictions=answers)
    environment = {"version": "1.0", "commit": "abc<", "device": "H200", "processes": 2, "versions": {"torch": "2.11"}}
    Receipt(tasks, environment).write(folder)
    metrics = {"metric": "accuracy", "accuracy": 0.5}
    return Runs(folder, (), tuple(TaskRun(name, {}, metrics, (), folder=folder) for name in tasks), {})


def test_every_task_has_its_digest_and_the_state_of_its_answers(tmp_path: Path):
    """fails when a digest or the environment is not shown, edited answers pass as evaluated, or text becomes markup"""
    runs = evaluation(tmp_path / "eval")
    text = receipt_section(runs)
    written = json.loads((tmp_path / "eval/receipt.json").read_text())["tasks"]
    assert Checker(text).open == [] and all(written[name]["digest"] in text for name in ("okvqa", "gqa"))
    assert (
        text.count("as evaluated") == 2 and "ChatBridge 1.0, commit abc&lt;, on H200, 2 processes; torch 2.11" in text
    )
    (tmp_path / "eval/predictions_gqa.jsonl").write_text("{}\n")
    text = receipt_section(runs)
    assert text.count("as evaluated") == 1 and text.count("changed since") == 1


def test_folders_without_a_receipt_and_broken_ones(tmp_path: Path):
    """fails when an evaluation of an earlier version has a section, or a broken receipt ends the page"""
    runs = evaluation(tmp_path / "eval")
    path = tmp_path / "eval/receipt.json"
    path.write_text(path.read_text().replace('"of": "gqa"', '"of": "other"', 1))
    assert "the receipt is not used" in receipt_section(runs) and "was edited" in receipt_section(runs)
    path.unlink()
    assert receipt_section(runs) == ""
