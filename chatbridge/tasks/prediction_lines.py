"""The answers of an evaluation: predictions_<task>.jsonl, a line per question.

    {"index": 0, "id": "a", "question": "Which color?", "prediction": "red", "references": ["red"], "details": {}}

A line of a question that could not be answered has the reason as `problem`. Earlier versions wrote `answer` for
`prediction`, and the scores into the lines; readers accept both.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from chatbridge.common.errors import DataError, nearest, some
from chatbridge.common.safe_files import replace_text
from chatbridge.common.text_repair import repaired, repaired_value
from chatbridge.tasks.metrics.base import Item

Prediction = dict[str, Any]  # a line of the file
MOST_COMPARED = 2000  # ids among which the nearest one is looked for
FORM = 'a line is {"id": "a", "prediction": "a red cat", "references": ["a cat that is red"]}'


def predictions_path(folder: Path, task: str) -> Path:
    return folder / f"predictions_{task}.jsonl"


def write_predictions(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a line of JSON per prediction, atomically, with lone surrogates replaced."""
    lines = (json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
    replace_text(path, repaired("".join(lines)))


def as_prediction(row: Mapping[str, Any]) -> Prediction:
    """A line of any version with today's names."""
    if "prediction" in row or "answer" not in row:
        return dict(row)
    return {"prediction" if key == "answer" else key: value for key, value in row.items()}


def read_rows(path: Path) -> list[Prediction]:
    """The checked lines of a file of predictions, ours or anybody's.

    raises   DataError that names the line: not JSON, no id, no prediction, references that are no texts, an id twice
    """
    return [{"index": index, **row} for index, row in enumerate(_checked(path, _row))]


def read_references(path: Path) -> dict[str, dict[str, Any]]:
    """Id -> the line of a file of references, {"id", "references": [...]}, with `details` where it has some.

    raises   DataError that names the line, as `read_rows` does
    """
    found = {row["id"]: row for row in _checked(path, _checked_fields)}
    return {key: {name: row[name] for name in ("references", "details")} for key, row in found.items()}


def with_references(
    rows: Sequence[Prediction], references: Mapping[str, Mapping[str, Any]], path: Path
) -> list[Prediction]:
    """The lines with the references of another file. An item of that file without a prediction counts as unreadable.

    path     of the references, for messages
    raises   DataError for predictions of ids that the file does not have
    """
    unknown = [row["id"] for row in rows if row["id"] not in references]
    if unknown:
        close = nearest(unknown[0], list(references)[:MOST_COMPARED])
        guess = f" (did you mean {close!r}?)" if close else ""
        raise DataError(
            f"{path}: has no references for {len(unknown)} of {len(rows)} predictions: {some(unknown)}{guess}; "
            "remove those predictions, or name the file of this data set"
        )
    given = {row["id"] for row in rows}
    found = [{**row, **{name: one for name, one in references[row["id"]].items() if one}} for row in rows]
    missing = [key for key in references if key not in given]
    absent = [{"id": key, "prediction": "", "problem": "no prediction", **references[key]} for key in missing]
    return [{**row, "index": index} for index, row in enumerate([*found, *absent])]


def _checked(path: Path, read: Callable[[str, dict[str, Any]], Prediction]) -> list[Prediction]:
    """The lines of a file as `read(place, line)` gives them, whose ids must differ."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 (byte {error.start}); expected JSON lines: {FORM}") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; expected a file of JSON lines: {FORM}") from None
    rows: list[Prediction] = []
    first: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        row = read(place, _object(place, line))
        if (before := first.setdefault(row["id"], number)) != number:
            raise DataError(f"{place}: the id {row['id']!r} is used already on line {before}; every item needs its own")
        rows.append(row)
    if not rows:
        raise DataError(f"{path}: has no lines; {FORM}")
    return rows


def _object(place: str, line: str) -> dict[str, Any]:
    try:
        found = json.loads(line, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: is not JSON ({error}); {FORM}") from None
    if not isinstance(found, dict):
        raise DataError(f"{place}: expected a JSON object, got a {type(found).__name__}; {FORM}")
    return repaired_value(found)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """raises ValueError for a name that an object has twice, of which JSON readers keep one without a word"""
    found = dict(pairs)
    if len(found) < len(pairs):
        repeated = next(name for number, (name, _) in enumerate(pairs) if name in dict(pairs[:number]))
        raise ValueError(f"{repeated!r:.80} is there twice")
    return found


def _checked_fields(place: str, row: dict[str, Any]) -> Prediction:
    key = row.get("id")
    if not isinstance(key, (str, int)) or isinstance(key, bool) or not str(key).strip():
        raise DataError(f"{place}: has no usable `id` ({key!r}); {FORM}")
    return {**row, "id": str(key), "references": _texts(place, row), "details": _details(place, row)}


def _row(place: str, row: dict[str, Any]) -> Prediction:
    row = as_prediction(row)
    if "problem" in row:  # ours is a text without a prediction; any other belongs to somebody else's file
        reason = row["problem"]
        is_ours = isinstance(reason, str) and bool(reason.strip()) and not row.get("prediction")
        row = {**({"prediction": ""} if is_ours else {}), **row, "problem": reason if is_ours else None}
    if not isinstance(row.get("prediction"), str):
        got = f"is {row['prediction']!r}" if "prediction" in row else f"is missing among {some(list(row), 5)}"
        raise DataError(f"{place}: `prediction` {got}; expected a text. {FORM}")
    return _checked_fields(place, row)


def _texts(place: str, row: Mapping[str, Any]) -> list[str]:
    """The references of a line, [] without any. raises DataError where they are no texts"""
    found = row.get("references")
    found = [found] if isinstance(found, str) and found else found
    found = [] if found is None or found == "" else found
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise DataError(f"{place}: `references` is {found!r:.80}; expected a list of texts. {FORM}")
    return found


def _details(place: str, row: Mapping[str, Any]) -> dict[str, Any]:
    found = row.get("details") or {}
    if not isinstance(found, dict):
        raise DataError(f"{place}: `details` is {found!r:.80}; expected an object with the fields of the annotation")
    return found


def items_of(rows: Iterable[Mapping[str, Any]], folder: Path | None = None) -> list[Item]:
    """The lines as metrics read them. folder: of the file"""
    return [
        Item(
            id=str(row["id"]),
            prediction=row["prediction"],
            references=tuple(row.get("references") or ()),
            details=row.get("details") or {},
            row=row,
            problem=row.get("problem"),
            folder=folder,
        )
        for row in rows
    ]
