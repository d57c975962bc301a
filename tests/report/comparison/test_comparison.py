"""Two systems on the same items: pairing, differences, changed items, and the page."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from chatbridge.common.errors import DataError
from chatbridge.report.comparison.items import Side
from chatbridge.report.comparison.page import comparison_page
from chatbridge.report.comparison.task import compare_task
from chatbridge.report.comparison.text import comparison_json, comparison_text
from chatbridge.tasks.metrics.base import Item, Score, mean_score
from tests.helpers.media_files import image_bytes
from tests.report.test_page import Checker


def items(answers: str, references: str = "x", shift: int = 0) -> tuple[Item, ...]:
    """An item per letter of `answers`; x is correct."""
    return tuple(
        Item(f"q{at + shift}", letter, (references,), {"kind": "even" if at % 2 == 0 else "odd", "image": at // 2},
             {"id": f"q{at + shift}", "question": f"<i>Which</i> {at}?"})
        for at, letter in enumerate(answers)
    )  # fmt: skip


def exact(found: Sequence[Item]) -> list[Score]:
    right = mean_score("exact", [float(item.prediction in item.references) for item in found])
    length = mean_score("length", [float(len(item.prediction)) for item in found], unit="number")
    return [right, Score("errors", right.statistics, 1 - right.per_item, lambda sums: 1 - sums[..., 0] / sums[..., 1],
                         higher_is_better=False), length]  # fmt: skip


def side(label: str, answers: str, **kw) -> Side:
    return Side(label, "colors", items(answers, **kw), exact, {})


@pytest.fixture(scope="module")
def found():
    """B repairs q0, q1 and q2, and breaks q3."""
    return compare_task(side("runs/a", "aaaxxxxxxx"), side("runs/b", "xxxbxxxxxx"), ("kind",))


def test_scores_of_both_and_their_difference(found):
    """fails when A and B are exchanged, or a score where less is better counts for the other system"""
    exact, errors, length = found.scores
    assert (exact.a, exact.b, exact.paired.difference) == pytest.approx((0.7, 0.9, 0.2))
    assert (exact.outcomes.better_a, exact.outcomes.better_b, exact.outcomes.equal) == (1, 3, 6)
    assert exact.outcomes.p == pytest.approx(0.625) and exact.is_right_or_wrong and not length.is_right_or_wrong
    assert errors.paired.difference == pytest.approx(-0.2) and errors.outcomes.better_b == 3
    assert length.paired.difference == 0.0 and length.better == ""


def test_a_verdict_needs_an_interval_without_zero():
    """fails when a difference within noise is called better, or a lower error rate worse"""
    small = compare_task(side("a", "ax" * 20), side("b", "ax" * 19 + "xx"))
    assert [line.better for line in small.scores] == ["", "", ""]
    large = compare_task(side("a", "aaax" * 20), side("b", "xxax" * 20))
    assert [line.better for line in large.scores] == ["B", "B", ""]
    back = compare_task(side("a", "xxax" * 20), side("b", "aaax" * 20))
    assert [line.better for line in back.scores] == ["A", "A", ""]


def test_changed_items_are_listed_with_their_groups(found):
    """fails when an item that changed is missing, a gain has the wrong sign, or a group has the items of another"""
    assert [change.item_a.id for change in found.better] == ["q0", "q1", "q2"]
    assert [(change.item_b.id, change.a, change.b) for change in found.worse] == [("q3", 1.0, 0.0)]
    groups = found.groups["kind"]
    assert {name: (line.a, line.b, line.count) for name, line in groups.items()} == {
        "even": (pytest.approx(0.6), 1.0, 5), "odd": (pytest.approx(0.8), pytest.approx(0.8), 5),
    }  # fmt: skip


def test_items_of_one_image_are_drawn_together():
    """fails when resample_by has no effect on the interval or the p of items, or an item without the field joins the
    others"""
    a, b = side("a", "aaaxxxxx" * 8), side("b", "xxxbxxxx" * 8)
    alone, grouped = compare_task(a, b).scores[0], compare_task(a, b, resample_by=("image",)).scores[0]
    assert (alone.units, grouped.units) == (64, 32)
    assert (alone.paired.low, alone.paired.high) != (grouped.paired.low, grouped.paired.high)
    # every first image of four got better; in the second a repaired and a broken question cancel each other
    assert (grouped.outcomes.better_a, grouped.outcomes.better_b) == (8, 24)
    assert grouped.outcomes.p == pytest.approx(2 * 0.5**8) and alone.outcomes.p == pytest.approx(0.00700, abs=1e-5)
    assert compare_task(a, b, resample_by=("nobody",)).scores[0] == alone
    few = compare_task(side("a", "ax" * 6), side("b", "xx" * 6), resample_by=("image",)).scores[0]
    assert few.units == 6 and math.isnan(few.paired.p) and few.better == "" and few.paired.difference == 0.5


def test_only_common_items_are_compared():
    """fails when items that one system lacks change its score, or are not reported"""
    found = compare_task(side("a", "xxxx"), side("b", "xxaa", shift=2))
    assert (found.count, found.only_a, found.only_b) == (2, ("q0", "q1"), ("q4", "q5"))
    assert (found.scores[0].a, found.scores[0].b) == (1.0, 1.0)
    text = comparison_text([found])
    assert "2 common items; not compared: 2 only in A, 2 only in B" in text


def test_other_items_are_refused():
    """fails when answers to different data are compared because their ids are the same numbers"""
    with pytest.raises(DataError, match=r"no item of colors in common[\s\S]*'q0'[\s\S]*'q40'"):
        compare_task(side("a", "xx"), side("b", "xx", shift=40))
    with pytest.raises(DataError, match=r"2 of 2 common ids have other references in runs/b[\s\S]*\['x'\] and \['y'\]"):
        compare_task(side("a", "xx"), side("runs/b", "xx", references="y"))
    none = Side("b", "colors", items("xx"), lambda found: [mean_score("cider", [0.0] * len(found))], {})
    with pytest.raises(DataError, match=r"a has exact, errors, length, b has cider[\s\S]*--metrics"):
        compare_task(side("a", "xx"), none)


def test_items_without_a_score_do_not_count():
    """fails when an absent score is an outcome, or NaN reaches the JSON file"""

    def some(found: Sequence[Item]) -> list[Score]:
        return [mean_score("x", [None if item.id == "q0" else 1.0 for item in found]),
                Score("none", np.zeros((len(found), 2)), np.full(len(found), math.nan))]  # fmt: skip

    a, b = (Side(name, "colors", items("xxx"), some, {}) for name in "ab")
    found = compare_task(a, b)
    assert found.scores[0].count == 2 and found.scores[0].outcomes.equal == 2
    written = json.dumps(comparison_json("a", "b", [found], {}), allow_nan=False)
    assert json.loads(written)["tasks"]["colors"]["scores"]["none"]["a"] is None


def test_the_json_lists_every_change(found):
    """fails when a reader of the file cannot tell which items changed, or which test gave a p"""
    task = comparison_json("runs/a", "runs/b", [found], {"run.seed": ["1", "2"]})["tasks"]["colors"]
    assert [one["id"] for one in task["changed"]] == ["q0", "q1", "q2", "q3"]
    assert task["scores"]["exact"]["test_of_items"] == "mcnemar" and task["scores"]["length"]["test_of_items"] == "sign"
    assert task["scores"]["exact"]["b_better"] == 3 and task["groups"]["kind"]["odd"]["items"] == 5


def test_drawn_images_are_on_the_page(tmp_path: Path):
    """fails when the drawing that changed an outcome is not shown, or a path leaves the folder of the evaluation"""
    (tmp_path / "x.png").write_bytes(image_bytes("PNG"))

    def drawn(label: str, answers: str, name: str) -> Side:
        row = {"prediction": "", "drawings": [{"caption": "<a> cat", "image": name}]}
        return replace(side(label, answers), items=tuple(
            replace(item, row=row, folder=tmp_path) for item in items(answers)
        ))  # fmt: skip

    found = compare_task(drawn("a", "a", "x.png"), drawn("b", "x", "../x.png"))
    text = comparison_page([found], ("a", "b"), {})
    assert text.count("data:image/png") == 1 and text.count("&lt;a&gt; cat") == 2 and 'loading="lazy"' in text


def test_the_page_is_complete_and_safe(found):
    """fails when a changed item, a setting or a note is missing, or an answer becomes markup"""
    text = comparison_page([found], ("runs/<b>a", "runs/b"), {"model.size": ["<u>", "2"]}, ["A and B <differ>"])
    checked = Checker(text)
    assert checked.open == [] and all(url.startswith(("data:", "#")) for url in checked.fetched)
    assert "<i>Which</i>" not in text and "&lt;i&gt;Which&lt;/i&gt; 3?" in text and "&lt;u&gt;" in text
    assert "A and B &lt;differ&gt;" in text and "4 of 10 items changed" in text
    assert text.count('class="exchange wrong"') == 4 == text.count('class="exchange "')
    short = comparison_page([found], ("a", "b"), {}, items=1)
    assert "3 items · 1 of 3 shown" in short and short.count('class="exchange wrong"') == 2
