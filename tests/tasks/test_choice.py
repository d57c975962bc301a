"""Which option an answer chooses."""

from __future__ import annotations

import pytest

from chatbridge.tasks.metrics.choice import RULES, chosen_option
from chatbridge.tasks.metrics.shared import all_correct

OPTIONS = {"A": "red", "B": "dark red", "C": "A red circle and a disc", "D": "None of these"}


@pytest.mark.parametrize(("answer", "letter", "rule"), [
    ("B", "B", "letter"), (" (b) ", "B", "letter"), ("**C**.", "C", "letter"), ("a", "A", "letter"),
    ("E", None, "none"), ("", None, "none"), ("  ", None, "none"), ("?", None, "none"),
    ("The answer is B", "B", "phrase"), ("Answer: C because A is wrong", "C", "phrase"),
    ("The correct option is (D).", "D", "phrase"), ("my choice: A", "A", "phrase"),
    ("The answer is a dark red one", "B", "text"), ("B. dark red", "B", "letters"), ("A. red", "A", "letters"),
    ("I would take B", "B", "letters"), ("A is right", "A", "letters"), ("A dark red thing", "B", "text"),
    ("A or B", None, "none"), ("A, B, C and D are all possible", None, "none"), ("Both A and red", "A", "letters"),
    ("It is Dark Red.", "B", "text"), ("red", "A", "text"), ("bored", None, "none"), ("none of these", "D", "text"),
    ("A red circle and a disc", "C", "text"), ("red, none of these", None, "none"), ("E is right", None, "none"),
    ("It's an A-frame, dark red", "B", "text"), ("B\nExplanation: A is wrong", "B", "letter"),
    ("answer: a", "A", "phrase"), ("The answer is b.", "B", "phrase"), ("The answer is a", None, "none"),
    ("the answer is a dark red one", "B", "text"), ("Answer: a red one", "A", "text"),
])  # fmt: skip
def test_rules(answer: str, letter: str | None, rule: str):
    """fails when an answer is read as another option, or a guess is made where several fit"""
    assert rule in RULES
    assert chosen_option(answer, OPTIONS) == (letter, rule)


def test_equal_and_empty_options():
    """fails when one of two equal options is chosen, or an option without words fits every answer"""
    assert chosen_option("it is red", {"A": "red", "B": "Red."}) == (None, "none")
    assert chosen_option("3 is more", {"A": "+", "B": "-"}) == (None, "none")
    assert chosen_option("It has 10 legs", {"A": "1", "B": "10"}) == ("B", "text")


def test_a_group_is_correct_if_all_of_it_is():
    """fails when a group's score is a mean, is counted per answer, or counts a group without scores"""
    assert all_correct([1.0, 1.0, 0.0, 1.0, None], ["a", "b", "a", "b", "c"]) == [0.0, 1.0, None, None, None]
