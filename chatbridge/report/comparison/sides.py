"""One side of a comparison: the tasks of an evaluation, a file of predictions, or a file of scores.

runs/x/eval                        every task of its metrics.json
runs/x                             a training run: its own evaluation, or the newest one at a step
runs/x/eval/predictions_vqa.jsonl  one task, also of a condition (predictions_vqa.without_audio.jsonl)
anybody.jsonl                      lines with id, prediction and references
scores.json                        values per item without answers, as `chatbridge score --json` writes them
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from chatbridge.common.errors import DataError, nearest, some
from chatbridge.config.merge import load
from chatbridge.report.comparison.items import Side
from chatbridge.report.run_files import read_metrics, read_task_nodes
from chatbridge.report.run_folders import METRICS, SETTINGS, evaluation_of, is_training, runs_in
from chatbridge.tasks.base import Task, task_for_scoring
from chatbridge.tasks.metrics.base import Item, Metric, Score, Unit, mean_score
from chatbridge.tasks.prediction_lines import items_of, predictions_path, read_rows
from chatbridge.tasks.receipt import RECEIPT
from chatbridge.tasks.score_text import is_score
from chatbridge.tasks.scores_file import read_scores, scores_path
from chatbridge.tasks.scoring import Scored

PREFIX = "predictions_"  # of the name of a file with the answers to a task
Chosen = Mapping[str, Metric]  # metrics that the user names for both sides


@dataclass(frozen=True)
class ComparedTask:
    """The answers to one task, not yet scored.

    label     the folder or file that they are from
    items     with their answers; of a file of scores, with the id alone
    node      settings of the task; empty: not known
    content   of its file of scores; empty: there is none
    condition  of a modality report: without_audio; "": all media
    """

    label: str
    name: str
    items: tuple[Item, ...]
    node: Mapping[str, Any] = field(default_factory=dict)
    content: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    has_answers: bool = True
    condition: str = ""

    @property
    def base(self) -> str:
        """Name of the task in the settings and the receipt, without a condition."""
        return self.name.removesuffix(f".{self.condition}") if self.condition else self.name

    @cached_property
    def task(self) -> Task | None:
        """The task for scoring. None if its settings are not known. raises ConfigError"""
        return task_for_scoring(self.name, self.node) if self.node else None


@dataclass(frozen=True)
class ComparedRun:
    """One side: its tasks, and what it was made with.

    settings   of the run, from resolved.yaml; empty: not known
    folder     of the receipt; None: it has none
    """

    label: str
    tasks: Mapping[str, ComparedTask]
    settings: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    is_file: bool = False


def read_compared(path: Path, tasks: Sequence[str] = ()) -> ComparedRun:
    """One side of a comparison.

    tasks    names of those that are read; (): all
    raises   DataError for a path without results, an unknown task, or a line that cannot be read
    """
    if path.is_dir():
        return _run(path, tasks)
    if not path.exists():
        runs_in(path)  # raises, with the nearest name
    if path.name == METRICS:
        return _run(path.parent, tasks, path)
    found = _scores_file(path) if path.suffix == ".json" else _predictions_file(path)
    if tasks and not any(name in found.tasks for name in tasks):
        raise DataError(f"--task {', '.join(tasks)}: {path} is a file of {next(iter(found.tasks))}; name a folder")
    return found


def sides(a: ComparedTask, b: ComparedTask, metrics: Chosen | None = None) -> tuple[Side, Side]:
    """Both as they are compared: scored again with the same metrics where both have answers, those of a unless the user
    names some; with the values of their files of scores otherwise, and for metrics that are costly.

    raises   DataError if there is neither
    """
    if a.has_answers and b.has_answers and (chosen := _metrics(a, b, metrics)) is not None:
        again = {name: one for name, one in chosen.items() if metrics is not None or not one.is_costly}
        stored = stored_scores(a, b) if metrics is None else []
        headline = task.main_metric if metrics is None and (task := a.task or b.task) else None
        return _scored(a, again, stored, headline), _scored(b, again, stored, headline)
    if metrics is not None:
        lone = a if not a.has_answers else b
        raise DataError(f"{lone.label} has scores without answers, so --metrics has no effect; name its predictions")
    for one in (a, b):
        if not one.content:
            raise DataError(f"{one.label}: the metrics of {one.name} are not known; name some: --metrics exact_match")
    return _as_written(a), _as_written(b)


def costly_scores(task: Task | None) -> list[str]:
    """Names of the scores that are not made again for a comparison."""
    metrics = task.metrics.values() if task else ()
    return [name for metric in metrics if metric.is_costly for name in metric.names]


def stored_scores(a: ComparedTask, b: ComparedTask) -> list[str]:
    """Names of the costly scores that the files of both have per item."""
    own = [one.content.get("per_item", {}) for one in (a, b)]
    return [name for name in costly_scores(a.task or b.task) if all(name in values for values in own)]


def _metrics(a: ComparedTask, b: ComparedTask, metrics: Chosen | None) -> Chosen | None:
    task = a.task or b.task
    return metrics if metrics is not None else None if task is None else task.metrics


def _scored(one: ComparedTask, metrics: Chosen, stored: Sequence[str], headline: str | None) -> Side:
    def score(items: Sequence[Item]) -> list[Score]:
        found = {**Scored.of(metrics, items, headline).scores}
        found |= {name: _written(one.content, name, one.content["per_item"][name], items) for name in stored}
        return [found[name] for name in sorted(found, key=lambda name: name != headline)]

    return Side(one.label, one.name, one.items, score, one.node, one.folder)


def _as_written(one: ComparedTask) -> Side:
    """Means of the values that a file of scores has per item."""

    def score(items: Sequence[Item]) -> list[Score]:
        return [_written(one.content, name, values, items) for name, values in one.content["per_item"].items()]

    return Side(one.label, one.name, one.items, score, one.node, one.folder)


def _written(content: Mapping[str, Any], name: str, values: Mapping[str, Any], items: Sequence[Item]) -> Score:
    found = [value if is_score(value := values.get(item.id)) else None for item in items]
    known = np.array([value for value in found if value is not None])
    info = content.get("score_info", {}).get(name, {})
    unit: Unit = "fraction" if ((known >= 0) & (known <= 1)).all() else "number"
    score = mean_score(name, found, unit=info.get("unit", unit))
    return Score(name, score.statistics, score.per_item, score.combine, score.unit, info.get("higher_is_better", True))


def corpus_notes(one: ComparedTask) -> list[str]:
    """The scores of a file whose value is not the mean of its items: a BLEU of the corpus."""
    found = []
    for name, values in one.content.get("per_item", {}).items():
        known, whole = [value for value in values.values() if is_score(value)], one.content["scores"].get(name)
        if known and is_score(whole) and abs(float(np.mean(known)) - whole) > 1e-6 * max(1.0, abs(whole)):
            found.append(
                f"{one.label}: {name} is {whole:.4f} over all items together; without the answers of both sides the "
                f"means of the items are compared, here {np.mean(known):.4f}"
            )
    return found


def _run(path: Path, tasks: Sequence[str], metrics: Path | None = None) -> ComparedRun:
    folder = path if metrics else _evaluation(path)
    if not (folder / METRICS).is_file():
        raise DataError(f"{folder} has no {METRICS}: the evaluation is incomplete; run `chatbridge evaluate` again")
    settings = next((file for file in (folder / SETTINGS, path / SETTINGS) if file.is_file()), None)
    nodes = read_task_nodes(settings) if settings is not None else {}
    names = list(tasks) or list(read_metrics(folder / METRICS))
    for name in names:
        if not predictions_path(folder, name).is_file():
            known = [file.stem.removeprefix(PREFIX) for file in sorted(folder.glob(f"{PREFIX}*.jsonl"))]
            close = nearest(name, known)
            hint = f"did you mean {close}? " if close else ""
            raise DataError(f"{folder} has no answers to {name!r}; {hint}it has {some(known, 20) or 'none'}")
    read = {name: _task(str(folder), folder, name, nodes) for name in names}
    return ComparedRun(str(folder), read, _settings(settings), _with_receipt(folder))


def _evaluation(path: Path) -> Path:
    """The folder with the results of a run. raises DataError where there is none, or more than one"""
    runs = runs_in(path)
    folders = [folder for run in runs if (folder := evaluation_of(run)) is not None]
    if is_training(path):
        folders = folders[-1:]  # its own evaluation comes after those at steps
    if len(folders) == 1:
        return folders[0]
    what = f"holds {len(folders)} evaluations: {some(folders, 5)}" if folders else "has no evaluation"
    raise DataError(f"{path} {what}; name the folder of one, which has {METRICS} and {PREFIX}*.jsonl")


def _settings(path: Path | None) -> Mapping[str, Any]:
    return {} if path is None else load(path)[0]


def _with_receipt(folder: Path) -> Path | None:
    return folder if (folder / RECEIPT).is_file() else None


def _task(label: str, folder: Path, name: str, nodes: Mapping[str, Mapping[str, Any]]) -> ComparedTask:
    scores, (base, _, condition) = scores_path(folder, name), name.rpartition(".")
    is_condition = name not in nodes and base in nodes
    return ComparedTask(
        label,
        name,
        tuple(items_of(read_rows(predictions_path(folder, name)), folder)),
        nodes.get(base if is_condition else name) or {},
        read_scores(scores) if scores.is_file() else {},
        folder,
        condition=condition if is_condition else "",
    )


def _predictions_file(path: Path) -> ComparedRun:
    folder, name = path.parent, path.stem.removeprefix(PREFIX)
    if path.name.startswith(PREFIX) and (folder / SETTINGS).is_file():
        task = _task(str(path), folder, name, read_task_nodes(folder / SETTINGS))
        return ComparedRun(str(path), {name: task}, _settings(folder / SETTINGS), _with_receipt(folder), is_file=True)
    items = tuple(items_of(read_rows(path), folder))
    return ComparedRun(str(path), {name: ComparedTask(str(path), name, items, folder=folder)}, is_file=True)


def _scores_file(path: Path) -> ComparedRun:
    content = read_scores(path)
    ids = dict.fromkeys(str(key) for values in content["per_item"].values() for key in values)
    if not ids:
        raise DataError(f"{path}: `per_item` is empty, so there is nothing to compare; score the predictions again")
    name, label = path.stem.removeprefix("scores_"), str(path)
    task = ComparedTask(label, name, tuple(Item(key, "") for key in ids), content=content, has_answers=False)
    return ComparedRun(label, {name: task}, is_file=True)
