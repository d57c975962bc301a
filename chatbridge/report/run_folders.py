"""Runs read from any run folder, any folder of an evaluation, or a folder that holds some.

runs/x/{metrics.jsonl, resolved.yaml, checkpoints/, evaluation/step_000300/}    a training run; its newest evaluation
runs/x/eval/{metrics.json, resolved.yaml, predictions_*.jsonl}                 an evaluation of `chatbridge evaluate`
runs/x/wall_s.json                                                             optional: seconds per step of a script
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from chatbridge.common.errors import DataError, nearest
from chatbridge.report.run_files import (
    read_answers,
    read_metrics,
    read_score_lines,
    read_seconds,
    read_steps,
    read_task_nodes,
)
from chatbridge.report.runs import Runs, TaskRun, TrainingRun
from chatbridge.runners.run_folder import SCORES
from chatbridge.tasks import Prediction
from chatbridge.tasks.prediction_lines import predictions_path
from chatbridge.tasks.scores_file import scores_path

STEPS, METRICS, SETTINGS = "metrics.jsonl", "metrics.json", "resolved.yaml"
ANSWERS, SECONDS = "predictions_*.jsonl", "wall_s.json"
HOW = "python -m chatbridge evaluate --cfg-path X.yaml, with a file in eval_configs/"


def read_runs(*folders: str | Path, out: Path | None = None) -> Runs:
    """The content of these folders for one report, named after the folders.

    out      folder of the report; default: the one folder, or the parent that several share
    raises   DataError for a folder without a run, or an incomplete evaluation, with the missing file and how to make it
    """
    paths = [Path(folder) for folder in folders]
    found = list(dict.fromkeys(run for path in paths for run in runs_in(path)))
    root = out or _common(paths)
    trainings = tuple(read_training(run, _name(run, found)) for run in found if is_training(run))
    evaluations = ((run, folder) for run in found if (folder := evaluation_of(run)) is not None)
    tasks = tuple(
        replace(task, run=_name(run, found))
        for run, folder in evaluations
        for task in read_tasks(folder, run / SETTINGS)
    )
    measured = paths[0] / SECONDS
    is_measured = len(paths) == 1 and measured.is_file()
    wall_s = read_seconds(measured) if is_measured else {run.name: run.seconds for run in trainings}
    return Runs(root, trainings, _distinct(tasks), wall_s)


def read_training(folder: Path, name: str) -> TrainingRun:
    """A training run, finished or not."""
    scores = read_score_lines(folder / SCORES) if (folder / SCORES).is_file() else ()
    return TrainingRun(name, folder, read_steps(folder / STEPS), scores)


def read_tasks(folder: Path, settings: Path) -> tuple[TaskRun, ...]:
    """The tasks of one evaluation.

    folder     has metrics.json and the predictions
    settings   the resolved.yaml of the run
    raises     DataError when a file is missing
    """
    metrics = folder / METRICS
    missing = [path.name for path in (metrics, settings) if not path.is_file()]
    if missing:
        raise DataError(f"{folder} has no {' and no '.join(missing)}: the evaluation is incomplete; run {HOW}")
    results, nodes = read_metrics(metrics), read_task_nodes(settings)
    for name in results:
        path = predictions_path(folder, name)
        if not path.is_file():
            raise DataError(f"{path} is missing although {metrics} has the task {name!r}; run {HOW} again")
    return tuple(
        TaskRun(name, nodes.get(name) or {}, results[name], _rows(folder, name), folder=folder) for name in results
    )


def _rows(folder: Path, task: str) -> tuple[Prediction, ...]:
    return read_answers(predictions_path(folder, task), scores_path(folder, task))


def _distinct(tasks: Sequence[TaskRun]) -> tuple[TaskRun, ...]:
    """The tasks; a label that several runs have begins with the run."""
    num_runs = Counter((group, label) for group, label, _ in {(task.group, task.label, task.run) for task in tasks})
    return tuple(replace(task, is_shared=num_runs[task.group, task.label] > 1) for task in tasks)


def runs_in(folder: Path) -> list[Path]:
    """The folder itself when it is a run, else the runs directly below it, in the order in which they began.

    raises   DataError when there is none
    """
    if is_training(folder) or is_evaluation(folder):
        return [folder, *([folder / "eval"] if is_evaluation(folder / "eval") else [])]
    below = sorted(folder.iterdir()) if folder.is_dir() else []
    if found := [path for path in below if is_training(path) or is_evaluation(path)]:
        return sorted(found, key=lambda path: (is_evaluation(path), _begun(path)))
    raise DataError(_no_run(folder))


def is_training(folder: Path) -> bool:
    return (folder / STEPS).is_file()


def is_evaluation(folder: Path) -> bool:
    """True also for an incomplete evaluation, which read_tasks refuses with the missing file."""
    return (folder / METRICS).is_file() or any(folder.glob(ANSWERS))


def evaluation_of(run: Path) -> Path | None:
    """The folder with the answers of a run: the evaluation's own, or the newest one of a training run."""
    if not is_training(run):
        return run
    steps = [path.parent for path in run.glob(f"evaluation/step_*/{METRICS}") if path.parent.name[5:].isdigit()]
    return max(steps, key=lambda path: int(path.name[5:]), default=None)


def _begun(run: Path) -> float:
    path = run / SETTINGS
    return (path if path.is_file() else run).stat().st_mtime


def _name(run: Path, runs: Sequence[Path]) -> str:
    """The shortest end of the path that no other run has."""
    others = [other for other in runs if other != run]
    parts = run.absolute().parts
    for length in range(1, len(parts) + 1):
        if all(other.absolute().parts[-length:] != parts[-length:] for other in others):
            return "/".join(parts[-length:])
    return str(run)


def _common(folders: Sequence[Path]) -> Path:
    """raises   DataError when several folders have no parent in common"""
    if len(folders) == 1:
        return folders[0]
    parents = {folder.absolute().parent for folder in folders}
    if len(parents) > 1:
        listed = ", ".join(map(str, folders))
        raise DataError(f"{listed} are in different folders; choose the folder of the report with --out FOLDER")
    return Path(os.path.relpath(parents.pop()))


def _no_run(folder: Path) -> str:
    if not folder.exists():
        beside = tuple(path.name for path in folder.parent.iterdir()) if folder.parent.is_dir() else ()
        close = nearest(folder.name, beside)
        return f"there is no folder {folder}" + (f"; did you mean {folder.parent / close}?" if close else "")
    return (
        f"{folder} holds no run: expected {STEPS} (a training run), {METRICS} (of `chatbridge evaluate`), "
        "or folders that have one of them"
    )
