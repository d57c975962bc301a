"""What training and evaluation left behind, read into plain values.

runs/tiny/pretrain/{metrics.jsonl, resolved.yaml, checkpoints/}    stage 1
runs/tiny/instruct/ ...                                            stage 2
runs/tiny/eval/{metrics.json, resolved.yaml, predictions_*.jsonl}  the evaluation
runs/tiny/wall_s.json                                              seconds per step of the quickstart, if it ran
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from chatbridge.common.errors import DataError
from chatbridge.common.file_kind import read_json_object
from chatbridge.config.merge import load
from chatbridge.models.checkpoint_manifest import read_manifest
from chatbridge.models.checkpoints import find_checkpoint
from chatbridge.report.reading import (
    is_number,
    read_answers,
    read_results,
    read_steps,
    read_task_nodes,
)
from chatbridge.tasks import Prediction

EVALUATION, STAGES = "eval", ("pretrain", "instruct")
CAPTIONING = "captioning"
HOW = "python -m chatbridge evaluate --cfg-path X.yaml (of the tiny world: eval_configs/tiny_eval.yaml)"


@dataclass(frozen=True)
class TaskRun:
    """The answers to one task.

    node     its settings, as resolved.yaml has them
    metrics  as the evaluator summed them up
    rows     a line per answer
    run      the run it belongs to, where a report has several; "" = the only one
    """

    name: str
    node: Mapping[str, Any]
    metrics: Mapping[str, Any]
    rows: tuple[Prediction, ...]
    run: str = ""
    has_target: bool = True  # the tiny world's tasks have one

    @property
    def score(self) -> float:
        return float(self.metrics[self.metric])

    @property
    def metric(self) -> str:
        return str(self.metrics["metric"])

    @property
    def is_scored(self) -> bool:
        """False where the data have no reference answers: then there is nothing to report but the answers."""
        return self.metrics.get("metric") is not None

    @property
    def is_caption(self) -> bool:
        return self.node.get("name") == CAPTIONING

    @property
    def dropped(self) -> tuple[str, ...]:
        """Modalities that were taken away: an ablation when there are any."""
        return tuple(self.node.get("drop_media") or ())

    @property
    def label(self) -> str:
        """The name without what its group says already (caption_image -> image), with its run if there are several."""
        name = self.name.removeprefix("caption_").removesuffix("_caption").removesuffix("_cap").removesuffix("_qa")
        return f"{self.run}: {name}" if self.run else name


@dataclass(frozen=True)
class Stage:
    """One training run. `records` are the lines of its metrics.jsonl."""

    name: str
    folder: Path
    records: tuple[Mapping[str, Any], ...]
    settings: Mapping[str, Any]

    @cached_property
    def manifest(self) -> Mapping[str, Any]:
        """Of its newest checkpoint; empty when there is none."""
        try:
            return read_manifest(find_checkpoint(self.folder))
        except ValueError:
            return {}

    @property
    def checkpoint(self) -> Path | None:
        try:
            return find_checkpoint(self.folder)
        except ValueError:
            return None


@dataclass(frozen=True)
class Runs:
    """Everything the report is made from."""

    root: Path
    stages: tuple[Stage, ...]
    tasks: tuple[TaskRun, ...]
    wall_s: Mapping[str, float]

    @property
    def asked(self) -> tuple[TaskRun, ...]:
        """Tasks with all their media."""
        return tuple(task for task in self.tasks if not task.dropped)

    @property
    def full(self) -> tuple[TaskRun, ...]:
        """Those of them that have a score."""
        return tuple(task for task in self.asked if task.is_scored)

    def ablations(self, full: TaskRun) -> tuple[TaskRun, ...]:
        """The same questions with media taken away."""
        scored = (task for task in self.tasks if task.dropped and task.is_scored)
        same = (task for task in scored if task.node.get("dataset") == full.node.get("dataset"))
        return tuple(task for task in same if task.is_caption == full.is_caption and task.run == full.run)


def read_runs(root: str | Path) -> Runs:
    """raises   DataError that says what is missing and how to make it"""
    root = Path(root)
    stages = tuple(read_stage(root / name) for name in STAGES if (root / name / "metrics.jsonl").is_file())
    tasks = read_tasks(root / EVALUATION, root / EVALUATION / "resolved.yaml")
    return Runs(root, stages, tasks, _wall_s(root / "wall_s.json", stages))


def read_tasks(folder: Path, settings: Path) -> tuple[TaskRun, ...]:
    """The tasks of one evaluation. raises DataError when a file is missing"""
    metrics = folder / "metrics.json"
    missing = [path.name for path in (metrics, settings) if not path.is_file()]
    if missing:
        raise DataError(f"{folder} has no {' and no '.join(missing)}: there is no evaluation to report; run {HOW}")
    results, nodes = read_results(metrics), read_task_nodes(settings)
    return tuple(_task(folder, name, nodes.get(name) or {}, results[name]) for name in results)


def _task(folder: Path, name: str, node: Mapping[str, Any], metrics: Mapping[str, Any]) -> TaskRun:
    path = folder / f"predictions_{name}.jsonl"
    if not path.is_file():
        raise DataError(f"{path} is missing although {folder / 'metrics.json'} has the task {name!r}; run {HOW} again")
    return TaskRun(name, node, metrics, read_answers(path))


def read_stage(folder: Path) -> Stage:
    """A training run, finished or not."""
    settings = _settings(folder / "resolved.yaml") if (folder / "resolved.yaml").is_file() else {}
    return Stage(folder.name, folder, read_steps(folder / "metrics.jsonl"), settings)


def _settings(path: Path) -> Mapping[str, Any]:
    return load(path)[0]


def _wall_s(path: Path, stages: tuple[Stage, ...]) -> dict[str, float]:
    """Measured by the quickstart; otherwise what the stages themselves counted."""
    if path.is_file():
        return {step: float(seconds) for step, seconds in read_json_object(path).items() if is_number(seconds)}
    return seconds_of(stages)


def seconds_of(stages: Iterable[Stage]) -> dict[str, float]:
    """As the runs themselves counted them."""
    return {stage.name: round(sum(record.get("seconds", 0.0) for record in stage.records), 1) for stage in stages}
