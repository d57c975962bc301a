"""The content of finished runs as plain values: training runs with their losses, tasks with their answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from chatbridge.conversation.modalities import MODALITIES
from chatbridge.models.checkpoint_manifest import read_manifest
from chatbridge.models.checkpoints import find_checkpoint
from chatbridge.tasks import Prediction

QA, CAPTION = "qa", "caption"  # groups of tasks in the table and in results.json
CAPTIONING = "captioning"  # registered name of the tasks in the group CAPTION


@dataclass(frozen=True)
class TaskRun:
    """The answers to one task of an evaluation.

    node       its settings, from resolved.yaml
    metrics    its entry of metrics.json
    rows       the lines of its predictions_*.jsonl
    run        name of the run that it belongs to
    is_shared  whether another run of the same report has a task of this name; its label then begins with the run
    folder     of its files; None: not known, and drawn images are not shown
    """

    name: str
    node: Mapping[str, Any]
    metrics: Mapping[str, Any]
    rows: tuple[Prediction, ...]
    run: str = ""
    is_shared: bool = False
    folder: Path | None = None

    @property
    def score(self) -> float:
        return float(self.metrics[self.metric])

    @property
    def metric(self) -> str:
        return str(self.metrics["metric"])

    @property
    def is_scored(self) -> bool:
        """False where the data have no reference answers; the report then shows the answers alone."""
        return self.metrics.get("metric") is not None

    @property
    def group(self) -> str:
        return CAPTION if self.node.get("name") == CAPTIONING else QA

    @property
    def dropped(self) -> tuple[str, ...]:
        """Modalities removed from the conversations; the task is an ablation if there are any."""
        return tuple(self.node.get("drop_media") or ())

    @property
    def label(self) -> str:
        """The name without the part that repeats its group (caption_image -> image)."""
        name = self.name.removeprefix("caption_").removesuffix("_caption").removesuffix("_cap").removesuffix("_qa")
        return f"{self.run}: {name}" if self.is_shared else name

    @cached_property
    def modality_field(self) -> str | None:
        """The field of `group_by` whose values are modalities, that is, the medium a question is about."""
        return next((field for field in self._fields if self._names_modalities(field)), None)

    @cached_property
    def kind_field(self) -> str | None:
        """The first other field of `group_by`: what a question asks for."""
        return next((field for field in self._fields if field != self.modality_field), None)

    @property
    def _fields(self) -> tuple[str, ...]:
        return tuple(self.node.get("group_by") or ())

    def _names_modalities(self, field: str) -> bool:
        values = {str(row["details"].get(field, "")) for row in self.rows} - {""}
        return bool(values) and all(value in MODALITIES for value in values)

    @property
    def must_name(self) -> str:
        """The field of the annotation with the words that a caption must contain."""
        return str(self.node.get("must_name", "must_name"))

    @property
    def target(self) -> float | None:
        target = self._report.get("target")
        return None if target is None else float(target)

    @property
    def title(self) -> str:
        """The heading that the settings give; "" = none."""
        return str(self._report.get("title", ""))

    @property
    def answer_parts(self) -> tuple[str, ...]:
        """Modalities that the parts of an answer such as "circle and rising tone" describe, in order."""
        return tuple(self._report.get("answer_parts") or ())

    @property
    def _report(self) -> Mapping[str, Any]:
        return self.node.get("report") or {}


@dataclass(frozen=True)
class TrainingRun:
    """One training run, finished or not.

    records   the lines of its metrics.jsonl
    scores    the lines of its scores.jsonl: {"step": 400, "validation/loss": 1.9, "captions/cider": 0.71}
    """

    name: str
    folder: Path
    records: tuple[Mapping[str, Any], ...]
    scores: tuple[Mapping[str, Any], ...] = ()

    @cached_property
    def checkpoint(self) -> Path | None:
        """The newest one; None when there is none."""
        try:
            return find_checkpoint(self.folder)
        except ValueError:
            return None

    @cached_property
    def manifest(self) -> Mapping[str, Any]:
        """Of the newest checkpoint; empty when there is none."""
        try:
            return read_manifest(self.checkpoint) if self.checkpoint is not None else {}
        except ValueError:
            return {}

    @property
    def seconds(self) -> float:
        """Seconds of all steps, as the run measured them."""
        return round(sum(record.get("seconds", 0.0) for record in self.records), 1)


@dataclass(frozen=True)
class Runs:
    """The content of one report.

    root       the folder it is written to
    wall_s     step -> seconds: measured by the script that ran the steps, else by the training runs themselves
    """

    root: Path
    trainings: tuple[TrainingRun, ...]
    tasks: tuple[TaskRun, ...]
    wall_s: Mapping[str, float]

    @property
    def complete(self) -> tuple[TaskRun, ...]:
        """Tasks with all their media."""
        return tuple(task for task in self.tasks if not task.dropped)

    @property
    def scored(self) -> tuple[TaskRun, ...]:
        """Tasks with all their media and a score."""
        return tuple(task for task in self.complete if task.is_scored)

    def ablations(self, full: TaskRun) -> tuple[TaskRun, ...]:
        """The tasks that ask the same questions with media removed."""
        scored = (task for task in self.tasks if task.dropped and task.is_scored)
        same = (task for task in scored if task.node.get("dataset") == full.node.get("dataset"))
        return tuple(task for task in same if task.group == full.group and task.run == full.run)
