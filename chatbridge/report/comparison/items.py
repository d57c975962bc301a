"""The items that two systems have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from chatbridge.common.errors import DataError
from chatbridge.tasks.metrics.base import Item, Score

SHOWN = 3  # ids in a message


@dataclass(frozen=True)
class Side:
    """The answers of one system to one task.

    label    the folder or file as the user named it
    task     its name
    items    in the order of the file, with distinct ids
    score    the scores of some of the items, the headline first
    node     settings of the task, from resolved.yaml; empty: not known
    folder   of its files, for drawn images; None: not known
    """

    label: str
    task: str
    items: tuple[Item, ...]
    score: Callable[[Sequence[Item]], Sequence[Score]]
    node: Mapping[str, Any]
    folder: Path | None = None


def common_items(a: Side, b: Side) -> tuple[list[tuple[Item, Item]], tuple[str, ...], tuple[str, ...]]:
    """The items of both sides in the order of a, and the ids of either side alone.

    raises   DataError if there is none, or the references of an id differ
    """
    of_a, of_b = {item.id: item for item in a.items}, {item.id: item for item in b.items}
    common = [item_id for item_id in of_a if item_id in of_b]
    if not common:
        raise DataError(
            f"{a.label} and {b.label} have no item of {a.task} in common: {len(of_a)} ids such as {_some(of_a)}, and "
            f"{len(of_b)} such as {_some(of_b)}; compare answers to the same data"
        )
    other = [name for name in common if _differ(of_a[name].references, of_b[name].references)]
    if other:
        shown = " and ".join(repr(list(side[other[0]].references)) for side in (of_a, of_b))
        raise DataError(
            f"{a.task}: {len(other)} of {len(common)} common ids have other references in {b.label} than in {a.label}, "
            f"first {other[0]!r}: {shown}. They are different items; compare answers to the same data, or remove "
            "these lines from both files"
        )
    lonely = [tuple(name for name in own if name not in others) for own, others in ((of_a, of_b), (of_b, of_a))]
    return [(of_a[name], of_b[name]) for name in common], lonely[0], lonely[1]


def with_references(item: Item, other: Item) -> Item:
    """The item; one without references, as in a file of answers alone, gets those of the other side."""
    return item if item.references or not other.references else replace(item, references=other.references)


def _differ(a: Sequence[str], b: Sequence[str]) -> bool:
    """Whether two items have other references; a file of scores has none."""
    return bool(a and b) and sorted(a) != sorted(b)


def _some(ids: Mapping[str, Item]) -> str:
    return ", ".join(repr(one) for one in list(ids)[:SHOWN]) or "(none)"
