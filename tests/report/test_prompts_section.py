"""The scores of each prompt on the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chatbridge.report.prompts_section import prompts_section
from chatbridge.report.runs import Runs, TaskRun
from tests.report.test_page import Checker


def runs(found: Any) -> Runs:
    metrics = {"metric": "accuracy", "accuracy": 0.6, "units": {"cider": "number"}, "prompts": found}
    return Runs(Path("runs"), (), (TaskRun("vqa", {}, metrics, ()),), {})


def test_every_prompt_has_its_scores():
    """fails when the score of a prompt is on the line of another, the spread is missing, or a prompt becomes markup"""
    spread = {"each": [0.5, 0.7], "mean": 0.6, "deviation": 0.1414, "low": 0.5, "high": 0.7}
    found = {"texts": ["<QUESTION>", "Answer: <QUESTION>"], "scores": {"accuracy": spread, "cider": spread, "odd": {}}}
    text = prompts_section(runs(found))
    assert Checker(text).open == [] and "odd" not in text
    line = text.partition("<th>Answer: &lt;QUESTION&gt;</th>")[2].partition("</tr>")[0]
    assert "70.0%" in line and "0.700" in line and "14.14" in text and "60.0%" in text


def test_other_shapes_have_no_section():
    """fails when a metrics.json of another version ends the page"""
    for odd in (None, [], {"texts": ["a"], "scores": {"x": {"each": [1.0, 2.0]}}}, {"texts": "a", "scores": 1}):
        assert prompts_section(runs(odd)) == ""
