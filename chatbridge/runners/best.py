"""Scores of a run by step, the best checkpoint by one of them, and the end of a run that no longer improves.

    runs/x/scores.jsonl    a line {"step": 400, "validation/loss": 1.9, ...} per validation and evaluation
    runs/x/best            names the best checkpoint; `run.init_from: runs/x/best` starts from it

A line {"step": 400, "held_out": {...}} tells that validation is on other samples from there on: the losses before it do
not count for the best one. With {"held_out": {}, "asked": [tasks]} this holds for the scores of these tasks instead, of
which a resumed run asks other questions. Nothing else has state: a resumed run reads the scores up to its checkpoint,
so it knows the best one and how many scores since then were no better. The checkpoint that `best` names is never
removed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatbridge.common.dist import Dist
from chatbridge.common.errors import TrainingError
from chatbridge.common.log import get_logger
from chatbridge.common.safe_files import append_lines, read_json_lines, replace_text
from chatbridge.models.checkpoints import BEST, CHECKPOINTS, best_checkpoint, checkpoints
from chatbridge.runners.config import BestConfig
from chatbridge.runners.run_folder import ASKED, HELD_OUT, SCORES

log = get_logger(__name__)


@dataclass(frozen=True)
class Score:
    """The value of the metric after a step."""

    step: int
    value: float


class Scores:
    """The scores of a run. Every rank calls every method; rank 0 writes, and decides for all.

    folder    of the run
    best      which score counts; None: none does, and scores are only written
    patience  scores without improvement after which the run ends; None: it never ends early
    """

    def __init__(self, folder: Path, best: BestConfig | None, patience: int | None, dist: Dist) -> None:
        self.folder = folder
        self.config = best
        self.patience = patience
        self.dist = dist
        self.best: Score | None = None
        self.waited = 0  # scores since the best one
        self.done: set[tuple[int, str]] = set()  # (step, name) of every score

    def open(self, step: int) -> None:
        """Read the scores up to a step, of the checkpoint that the run resumes from."""
        self.best, self.waited, self.done = None, 0, set()
        lines = _read(self.folder / SCORES, step) if self.dist.is_main and step else []
        for line in self.dist.gather(lines)[0]:
            if HELD_OUT not in line:
                self._take(int(line["step"]), line)
            elif self.config is not None and is_restart(line, self.config):
                self.best, self.waited = None, 0
        if self.dist.is_main and step and self.config is not None:
            self._mend_pointer()

    def has(self, step: int, prefix: str) -> bool:
        """Whether a score whose name begins so was written after this step."""
        return any(at == step and name.startswith(prefix) for at, name in self.done)

    def add(self, step: int, scores: Mapping[str, float]) -> bool:
        """Write scores; returns whether one is the best so far, whose checkpoint must be saved before `point_to`.

        raises  TrainingError if the scores of the task of run.best do not have its metric
        """
        scores = self.dist.gather(dict(scores))[0]
        if self.dist.is_main and scores:
            append_lines(self.folder / SCORES, [json.dumps({"step": step, **scores})])
        self._check_name(scores)
        return self._take(step, scores)

    def point_to(self, checkpoint: Path) -> None:
        """Name the checkpoint of the best score, which is complete: the one before stays until then."""
        assert self.config is not None and self.best is not None
        if self.dist.is_main:
            _write_pointer(self.folder, checkpoint, self.config, self.best)
        log.info("best so far: %s %.4f, %s", self.config.metric, self.best.value, checkpoint.name)
        self.dist.barrier()

    @property
    def is_over(self) -> bool:
        """Whether the run ends early: the last `patience` scores were no better than the best one."""
        return self.patience is not None and self.waited >= self.patience

    @property
    def reason(self) -> str:
        """Why the run ended early."""
        assert self.config is not None
        past = f"the best is {self.best.value:.4f} of step {self.best.step}" if self.best else "there was none"
        return (
            f"{self.waited} times in a row {self.config.metric} was no better (run.patience: {self.patience}); {past}. "
            "To train on, raise run.patience or set it to null"
        )

    def _take(self, step: int, scores: Mapping[str, float]) -> bool:
        self.done |= {(step, name) for name in scores if name != "step"}
        if self.config is None or self.config.metric not in scores:
            return False
        value = float(scores[self.config.metric])
        is_better = math.isfinite(value) and (self.best is None or self.config.is_better(value, self.best.value))
        if is_better:
            self.best, self.waited = Score(step, value), 0
        else:
            self.waited += 1
        return is_better

    def _check_name(self, scores: Mapping[str, float]) -> None:
        wanted = self.config.metric if self.config is not None else ""
        beside = [name for name in scores if name.rpartition("/")[0] == wanted.rpartition("/")[0]]
        if wanted and beside and wanted not in scores and not wanted.startswith("validation/"):
            message = f"run.best.metric is {wanted}, but the task has {', '.join(beside)}; set run.best.metric to one"
            raise TrainingError(message)

    def _mend_pointer(self) -> None:
        """After a resume from an older checkpoint, or a kill before the pointer was written."""
        assert self.config is not None
        wanted = self.folder / CHECKPOINTS / f"step_{self.best.step:06d}" if self.best is not None else None
        if self.best is not None and wanted in checkpoints(self.folder / CHECKPOINTS):
            _write_pointer(self.folder, wanted, self.config, self.best)
        elif best_checkpoint(self.folder) is None:
            (self.folder / BEST).unlink(missing_ok=True)


def task_scores(results: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """ "<task>/<score>" -> its value, of the content of a metrics.json."""
    return {
        f"{task}/{name}": float(value)
        for task, result in results.items()
        for name, value in result.items()
        if isinstance(value, int | float) and name not in ("count", "unreadable")
    }


def restart_validation(folder: Path, step: int, held_out: Mapping[str, int]) -> None:
    """Note in scores.jsonl that other samples are held out after a step. held_out: source -> their number"""
    append_lines(folder / SCORES, [json.dumps({"step": step, HELD_OUT: dict(held_out)})])


def restart_tasks(folder: Path, step: int, tasks: Sequence[str]) -> None:
    """Note in scores.jsonl that these tasks ask other questions after a step."""
    append_lines(folder / SCORES, [json.dumps({"step": step, HELD_OUT: {}, ASKED: list(tasks)})])


def is_restart(line: Mapping[str, Any], best: BestConfig) -> bool:
    """Whether scores before this line do not count for the best one."""
    if HELD_OUT not in line:
        return False
    if ASKED not in line:
        return best.is_validation
    return not best.is_validation and best.metric.partition("/")[0] in line[ASKED]


def has_restart_after(folder: Path, step: int) -> bool:
    """Whether scores.jsonl has a note of other held-out samples after this step, at which a run now resumes."""
    return any(ASKED not in line for line in _notes_after(folder, step))


def restarted_tasks_after(folder: Path, step: int) -> set[str]:
    """The tasks of which scores.jsonl has such a note after this step."""
    return {name for line in _notes_after(folder, step) for name in line.get(ASKED, ())}


def _notes_after(folder: Path, step: int) -> list[dict[str, Any]]:
    lines = read_json_lines(folder / SCORES).records if (folder / SCORES).is_file() else ()
    return [line for line in lines if HELD_OUT in line and isinstance(at := line.get("step"), int) and at > step]


def _read(path: Path, step: int) -> list[dict[str, Any]]:
    """The lines of scores.jsonl up to a step; one that a crash tore is left out."""
    if not path.is_file():
        return []
    lines = [line for line in read_json_lines(path).records if isinstance(line.get("step"), int)]
    return [
        {name: value for name, value in line.items() if name in (HELD_OUT, ASKED) or isinstance(value, int | float)}
        for line in lines
        if line["step"] <= step
    ]


def _write_pointer(folder: Path, checkpoint: Path, config: BestConfig, best: Score) -> None:
    about = {"metric": config.metric, "mode": config.mode, "value": best.value, "step": best.step}
    path = checkpoint.relative_to(folder).as_posix()
    replace_text(folder / BEST, json.dumps({"checkpoint": path, **about}, indent=1) + "\n")
