"""Choices by generated letter, by likelihood, and over all rotations of the options."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest

from chatbridge.common.errors import DataError
from chatbridge.tasks.metrics.base import METRICS, Item, Score

OPTIONS = {"A": "a red circle", "B": "a blue disc", "C": "neither"}


def item(
    number: int, prediction: str = "", answer: str | None = "A", problem: str | None = None, **details: Any
) -> Item:
    row = {key: details.pop(key) for key in ("option_logprobs", "option_tokens") if key in details}
    known = {} if answer is None else {"answer": answer}
    return Item(str(number), prediction, (), {"options": OPTIONS, **known, **details}, row, problem)


def scored(name: str, items: list[Item], **settings: Any) -> Mapping[str, Score]:
    kind: Any = METRICS.get(name)
    metric = kind(kind.Config(**settings))
    found = metric.scores(items)
    assert tuple(score.name for score in found) == tuple(metric.names)
    return {score.name: score for score in found}


def test_an_answer_is_read_by_the_rules_of_choice() -> None:
    """fails when an answer without a choice, or an unreadable item, leaves the denominator, or a test item enters it"""
    items = [item(0, "A"), item(1, "The answer is (B)."), item(2, "a blue disc", "B"), item(3, "no idea"),
             item(4, "", problem="no image"), item(5, "A", ""), item(6, "", "", problem="no image")]  # fmt: skip
    score = scored("choice_letter", items)["choice_letter"]
    assert score.per_item.tolist()[:5] == [1.0, 0.0, 1.0, 0.0, 0.0]
    assert score.value == pytest.approx(2 / 5) and score.measured == 5
    assert all(map(math.isnan, score.per_item.tolist()[5:]))


def test_the_options_of_anybodys_file() -> None:
    """fails when a list of options, a reference in place of details.answer, or its text is not understood"""
    listed = {"options": list(OPTIONS.values())}
    for reference in ("B", "b", "A blue disc."):
        one = Item("1", "(b)", (reference,), {}, listed)
        assert scored("choice_letter", [one])["choice_letter"].value == 1.0
    unknown = Item("1", "(b)", (), {}, listed)
    assert scored("choice_letter", [unknown])["choice_letter"].measured == 0
    with pytest.raises(DataError, match="item '1': its answer 'green' is not one of its options"):
        scored("choice_letter", [Item("1", "(b)", ("green",), {}, listed)])
    for options in (None, "red or blue", ["red"], {"AB": "x", "C": "y"}):
        with pytest.raises(DataError, match="item '1' has .* options.*: a metric of choices needs"):
            scored("choice_letter", [Item("1", "A", ("A",), {"options": options} if options else {})])


def test_the_most_likely_option() -> None:
    """fails when lengths are not divided by, ties have no order, or an item is left out"""
    logprobs = {"A": -4.0, "B": -3.0, "C": -3.0}
    tokens = {"A": 4, "B": 2, "C": 1}
    items = [
        item(number, answer=answer, option_logprobs=logprobs, option_tokens=tokens)
        for number, answer in enumerate("ABC")
    ]
    items.append(item(3, problem="no image"))
    found = scored("choice_likelihood", items)
    assert found["choice_likelihood"].per_item.tolist() == [0.0, 1.0, 0.0, 0.0]
    assert found["choice_likelihood_normalised"].per_item.tolist() == [1.0, 0.0, 0.0, 0.0]
    by_text = scored("choice_likelihood", items, by="characters")["choice_likelihood_normalised"]
    assert by_text.per_item.tolist() == [0.0, 1.0, 0.0, 0.0]  # -4 / 12, -3 / 11, -3 / 7
    for wrong in (dict[str, Any](), {"option_logprobs": {"A": -1.0}}, {"option_logprobs": "A"}):
        with pytest.raises(DataError, match="item '0' has .*option_logprobs.*choice_letter"):
            scored("choice_likelihood", [item(0, **wrong)])


def rotations(base: str, predictions: str, **changed: Any) -> list[Item]:
    """The three rotations of a question whose answer is A, C, B."""
    return [
        item(copy, prediction, answer, None, base=base, copy=copy, **changed)
        for copy, (prediction, answer) in enumerate(zip(predictions, "ACB", strict=True))
    ]


def test_a_question_is_correct_in_every_rotation() -> None:
    """fails when one wrong rotation is enough, questions or prompts mix, or a question counts several times"""
    items = [
        *rotations("7", "ACB"),
        *rotations("8", "ACC"),
        *rotations("9", "CCB"),
        *rotations("7", "BCB", prompt=2, item="7"),
    ]
    found = scored("circular", items)
    assert found["circular"].value == pytest.approx(1 / 4) and found["circular"].measured == 4
    assert found["circular"].per_item.tolist()[0::3] == [1.0, 0.0, 0.0, 0.0]
    assert found["unrotated"].value == pytest.approx(2 / 4) and found["unrotated"].measured == 4
    unknown = [item(copy, "A", "", base="70", copy=copy) for copy in range(3)]
    assert scored("circular", [*items, *unknown])["circular"].measured == 4
    likely: Any = {"option_logprobs": {"A": -1.0, "B": -2.0, "C": -3.0}, "option_tokens": dict.fromkeys(OPTIONS, 1)}
    by_likelihood = scored("circular", rotations("7", "ACB", **likely), of=("choice_letter", "choice_likelihood"))
    assert [score.value for score in by_likelihood.values()] == [1.0, 1.0, 0.0, 1.0]
    assert list(by_likelihood) == ["circular", "unrotated", "circular_likelihood", "unrotated_likelihood"]


def test_missing_rotations_are_reported() -> None:
    """fails when a question is correct because its other rotations were never asked"""
    with pytest.raises(DataError, match=r"question '7' has the rotations \[0, 1\] of 3 options"):
        scored("circular", rotations("7", "ACB")[:2])
    with pytest.raises(DataError, match="item '0' has no `base` and `copy`"):
        scored("circular", [item(0, "A")])
    assert all(not one.measured for one in scored("circular", [item(0, "A")], optional=True).values())
