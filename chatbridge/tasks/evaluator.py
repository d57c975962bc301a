"""Runs all tasks of an evaluation with one model, and writes predictions, scores and results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chatbridge.common.dist import Dist
from chatbridge.common.errors import DataError
from chatbridge.common.log import get_logger
from chatbridge.common.safe_files import replace_text
from chatbridge.conversation.layout import Layout
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.drawing import Artist
from chatbridge.processors.media_processor import with_limits
from chatbridge.tasks import Prediction, Task, predictions
from chatbridge.tasks.config import EvaluationConfig
from chatbridge.tasks.drawn_answers import DrawingFolder, Drawings, num_undrawn
from chatbridge.tasks.modality_report.conditions import Condition
from chatbridge.tasks.modality_report.report import (
    ask_under,
    conditions_of,
    modality_results,
    remove_conditions,
    write_conditions,
)
from chatbridge.tasks.modality_report.table import modality_lines
from chatbridge.tasks.partial_answers import PartialAnswers
from chatbridge.tasks.prediction_lines import predictions_path, read_rows, write_predictions
from chatbridge.tasks.score_text import is_score, score_text
from chatbridge.tasks.scores_file import scores_path, write_scores

log = get_logger(__name__)
METRICS = "metrics.json"


class Evaluator:
    """Runs tasks and writes, in this order,

    predictions_<task>.jsonl   a line per question: what was generated, without scores
    scores_<task>.json         scores made from that file alone, with those of every item
    metrics.json               task -> results, with intervals, groups, and which modalities the model uses

    Every rank calls it; rank 0 writes. metrics.json is written last, so a folder that has one is complete.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task],
        model: ChatModel,
        layout: Layout,
        dist: Dist,
        config: EvaluationConfig,
        artist: Artist | None = None,
        made_with: Mapping[str, Any] | None = None,
        reports_modalities: bool = False,
    ) -> None:
        """
        artist     draws the images of answers; None: they have captions only
        made_with  what all answers depend on: an evaluation that was stopped resumes if it has not changed
                   (partial_answers.py); None: every evaluation starts from nothing
        reports_modalities   ask questions again without, or with other media (modality_report/)
        """
        self.tasks = dict(tasks)
        self.model = model
        self.layout = layout
        self.processors = {name: with_limits(one, config.media) for name, one in model.processors(train=False).items()}
        self.dist = dist
        self.config = config
        self.artist = artist or Artist(None, "an evaluation during a training draws no images")
        self.made_with = made_with
        self.reports_modalities = reports_modalities

    def run(self, folder: Path, made_with: Mapping[str, Any] | None = None) -> dict[str, dict[str, Any]]:
        """Task name -> its metrics. Leaves the model in evaluation mode. made_with: of this evaluation, see above"""
        self.model.eval()
        self.made_with = made_with or self.made_with
        partial = self._partial(folder)
        results = {}
        for name, task in self.tasks.items():
            rows = self._answers(task, predictions_path(folder, name), partial)
            if self.dist.is_main:
                write_predictions(predictions_path(folder, name), rows)
            self._ask_again(task, rows, folder)
            if self.dist.is_main:
                results[name] = score_in_place(task, folder)
                log.info(summary_text(name, results[name]))
                if results[name]["count"] == results[name]["unreadable"]:
                    log.warning("%s: no question could be read; its score says nothing about the model", name)
                for written in task.write(rows, folder):
                    log.info("%s: for the official scoring: %s", name, written)
        if self.dist.is_main:
            write_metrics(folder / METRICS, results)
            if partial is not None:
                partial.remove()
        return self.dist.gather(results)[0]

    def _partial(self, folder: Path) -> PartialAnswers | None:
        """The answers of an evaluation in this folder that was stopped; those of a complete one are replaced."""
        partial = None if self.made_with is None else PartialAnswers(folder, self.made_with, self.dist)
        if self.dist.is_main and (folder / METRICS).exists():
            (folder / METRICS).unlink()
            if partial is not None:
                partial.remove()
        self.dist.barrier()
        return partial

    def _ask_again(self, task: Task, rows: list[Prediction], folder: Path) -> None:
        """Ask the questions of a task under the conditions of its modality report. rows: the answers with all media"""
        if self.dist.is_main:
            remove_conditions(task.name, folder)
        chosen, left_out = conditions_of(task, rows) if self.reports_modalities else ([], {})
        if not chosen:
            return
        names = [one.name for one in chosen]
        log.info("%s: asked again for its modality report: %s", task.name, ", ".join(names))

        def answers(altered: Task, condition: Condition, kept: Mapping[int, Prediction]) -> list[Prediction]:
            made_with = None if self.made_with is None else {**self.made_with, "condition": condition.digest}
            partial = None if made_with is None else PartialAnswers(folder, made_with, self.dist)
            return self._answers(altered, predictions_path(folder, altered.name), partial, kept)

        ask_under(task, chosen, rows, folder, answers, self.dist.is_main)
        if self.dist.is_main:
            write_conditions(task.name, folder, names, left_out)

    def _answers(
        self, task: Task, path: Path, partial: PartialAnswers | None, given: Mapping[int, Prediction] | None = None
    ) -> list[Prediction]:
        """The answers to a task, with those that an earlier start has left.

        path    where they will be written
        given   index -> answer of the questions that are not asked
        """
        folder, workers = DrawingFolder(path), self.config.num_workers
        kept = {} if partial is None else partial.kept(task, lambda row: folder.has_all(row) and not num_undrawn(row))
        kept |= given or {}
        if self.dist.is_main:
            folder.clear(list(kept.values()))  # images of an earlier evaluation
        self.dist.barrier()
        return predictions(
            task, self.model, self.layout, self.processors, self.dist, num_workers=workers,
            drawings=Drawings(self.artist, folder), partial=partial, kept=kept
        )  # fmt: skip


