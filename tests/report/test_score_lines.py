"""The result table: intervals, units, other scores, and published ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chatbridge.report.results import results, text_table
from chatbridge.report.runs import Runs, TaskRun
from chatbridge.report.score_lines import scores
from chatbridge.report.tables import results_table

PUBLISHED = [
    {"model": "<i>Bridge</i> 13B", "metric": "cider", "value": 82.5, "source": "paper, table 2", "note": "???"},
    {"model": "Other", "metric": "cider", "value": 41.0},
    {"model": "Third", "metric": "vqa_accuracy", "value": 33.0, "source": "a paper"},
    {"model": "Scaled", "metric": "bleu_4", "value": 0.31, "scale": 1},
    {"model": "Elsewhere", "metric": "spice", "value": 12.0},
    {"model": "Broken", "metric": "cider", "value": "82.5"},
]  # fmt: skip


def run(metrics: dict[str, Any], node: dict[str, Any] | None = None) -> Runs:
    rows = tuple({"id": str(k), "references": ["red"], "details": {}, "scores": {}} for k in range(4))
    task = TaskRun("vqa", node or {"report": {"published": PUBLISHED}}, metrics, rows)
    return Runs(Path("runs"), (), (task,), {})


@pytest.fixture(scope="module")
def captions() -> Runs:
    return run(
        {
            "metric": "cider", "cider": 0.712, "bleu_4": 0.31, "vqa_accuracy": 61.5, "count": 4, "unreadable": 0,
            "units": {"cider": "number", "vqa_accuracy": "percent"},
            "intervals": {"cider": [0.65, 0.78], "bleu_4": [0.3, 0.32], "vqa_accuracy": [59.0, float("nan")]},
        }
    )  # fmt: skip


def test_a_score_has_its_interval_and_unit(captions):
    """fails when CIDEr is shown as a percentage, a percentage times 100, or the interval belongs to another score"""
    (line,) = scores(captions)
    assert (line.score, line.low, line.high, line.unit) == (0.712, 0.65, 0.78, "number")
    assert [(one.name, one.unit, one.low) for one in line.others] == [
        ("bleu_4", "fraction", 0.3), ("vqa_accuracy", "percent", None),
    ]  # fmt: skip
    table = text_table(captions)
    assert "0.712" in table and "[0.650, 0.780]" in table and "61.5%" in table and "[30.0, 32.0]" in table
    assert "71.2%" not in table and "6150" not in table


def test_published_scores_stand_beside_the_interval(captions):
    """fails when a paper's 82.5 is not the CIDEr 0.825, a place is wrong, or an absent metric is listed"""
    (line,) = scores(captions)
    found = {one.model: (pytest.approx(one.value), one.place) for one in line.published}
    assert found == {
        "<i>Bridge</i> 13B": (0.825, "above"), "Other": (0.41, "below"),
        "Third": (33.0, ""), "Scaled": (0.31, "inside"),
    }  # fmt: skip
    text = results_table([line])
    assert "published: &lt;i&gt;Bridge&lt;/i&gt; 13B" in text and "above ours" in text and "table 2. ???" in text


def test_graded_scores_have_no_chance_level(captions):
    """fails when the share of the most frequent caption is called the chance level of CIDEr"""
    assert scores(captions)[0].chance is None and results(captions)["chance"]["qa"] == {}
    exact = run({"metric": "exact_match", "exact_match": 0.5, "unreadable": 0})
    assert scores(exact)[0].chance == 1.0 and results(exact)["chance"]["qa"] == {"vqa": 1.0}


def test_a_target_is_a_fraction_of_a_percentage():
    """fails when 61.5 percent meets a target of 0.95, a CIDEr meets a share, or a rate of errors has to be above it"""
    metrics = {"metric": "vqa_accuracy", "vqa_accuracy": 61.5, "units": {"vqa_accuracy": "percent"}}
    assert scores(run(metrics, {"report": {"target": 0.95}}))[0].is_met is False
    assert scores(run(metrics, {"report": {"target": 0.6}}))[0].is_met is True
    cider = {"metric": "cider", "cider": 0.9, "units": {"cider": "number"}}
    assert scores(run(cider, {"report": {"target": 0.85}}))[0].target is None  # 85% of what?
    errors = {"metric": "word_error_rate", "word_error_rate": 0.2, "lower_is_better": ["word_error_rate"]}
    assert scores(run(errors, {"report": {"target": 0.3}}))[0].is_met is True
    assert 'style="width:61.5%"' in results_table(scores(run(metrics)))


def test_entries_of_another_shape_are_left_out():
    """fails when a metrics.json or settings of another version end the report"""
    odd = {"metric": "exact_match", "exact_match": 0.5, "units": 3, "intervals": {"exact_match": [0.1]}, "by": None}
    (line,) = scores(run(odd, {"report": {"published": "none"}}))
    assert (line.low, line.unit, line.published) == (None, "fraction", ())
