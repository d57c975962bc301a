"""Scores that several answers have together: all questions about an image, all rotations of the options of a question.

The score of a group is 1 if every answer of it is correct. It belongs to the first item of the group, so that a mean
over items counts each group once.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any


def all_correct(values: Sequence[float | None], groups: Sequence[Hashable]) -> list[float | None]:
    """At the first item of every group whose items all have a value: the smallest of them; None elsewhere.

    groups   a label per item
    """
    members: dict[Hashable, list[int]] = {}
    for at, group in enumerate(groups):
        members.setdefault(group, []).append(at)
    found: list[float | None] = [None] * len(values)
    for places in members.values():
        own = [value for at in places if (value := values[at]) is not None]
        if len(own) == len(places):
            found[places[0]] = min(own)
    return found


def prompt_number(details: Mapping[str, Any]) -> int:
    """Number of the prompt that a line was asked with, from 1; 1 without several prompts (tasks/several_prompts.py)."""
    number = details.get("prompt")  # a field of some annotations too, which have no `item`
    return number if "item" in details and isinstance(number, int) else 1


def asked_item(item_id: str, details: Mapping[str, Any]) -> str:
    """The id in the data set of the question of a line: that of its first prompt, with several prompts."""
    return str(details["item"]) if "item" in details and isinstance(details.get("prompt"), int) else item_id
