"""What the receipts of two evaluations say: the same numbers are expected, or which settings explain a difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chatbridge.common.errors import DataError
from chatbridge.report.comparison.sides import ComparedRun, ComparedTask
from chatbridge.tasks.receipt import (
    Receipt,
    changed_predictions,
    differences,
    environment_differences,
    read_receipt,
)

NOT_SET = "(not set)"


@dataclass(frozen=True)
class ReceiptComparison:
    """Two receipts.

    rows      "part: setting" -> its values in a and in b, of those that differ
    equal     tasks whose receipts are the same
    is_whole  whether both sides have a receipt of every compared task
    """

    rows: Mapping[str, tuple[str, str]]
    equal: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    is_whole: bool = False


def compare_receipts(
    a: ComparedRun, b: ComparedRun, pairs: Sequence[tuple[ComparedTask, ComparedTask]]
) -> ReceiptComparison:
    """The receipts of the compared tasks."""
    notes: list[str] = []
    here, there = _read("A", a, notes), _read("B", b, notes)
    if here is None or there is None:
        return ReceiptComparison({}, notes=tuple(notes))
    rows: dict[str, tuple[str, str]] = {}
    equal, is_whole = [], True
    for first, second in pairs:
        mine, other = here.tasks.get(first.base), there.tasks.get(second.base)
        if mine is None or other is None:
            is_whole = False
            continue
        found = differences(mine, other)
        if not found and first.condition == second.condition:
            equal.append(first.name)
        for one in found:
            name = f"{one.part}: {one.setting.removeprefix(f'{one.part}.')}"
            values = (_shown(one.here), _shown(one.there))
            rows.setdefault(name if rows.get(name, values) == values else f"{first.name}, {name}", values)
    if equal:
        notes.append(f"same receipt, so the same numbers are expected: {', '.join(equal)}")
    if environment := environment_differences(here, there):
        notes.append(
            "environment, in no hash: " + "; ".join(str(one).removeprefix("environment: ") for one in environment)
        )
    return ReceiptComparison(rows, tuple(equal), tuple(notes), is_whole)


def _read(side: str, run: ComparedRun, notes: list[str]) -> Receipt | None:
    """The receipt of a side; one that cannot be used is noted."""
    if run.folder is None:
        return None
    try:
        receipt = read_receipt(run.folder)
    except DataError as error:
        notes.append(f"the receipt of {side} is not used: {error}")
        return None
    if receipt is not None and (changed := changed_predictions(run.folder, receipt)):
        used = [name for name in changed if name in run.tasks]
        notes += [f"{side}: the predictions of {name} are not the ones of its receipt" for name in used]
    return receipt


def _shown(value: Any) -> str:
    return NOT_SET if value is None else str(value)
