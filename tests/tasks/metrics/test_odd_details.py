"""Metrics given details of the wrong type: an error that names the item, never a traceback or a silent number."""

from __future__ import annotations

from typing import Any

import pytest

from chatbridge.common.errors import DataError
from chatbridge.tasks.metric_settings import built_metrics
from chatbridge.tasks.metrics.base import Item
from chatbridge.tasks.metrics.judge import verdict
from chatbridge.tasks.scoring import Scored

OPTIONS = {"A": "red", "B": "dog"}
DETAILS = {"options": OPTIONS, "answer": "A", "base": "q", "copy": 0, "subject": "color", "image": "a.jpg"}
LINE = {"option_logprobs": {"A": -1.0, "B": -2.0}, "option_tokens": {"A": 1, "B": 1}}


@pytest.mark.parametrize(("metric", "details", "row"), [
    ("mme", {"answer": ["yes"]}, {}),
    ("mmbench", {"answer": 3}, {}),
    ("mmbench", {"options": ["red", "dog"]}, {}),
    ("mmbench", {"options": {"A": 1, "B": None}}, {}),
    ("mmbench", {"copy": "no"}, {}),
    ("circular", {"copy": float("nan")}, {}),
    ("circular", {"copy": True}, {}),
    ("circular", {"options": None}, {}),
    ("names_all", {"must_name": "red"}, {}),
    ("names_all", {"must_name": [1]}, {}),
    ("choice_likelihood", {}, {"option_logprobs": {"A": float("nan"), "B": -1.0}}),
    ("choice_likelihood", {}, {"option_logprobs": {"A": True, "B": -1.0}}),
    ("choice_likelihood", {}, {"option_logprobs": {"A": 10**400, "B": -1.0}}),
    ("choice_likelihood", {}, {"option_tokens": {"A": float("nan"), "B": 1}}),
])  # fmt: skip
def test_an_odd_value_is_named(metric: str, details: dict[str, Any], row: dict[str, Any]):
    """fails when a value of the wrong type ends in a traceback, or gives a score"""
    item = Item("odd", "A", ("A",), {**DETAILS, **details}, {**LINE, **row})
    with pytest.raises(DataError, match="'odd'|'q'"):
        _ = Scored.of(built_metrics({metric: {}}), [item]).values


@pytest.mark.parametrize("metric", ["mme", "mmbench", "choice_likelihood"])
def test_odd_names_of_groups(metric: str):
    """fails when an id of an image or a question that is no text ends in a traceback"""
    odd = {"base": ["q"], "image": {"name": "a.jpg"}, "subject": 1, "answer": "A"}
    item = Item("odd", "A", ("A",), {**DETAILS, **odd}, {**LINE, "option_logprobs": {"A": -1.0, "B": float("-inf")}})
    assert Scored.of(built_metrics({metric: {}}), [item]).values


def test_a_judge_with_a_number_beyond_all_floats():
    """fails when a reply of a judge ends the scoring"""
    assert verdict('{"correct": "yes", "score": 1' + "0" * 400 + "}") is None
