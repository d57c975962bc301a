"""Scores of replies, read strictly as released and tolerantly."""

from __future__ import annotations

import pytest

from chatbridge.review.scores import Scores, strict_scores, tolerant_scores


@pytest.mark.parametrize(
    ("reply", "strict", "tolerant"),
    [
        ("8 9\nAssistant 2 is better.", (8, 9), (8, 9)),
        ("7.5,6", (7.5, 6), (7.5, 6)),
        ("9, 8\nok", None, (9, 8)),
        ("8  9", None, (8, 9)),
        (" 8 9 \n", None, (8, 9)),
        ("8\t9", None, (8, 9)),
        ("\n8 9", None, (8, 9)),
        ("8/10 9/10", None, (8, 9)),
        ("8 out of 10 and 9 out of 10", None, (8, 9)),
        ("[8, 9]", None, (8, 9)),
        ("**8 9**", None, (8, 9)),
        ("```\n8 9\n```", None, (8, 9)),
        ("Assistant 1: 8\nAssistant 2: 9\nBecause", None, (8, 9)),
        ("Assistant 2: 9, Assistant 1: 8", None, (8, 9)),
        ("Assistant 1 - 8, Assistant 2 - 9", None, (8, 9)),
        ("First I solve it: 4.\nBoth agree on step 3.\n(7, 8)", None, (7, 8)),
        ("0 10", (0, 10), (0, 10)),
    ],
)
def test_usual_spellings(reply: str, strict: Scores | None, tolerant: Scores | None):
    """fails when strict reading differs from the released script, or tolerant reading loses a usual spelling"""
    assert strict_scores(reply) == strict and tolerant_scores(reply) == tolerant


@pytest.mark.parametrize(
    "reply",
    ["", "no numbers", "8 9 10", "8", "Assistant 1: 8\nbad", "8-9", "8 - 9\nreason", "80/100 90/100", "7,5 8", "8% 9%",
     "nan nan", "inf 9", "-1 -1", "I compared 2 assistants over 5 criteria.", "Of 2 answers, 1 is right.",
     "Assistant 1: 8, Assistant 1: 9", "The box is at (0.1, 0.9) in the image.", "[8, 9, 7]"],
)  # fmt: skip
def test_nothing_is_guessed(reply: str):
    """fails when a reply without exactly two scores gets some, or a mark of the released files is taken for a score"""
    assert tolerant_scores(reply) is None
    assert strict_scores(reply) is None


def test_scores_outside_the_scale():
    """fails when tolerant reading takes values that are no scores from 0 to 10; strict reading does, as released"""
    assert strict_scores("80 90") == (80, 90) and tolerant_scores("80 90") is None
