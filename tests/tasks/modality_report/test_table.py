"""The table of a modality report: differences, intervals and the verdict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from chatbridge.tasks.metrics.base import Score, mean_score
from chatbridge.tasks.modality_report.conditions import Condition
from chatbridge.tasks.modality_report.table import Asked, modality_lines, modality_table
from chatbridge.tasks.score_text import difference_interval_text, interval_text


def asked(condition: Condition | None, values: Sequence[float | None], score: Score | None = None) -> Asked:
    rows: list[dict[str, Any]] = [
        {"prediction": f"answer {value}", "details": {"kind": "odd" if number % 2 else "even"}}
        for number, value in enumerate(values)
    ]
    return Asked(condition, rows, score or mean_score("exact_match", values))


def condition(kind: Any, modality: str, count: int = 40) -> Condition:
    return Condition(kind, modality, tuple(range(count)))


RIGHT = [1.0] * 36 + [0.0] * 4
BLIND = [1.0, 0.0] * 20
SAME = [0.0] * 2 + [1.0] * 34 + [0.0, 1.0, 1.0, 0.0]


def test_a_modality_counts_as_used_if_its_exchange_costs_more_than_chance():
    """fails when a modality that changes nothing counts as used, or one that halves the score does not"""
    table = modality_table(
        [asked(None, RIGHT), asked(condition("without", "audio"), SAME), asked(condition("shuffled", "audio"), SAME),
         asked(condition("without", "video"), SAME), asked(condition("shuffled", "video"), BLIND)],
        {"misaligned_audio": "no reason"},
        group_by=["kind"],
    )  # fmt: skip
    assert table["uses"]["video"]["verdict"] == "used" and table["uses"]["audio"]["verdict"] == "not shown"
    line = table["conditions"]["shuffled_video"]
    assert line["difference"] == pytest.approx(0.4) and line["difference_interval"][0] > 0.2 and line["p"] < 0.01
    assert line["changed"] == sum(a != b for a, b in zip(RIGHT, BLIND, strict=True)) and line["asked"] == 40
    assert table["conditions"]["full"]["score"] == 0.9 and table["left_out"] == {"misaligned_audio": "no reason"}
    assert table["by"]["kind"]["odd"]["shuffled_video"] == 0.0 and table["by"]["kind"]["even"]["shuffled_video"] == 1.0
    assert table["summary"].startswith("the model uses video; that it uses audio is not shown")
    assert "video +40.0 [" in table["summary"]
    json.dumps(table, allow_nan=False)
    lines = modality_lines("av", table)
    assert lines[0] == "av: modalities, exact_match of 40 questions; lost: in points, [95% interval]"
    assert interval_text(-1e-17, 0.15) == "[0.0, 15.0]"
    assert difference_interval_text(-1e-17, 0.15, "fraction", 1) == "[+0.0, +15.0]" and "-0.0" not in "".join(lines)


def test_removal_decides_where_nothing_can_be_exchanged():
    """fails when a modality whose media are all the same has no verdict"""
    table = modality_table([asked(None, RIGHT), asked(condition("without", "image"), BLIND)], {})
    assert table["uses"]["image"]["condition"] == "without_image" and table["uses"]["image"]["verdict"] == "used"
    assert table["summary"].startswith("the model uses image (")


def test_where_lower_is_better_a_loss_is_still_positive():
    """fails when a word error rate that grows without the audio reads as harmful audio"""

    def rates(values: list[float]) -> Score:
        found = mean_score("word_error_rate", values)
        return Score(found.name, found.statistics, found.per_item, higher_is_better=False)

    wrong = [1.0 - value for value in RIGHT]
    worse = [1.0 - value for value in BLIND]
    table = modality_table(
        [asked(None, wrong, rates(wrong)), asked(condition("shuffled", "audio"), worse, rates(worse))], {}
    )
    assert table["conditions"]["shuffled_audio"]["difference"] == pytest.approx(0.4)
    assert table["uses"]["audio"]["verdict"] == "used"


def test_a_score_that_nothing_has_is_null():
    """fails when metrics.json holds NaN, which is not JSON"""
    table = modality_table([asked(None, [None] * 4), asked(condition("without", "audio", 4), [None] * 4)], {})
    assert table["conditions"]["without_audio"]["difference"] is None and "unknown" in table["summary"]
    json.dumps(table, allow_nan=False)


def test_a_few_questions_show_nothing():
    """fails when one question that is right with its audio, and wrong without, proves that a model listens"""
    ones, zeros = [1.0] * 12, [0.0] * 12
    conditions = [asked(None, ones[:9]), asked(condition("without", "audio", 9), zeros[:9])]
    table = modality_table(conditions, {})
    assert table["uses"]["audio"]["verdict"] == "not shown"
    assert table["summary"].endswith("; 9 independent questions are too few, 10 are needed")
    conditions = [asked(None, ones), asked(condition("without", "audio", 12), zeros)]
    assert modality_table(conditions, {})["uses"]["audio"]["verdict"] == "used"
    assert modality_table(conditions, {}, ["a video"] * 12)["uses"]["audio"]["verdict"] == "not shown"


def test_questions_that_a_removal_makes_unreadable_prove_nothing():
    """fails when a file that cannot be read without the video counts as a question that needs the video"""
    blind = asked(condition("without", "video", 40), BLIND)
    blind = Asked(blind.condition, [{**blind.rows[0], "problem": "no such file"}, *blind.rows[1:]], blind.score)
    table = modality_table([asked(None, RIGHT), blind], {})
    assert table["conditions"]["without_video"]["unreadable"] == 1 and table["uses"]["video"]["verdict"] == "not shown"