def write_metrics(path: Path, results: Mapping[str, Any]) -> None:
    """Write metrics.json atomically: a truncated file must not mark an evaluation as complete."""
    replace_text(path, json.dumps(results, indent=1, ensure_ascii=False))


def score_in_place(task: Task, folder: Path) -> dict[str, Any]:
    """Score the predictions of a task in its folder again, and write scores_<task>.json; the entry of metrics.json.

    raises   DataError for predictions that its metrics cannot score
    """
    path = predictions_path(folder, task.name)
    rows = read_rows(path)
    try:
        scored = task.scored(rows, folder)
    except DataError as error:
        hint = f"the answers are kept: `chatbridge score {folder} --task {task.name} --metrics ...` scores them"
        raise DataError(f"{path}: {error}; {hint}") from None
    results = task.results(scored)
    if (table := modality_results(task, scored, folder)) is not None:
        results["modalities"] = table
    write_scores(scores_path(folder, task.name), scored, results.get("intervals", {}))
    return results


def summary_text(name: str, result: Mapping[str, Any]) -> str:
    """The lines of one task for a log or a terminal: its score, and its table of modalities."""
    line, table = summary_line(name, result), result.get("modalities")
    return line if table is None else "\n".join([line, *modality_lines(name, table)])


def summary_line(name: str, result: Mapping[str, Any]) -> str:
    """The log line of one task: its headline score, overall and by group."""
    metric = result["metric"]
    if metric is None:
        parts = [f"{name}: {result['count']} answers, not scored: the data have no reference answers"]
    else:
        unit = result.get("units", {}).get(metric, "fraction")
        count = result.get("measured", {}).get(metric, result["count"])
        between = "".join(
            f" ({score_text(low, unit)} to {score_text(high, unit)})" for low, high in _interval_of(result, metric)
        )
        parts = [f"{name}: {metric} {score_text(result[metric], unit)}{between} of {count}{_others(result)}"]
        for groups in result.get("by", {}).values():
            found = {key: group[metric] for key, group in groups.items() if metric in group}
            parts.append(", ".join(f"{key} {score_text(value, unit, 0)}" for key, value in found.items()))
        if spread := result.get("prompts", {}).get("scores", {}).get(metric):
            low, high = score_text(spread["low"], unit), score_text(spread["high"], unit)
            parts.append(f"{low} to {high} over {len(spread['each'])} prompts")
    for what, format_spec in (("totals", ".1f"), ("answers", "")):
        if found := result.get(what):
            parts.append(", ".join(f"{name} {value:{format_spec}}" for name, value in found.items()))
    if result["unreadable"]:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in list(result.get("problems", {}).items())[:3])
        parts.append(f"{result['unreadable']} could not be read" + (f" ({reasons})" if reasons else ""))
    return "; ".join(parts)


def _others(result: Mapping[str, Any]) -> str:
    """The other scores of a task: "; recall 99.8%, exact_match 24.5%"; "" without any."""
    units, known = result.get("units", {}), ("count", "unreadable", result["metric"])
    found = {key: value for key, value in result.items() if is_score(value) and key not in known}
    shown = ", ".join(f"{key} {score_text(value, units.get(key, 'fraction'))}" for key, value in found.items())
    return f"; {shown}" if shown else ""


def _interval_of(result: Mapping[str, Any], metric: str) -> list[Sequence[float]]:
    """The interval of the headline, none where it has no width."""
    found = result.get("intervals", {}).get(metric)
    return [found] if found and found[0] < found[1] else []
