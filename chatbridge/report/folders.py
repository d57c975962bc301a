"""Which folders a report is made from: any run folder, any folder of an evaluation, or a folder that holds some.

runs/x/{metrics.jsonl, resolved.yaml, checkpoints/, evaluation/step_000300/}    a training run; its newest evaluation
runs/x/eval/{metrics.json, resolved.yaml, predictions_*.jsonl}                 what `chatbridge evaluate` writes
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from chatbridge.common.errors import DataError, nearest
from chatbridge.report.inputs import Runs, TaskRun, read_stage, read_tasks, seconds_of

TRAINING, RESULTS, ANSWERS = "metrics.jsonl", "metrics.json", "predictions_*.jsonl"


def read_folders(folders: Sequence[Path], out: Path | None = None) -> Runs:
    """What these folders hold, read for one report. Tasks and stages are called after their folders where there are
    several; the targets of the tiny world do not apply.

    out      where the report goes; default: into the one folder, or into the parent that several share
    raises   DataError for a folder without a run, or an evaluation that is not complete
    """
    runs = list(dict.fromkeys(run for folder in folders for run in runs_in(folder)))
    out = out or _common(folders)
    stages, tasks = [], []
    evaluations = [(run, found) for run in runs if (found := _evaluation(run)) is not None]
    for run in runs:
        if is_training(run):
            stages.append(replace(read_stage(run), name=_name(run, runs)))
    for run, folder in evaluations:
        name = _name(run, runs) if len(evaluations) > 1 else ""
        tasks += [_named(task, name) for task in read_tasks(folder, run / "resolved.yaml")]
    return Runs(out, tuple(stages), tuple(tasks), seconds_of(stages))


def runs_in(folder: Path) -> list[Path]:
    """The folder itself when it is a run, else the runs directly below it, in the order in which they began.

    raises   DataError when there is none
    """
    if is_training(folder) or is_evaluation(folder):
        return [folder, *([folder / "eval"] if is_evaluation(folder / "eval") else [])]
    found = (
        [path for path in sorted(folder.iterdir()) if is_training(path) or is_evaluation(path)]
        if folder.is_dir()
        else []
    )
    if found:
        return sorted(found, key=lambda path: (is_evaluation(path), _begun(path)))
    raise DataError(_no_run(folder))


def is_training(folder: Path) -> bool:
    return (folder / TRAINING).is_file()


def is_evaluation(folder: Path) -> bool:
    """Also one that is not complete: what is missing is told when it is read."""
    return (folder / RESULTS).is_file() or any(folder.glob(ANSWERS))


def _evaluation(run: Path) -> Path | None:
    """Where the answers of a run are: in an evaluation's own folder, or in the newest one of a training."""
    if not is_training(run):
        return run
    steps = [path.parent for path in run.glob(f"evaluation/step_*/{RESULTS}") if path.parent.name[5:].isdigit()]
    return max(steps, key=lambda path: int(path.name[5:]), default=None)


def _begun(run: Path) -> float:
    path = run / "resolved.yaml"
    return (path if path.is_file() else run).stat().st_mtime


def _name(run: Path, runs: Sequence[Path]) -> str:
    """As short as tells the runs apart."""
    others = [other for other in runs if other != run]
    parts = run.absolute().parts
    for length in range(1, len(parts) + 1):
        if all(other.absolute().parts[-length:] != parts[-length:] for other in others):
            return "/".join(parts[-length:])
    return str(run)


def _named(task: TaskRun, run: str) -> TaskRun:
    return replace(task, run=run, has_target=False)


def _common(folders: Sequence[Path]) -> Path:
    """raises   DataError when several folders have no parent in common"""
    if len(folders) == 1:
        return folders[0]
    parents = {folder.absolute().parent for folder in folders}
    if len(parents) > 1:
        listed = ", ".join(map(str, folders))
        raise DataError(f"{listed} are in different folders; say where the report goes with --out FOLDER")
    return Path(os.path.relpath(parents.pop()))


def _no_run(folder: Path) -> str:
    if not folder.exists():
        beside = tuple(path.name for path in folder.parent.iterdir()) if folder.parent.is_dir() else ()
        close = nearest(folder.name, beside)
        return f"there is no folder {folder}" + (f"; did you mean {folder.parent / close}?" if close else "")
    return (
        f"{folder} holds no run: expected {TRAINING} (a training run), {RESULTS} (what `chatbridge evaluate` writes), "
        "or folders that have one of them"
    )
