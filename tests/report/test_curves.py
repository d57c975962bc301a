"""The curves of training runs on the page."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

from chatbridge.report.curves import MOST_POINTS, loss_section, scores_section
from chatbridge.report.run_folders import read_training
from chatbridge.report.runs import TrainingRun

LINES = [
    {"step": 0, "held_out": {"pictures": 8}},
    {"step": 10, "validation/loss": 2.0, "validation/pictures": 2.5},
    {"step": 10, "captions/cider": 0.4, "captions/bleu_4": 0.1, "vqa/vqa_accuracy": 31.0},
    {"step": 20, "validation/loss": 1.5, "captions/cider": 0.7, "captions/bleu_4": float("nan"), "note": "odd"},
    {"step": "x", "captions/cider": 9.0},
]


def charts(text: str) -> list[dict]:
    return [json.loads(html.unescape(one)) for one in re.findall(r'data-chart="([^"]+)"', text)]


def test_scores_during_training_have_curves(tmp_path: Path):
    """fails when a validation loss or a score of a task is not shown or at another step, or a torn line ends it all"""
    (tmp_path / "metrics.jsonl").write_text('{"step": 10, "loss": 3.0}\n')
    (tmp_path / "scores.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES) + '{"step": 30, "va')
    text = scores_section([read_training(tmp_path, "run <1>")])
    validation, captions, vqa = charts(text)
    assert validation["names"] == ["loss", "pictures"] and [one["y"] for one in validation["rows"]] == [
        [2.0, 2.5], [1.5, None]
    ]  # fmt: skip
    assert captions["names"] == ["cider", "bleu_4"] and [one["step"] for one in captions["rows"]] == [10, 20]
    assert captions["rows"][1]["y"] == [0.7, None] and vqa["rows"][0]["y"] == [31.0]
    assert "run &lt;1&gt;" in text and "run <1>" not in text


def test_a_run_without_scores_has_no_section(tmp_path: Path):
    """fails when an empty section is shown"""
    assert scores_section([TrainingRun("x", tmp_path, ())]) == "" and loss_section([]) == ""


def test_long_runs_are_thinned_out(tmp_path: Path):
    """fails when a run of a million steps makes a page of hundreds of megabytes, or the last loss is dropped"""
    records = tuple({"step": step, "loss": 1 / step} for step in range(1, 12 * MOST_POINTS))
    (chart,) = charts(loss_section([TrainingRun("x", tmp_path, records)]))
    assert len(chart["rows"]) <= MOST_POINTS + 1 and chart["rows"][-1]["step"] == 12 * MOST_POINTS - 1
