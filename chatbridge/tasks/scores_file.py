"""The scores of an evaluation: scores_<task>.json, beside the predictions that they are made from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from chatbridge.common.errors import DataError
from chatbridge.common.safe_files import replace_text
from chatbridge.tasks.metrics.base import Unit
from chatbridge.tasks.prediction_lines import Prediction
from chatbridge.tasks.score_text import is_score
from chatbridge.tasks.scoring import Scored


def scores_path(folder: Path, task: str) -> Path:
    return folder / f"scores_{task}.json"


def scores_content(scored: Scored, intervals: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a file of scores.

    headline       name of the first score
    scores         name -> value
    score_info     name -> its unit, and whether higher is better
    intervals      name -> [low, high]
    count          items, the unreadable ones included
    measured       name -> how many items have the score
    unreadable     reason -> how many items have no answer because of it
    notes          what may be a mistake in the file -> how many items: empty answers, references without words
    without_score  the metrics that give none
    per_item       name -> id -> value; last, for people who open the file
    """
    info = {
        name: {"unit": one.unit, "higher_is_better": one.higher_is_better}
        for name in scored.values
        for one in [scored.scores[name]]
    }
    return {
        "headline": scored.headline,
        "scores": scored.values,
        "score_info": info,
        "intervals": dict(intervals),
        "count": len(scored.items),
        "measured": scored.measured,
        "unreadable": scored.unreadable,
        "answers": scored.counts,
        "notes": scored.notes,
        "without_score": scored.without_score,
        "per_item": scored.per_item(),
    }


def write_scores(path: Path, scored: Scored, intervals: Mapping[str, Any]) -> None:
    """Write a file of scores atomically. raises OSError that names the file"""
    replace_text(path, json.dumps(scores_content(scored, intervals), indent=1, ensure_ascii=False))


def with_scores(rows: Sequence[Mapping[str, Any]], path: Path) -> list[Prediction]:
    """The lines with `scores`, name -> value of each item, from the file of scores beside them.

    path    scores_<task>.json; without it, the lines are of an earlier version, which have their own
    raises  DataError for a file of another shape, or that is missing
    """
    if not path.is_file():
        if any("scores" not in row for row in rows):
            raise DataError(f"{path} is missing; `chatbridge score {path.parent}` writes it")
        return [dict(row) for row in rows]
    per_item = read_scores(path)["per_item"]
    return [
        {
            **row,
            "scores": {name: values[key] for name, values in per_item.items() if (key := str(row.get("id"))) in values},
        }
        for row in rows
    ]


def read_scores(path: Path) -> dict[str, Any]:
    """The content of a file of scores. raises DataError for a file of another shape"""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read ({error}); `chatbridge score` writes it again") from None
    if not isinstance(found, dict) or not all(isinstance(found.get(key), dict) for key in ("scores", "per_item")):
        raise DataError(f"{path}: is no file of scores, which has `scores` and `per_item`")
    per_item = found["per_item"].values()
    if not all(isinstance(one, dict) and all(map(is_score, one.values())) for one in per_item):
        raise DataError(f"{path}: `per_item` is not name -> id -> number; `chatbridge score` writes it again")
    info = found.get("score_info", {})
    if not all(map(is_score, found["scores"].values())):
        raise DataError(f"{path}: `scores` is not name -> number; `chatbridge score` writes it again")
    if not isinstance(info, dict) or not all(map(_is_info, info.values())):
        raise DataError(
            f"{path}: `score_info` is not name -> unit, higher_is_better; `chatbridge score` writes it again"
        )
    return found


def _is_info(value: Any) -> bool:
    is_right = isinstance(value, dict) and isinstance(value.get("higher_is_better", True), bool)
    return is_right and value.get("unit", "fraction") in get_args(Unit)
