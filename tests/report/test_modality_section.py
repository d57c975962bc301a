"""The modality report on the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chatbridge.report.modality_section import condition_title, modality_section
from chatbridge.report.runs import Runs, TaskRun
from tests.report.test_page import Checker

LINE = {"score": 0.5, "interval": [0.4, 0.6], "asked": 40, "changed": 31, "difference": 0.25,
        "difference_interval": [0.1, 0.4], "p": 0.002}  # fmt: skip
TABLE = {
    "metric": "accuracy", "unit": "fraction", "higher_is_better": True, "count": 40,
    "conditions": {
        "full": {"score": 0.75, "interval": [0.6, 0.9]},
        "without_audio": {**LINE, "score": None, "interval": [None, None], "difference": None, "p": None},
        "shuffled_video": LINE,
    },
    "uses": {"video": {"condition": "shuffled_video", "verdict": "used"}, "audio": {"verdict": "not shown"}},
    "summary": "the model uses video <b>",
    "left_out": {"misaligned_audio": "no video has <audio>"},
}  # fmt: skip


def runs(found: Any) -> Runs:
    metrics = {"metric": "accuracy", "accuracy": 0.75, "modalities": found}
    return Runs(Path("runs"), (), (TaskRun("avqa", {}, metrics, ()),), {})


def test_every_condition_has_a_line():
    """fails when a condition, its loss, its interval or the verdict is not on the page, or text becomes markup"""
    text = modality_section(runs(TABLE))
    assert Checker(text).open == [] and text.count("<tr") == 1 + 3
    for shown in ("75.0%", "[60.0, 90.0]", "+25.00", "[10.0, 40.0]", "0.002", "video of another question", ">31<"):
        assert shown in text
    assert '<span class="met">used</span>' in text and '<span class="quiet">not shown</span>' in text
    assert "the model uses video &lt;b&gt;" in text and "no video has &lt;audio&gt;" in text
    assert condition_title("misaligned_audio") == "audio moved in time" and condition_title("odd") == "odd"


def test_numbers_keep_their_unit():
    """fails when CIDEr under a condition is shown as a percentage"""
    text = modality_section(runs({**TABLE, "metric": "cider", "unit": "number"}))
    assert "0.750" in text and "+0.2500" in text and "75.0%" not in text


def test_tasks_without_a_report_have_no_section():
    """fails when a table of another shape ends the page"""
    for odd in (None, 3, {}, {"conditions": []}, {"conditions": {"full": 1}}):
        assert modality_section(runs(odd)) == ""
    assert "<table" in modality_section(runs({"conditions": {"full": {"score": "x"}}, "uses": 1, "left_out": []}))
