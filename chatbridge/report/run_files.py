"""The files of a finished run, checked: a run folder may come from another person, another version, or a crash.

A line of a JSON Lines file that has a different shape is left out with a warning; any other file is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from chatbridge.common.errors import DataError
from chatbridge.common.file_kind import read_json_object
from chatbridge.common.log import get_logger
from chatbridge.common.safe_files import read_json_lines
from chatbridge.config.merge import load
from chatbridge.experiment.open import use_plugins
from chatbridge.runners.run_folder import HELD_OUT
from chatbridge.tasks import Prediction
from chatbridge.tasks.prediction_lines import as_prediction
from chatbridge.tasks.scores_file import with_scores

log = get_logger(__name__)


def read_metrics(path: Path) -> dict[str, Mapping[str, Any]]:
    """Task -> its metrics, of a metrics.json.

    raises   DataError for a file of another shape, with the entry
    """
    results = read_json_object(path)
    for name, metrics in results.items():
        if not isinstance(metrics, dict) or not _is_summary(metrics):
            raise DataError(
                f"{path}: the entry {name[:80]!r} is not the result of a task, which has a metric and its score; "
                "run the evaluation again"
            )
    return results


def read_task_nodes(path: Path) -> dict[str, Mapping[str, Any]]:
    """Task -> its settings, of a resolved.yaml, whose plugins are added.

    raises   ConfigError or DataError for a file of another shape, with the entry
    """
    node: Any = load(path)[0]
    use_plugins(node, path)
    for key in ("evaluation", "tasks"):
        node = node.get(key) or {}
        if not isinstance(node, Mapping):
            raise DataError(f"{path}: {key} is not a mapping, found a {type(node).__name__}")
    for name, task in node.items():
        if task is not None and not _is_task(task):
            raise DataError(f"{path}: evaluation.tasks.{name} is not the settings of a task")
    return {str(name): task or {} for name, task in node.items()}


def read_answers(path: Path, scores: Path) -> tuple[Prediction, ...]:
    """The lines of a predictions_*.jsonl, each with `scores`, from the file of scores or, of earlier versions, its own.

    raises   DataError for a file of scores of another shape
    """
    return tuple(with_scores(_lines(path, _is_answer, as_prediction), scores))


def read_steps(path: Path) -> tuple[Mapping[str, Any], ...]:
    """The lines of a metrics.jsonl that have a loss; a run may still append to it."""
    return tuple(record for record in _lines(path, _is_record) if "loss" in record)


def read_score_lines(path: Path) -> tuple[Mapping[str, Any], ...]:
    """The lines of a scores.jsonl that have scores: those of validations and evaluations at steps."""
    lines = _lines(path, lambda line: is_number(line.get("step")))
    return tuple(line for line in lines if HELD_OUT not in line)


def read_seconds(path: Path) -> dict[str, float]:
    """Step -> measured seconds, of a wall_s.json."""
    return {step: float(seconds) for step, seconds in read_json_object(path).items() if is_number(seconds)}


def _lines(
    path: Path, fits: Callable[[dict[str, Any]], bool], read: Callable[[dict[str, Any]], dict[str, Any]] = dict
) -> tuple[dict[str, Any], ...]:
    found = read_json_lines(path)
    if found.note:
        log.warning("%s: %s", path, found.note)
    kept = tuple(record for record in map(read, found.records) if fits(record))
    if left_out := len(found.records) - len(kept):
        log.warning("%s: %d lines do not have the entries that runs write and are left out", path, left_out)
    return kept


def _is_summary(metrics: Mapping[str, Any]) -> bool:
    name = metrics.get("metric")
    is_scored = isinstance(name, str) and is_number(metrics.get(name))
    measured = metrics.get("measured", {})
    counts = [metrics.get("unreadable", 0), *(measured.values() if isinstance(measured, dict) else [None])]
    return (name is None or is_scored) and all(map(_is_count, counts))


def _is_task(node: Any) -> bool:
    if not isinstance(node, Mapping):
        return False
    lists = (node.get("drop_media") or (), node.get("group_by") or ())
    return all(map(_is_texts, lists)) and _is_report(node.get("report") or {})


def _is_report(node: Any) -> bool:
    """Whether this is the `report` section of a task (tasks.base.ReportSettings)."""
    if not isinstance(node, Mapping):
        return False
    target = node.get("target")
    is_target = target is None or is_number(target)
    return is_target and isinstance(node.get("title", ""), str) and _is_texts(node.get("answer_parts") or ())


def _is_answer(row: Mapping[str, Any]) -> bool:
    scores, texts = row.get("scores", {}), (row.get("question"), row.get("prediction"))
    return (
        _is_count(row.get("index"))
        and _is_texts(texts)
        and _is_texts(row.get("references"))
        and isinstance(scores, dict)
        and all(map(is_number, scores.values()))
        and isinstance(row.get("details"), dict)
    )


def _is_record(record: Mapping[str, Any]) -> bool:
    if "loss" not in record:
        return True
    sources = record.get("per_source", {})
    losses = sources.values() if isinstance(sources, dict) else ["not a mapping"]
    numbers = (record.get("step"), record["loss"], record.get("seconds", 0.0))
    return all(map(is_number, numbers)) and all(loss is None or is_number(loss) for loss in losses)


def is_number(value: Any) -> bool:
    """True for an int or a float; a bool is not a number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value)
