"""Does a model use each of its modalities? The questions of a task under the conditions of conditions.py.

    predictions_<task>.<condition>.jsonl   the questions whose prompt the condition changes, and their answers
    modalities_<task>.json                 the conditions that were made, and why others were not

Scoring reads these files alone, so that `chatbridge score` makes the table again with other metrics. The answers to the
other questions are those with all media.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

from chatbridge.common.errors import DataError
from chatbridge.common.log import get_logger
from chatbridge.common.safe_files import replace_text
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.tasks.base import Task
from chatbridge.tasks.modality_report.altered_questions import under
from chatbridge.tasks.modality_report.conditions import Condition, Kind, conditions, media_keys
from chatbridge.tasks.modality_report.table import Asked, modality_table
from chatbridge.tasks.prediction_lines import Prediction, predictions_path, read_rows, write_predictions
from chatbridge.tasks.scoring import Scored, drawn_with

log = get_logger(__name__)
Answers = Callable[[Task, Condition, Mapping[int, Prediction]], list[Prediction]]


def may_report(task: Task) -> bool:
    """Whether the settings of a task leave room for a report: `report.modalities`, or by default a data set with
    several modalities of which none is removed."""
    chosen = task.config.report.modalities
    if chosen is None:
        return len(frozenset(task.dataset.modalities)) > 1 and not task.config.drop_media
    return chosen


def conditions_of(task: Task, rows: Sequence[Prediction]) -> tuple[list[Condition], dict[str, str]]:
    """The conditions of a task, and name -> reason for those that cannot be made. Unless the settings ask for the
    report: none where no question has several modalities, or no answer can be scored.

    rows   the answers with all media: a question that could not be read is not asked again
    """
    by_default = task.config.report.modalities is None
    if not may_report(task) or (by_default and not any(row.get("references") for row in rows)):
        return [], {}
    media = media_keys(task.dataset, task.name, task.config.drop_media)
    if by_default and max((len(one) for one in media), default=0) < 2:
        return [], {}
    found, left_out = conditions(media, [row["index"] for row in rows if "problem" not in row])
    if not found:
        log.warning("%s: report.modalities is true, but no question that can be read has media", task.name)
    return found, left_out


def ask_under(
    task: Task, chosen: Iterable[Condition], rows: Sequence[Prediction], folder: Path, answers: Answers, writes: bool
) -> None:
    """Ask the questions of a task under each condition. Every rank calls it.

    rows      the answers with all media
    answers   (task under a condition, the condition, answers that are kept) -> an answer per question
    writes    whether this rank writes the files
    """
    full = {row["index"]: row for row in rows}
    for condition in chosen:
        asked = frozenset(condition.asked)
        altered = under(task, condition)
        kept = {index: row for index, row in full.items() if index not in asked}
        found = answers(altered, condition, kept)
        if writes:
            path = predictions_path(folder, altered.name)
            write_predictions(path, [row for row in found if row["index"] in asked])


def write_conditions(task: str, folder: Path, names: Sequence[str], left_out: Mapping[str, str]) -> None:
    """Write the list of the conditions of a task, after their files."""
    content = {"conditions": list(names), "left_out": dict(left_out)}
    replace_text(_list_path(folder, task), json.dumps(content, indent=1))


def remove_conditions(task: str, folder: Path) -> None:
    """Remove the files of an earlier report, whatever its list names: it may be torn, or from somebody else."""
    if _list_path(folder, task).is_file():
        for kind in get_args(Kind):
            for modality in MODALITIES.names():
                predictions_path(folder, f"{task}.{kind}_{modality}").unlink(missing_ok=True)
        _list_path(folder, task).unlink()


def modality_results(task: Task, scored: Scored, folder: Path) -> dict[str, Any] | None:
    """The table of a task from the files in its folder; None where it has none, or no score.

    scored   the answers with all media
    raises   DataError for a file that is missing, or whose questions are not those of the task
    """
    if scored.headline is None or not _list_path(folder, task.name).is_file():
        return None
    listed = _read_list(folder, task.name)
    left_out = dict(listed["left_out"])
    full = [dict(item.row) for item in scored.items]
    asked = [Asked(None, full, scored.scores[scored.headline])]
    for name in listed["conditions"]:
        rows, indices = _overlaid(full, predictions_path(folder, f"{task.name}.{name}"))
        found = task.scored(rows, folder).scores.get(scored.headline)
        if found is None:
            left_out[name] = f"no answer has the score {scored.headline}"
            continue
        kind, _, modality = name.partition("_")
        asked.append(Asked(Condition(cast(Kind, kind), modality, indices), rows, found))
    fields = task.config.resampled_together
    groups = [drawn_with(item, fields) for item in scored.items] if fields else None
    return modality_table(asked, left_out, groups, task.config.group_by)


def _overlaid(full: Sequence[Prediction], path: Path) -> tuple[list[Prediction], tuple[int, ...]]:
    """The rows with those of a condition in their places, and the indices of these."""
    if not path.is_file():
        raise DataError(f"{path} is missing; evaluate again, or remove the list of conditions beside it")
    own = {str(row["id"]): row for row in read_rows(path)}
    ids = [str(row["id"]) for row in full]
    if strange := own.keys() - set(ids):
        raise DataError(f"{path}: {len(strange)} questions, the first {min(strange)!r}, are not those of its task")
    changed = tuple(at for at, name in enumerate(ids) if name in own)
    return [own.get(name, row) for name, row in zip(ids, full, strict=True)], changed


def _list_path(folder: Path, task: str) -> Path:
    return folder / f"modalities_{task}.json"


def _read_list(folder: Path, task: str) -> dict[str, Any]:
    """raises DataError for a file of another shape"""
    path = _list_path(folder, task)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {"conditions": [str(name) for name in found["conditions"]], "left_out": dict(found["left_out"])}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: is no list of conditions ({type(error).__name__}); evaluate again") from None
