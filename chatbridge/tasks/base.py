"""The contract of a task: questions from a data set, and how their answers are scored.

An evaluation has two phases. Generation asks the questions of `task.dataset` and writes a line per answer (predict.py).
Scoring reads those lines alone (scoring.py): the task names its metrics, and may add results of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, make_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from chatbridge.common.log import get_logger
from chatbridge.config.registry import Registry
from chatbridge.config.schema import parse
from chatbridge.datasets.builders import Dataset
from chatbridge.models.language.likelihood import Likelihood
from chatbridge.tasks.metric_settings import built_metrics
from chatbridge.tasks.metrics.base import Metric
from chatbridge.tasks.prediction_lines import Prediction, items_of
from chatbridge.tasks.scoring import Scored
from chatbridge.tasks.settings import FREE, PublishedScore, ReportSettings, TaskConfig
from chatbridge.tasks.several_prompts import by_prompt, opened
from chatbridge.tasks.submissions import write_submission_file

OF_EARLIER_VERSIONS = ("main_metric", "missed", "score", "score_parts", "with_shared_scores")

log = get_logger(__name__)


class Task:
    """The last question of every conversation of a data set, and how its answers are scored.

    config      the task's Config
    name        of the task in the YAML
    opens_data  False: for scoring alone, without `dataset`
    raises      DataError if the data set cannot be used
    """

    Config: type[TaskConfig]
    config: TaskConfig
    dataset: Dataset

    def __init_subclass__(cls) -> None:
        """raises TypeError for a task of an earlier version, whose scores would be lost without a word"""
        if own := [name for name in OF_EARLIER_VERSIONS if name in vars(cls)]:
            raise TypeError(
                f"{cls.__qualname__} defines {', '.join(own)}: scores are made by a metric now, a file in metrics/ "
                "that the task names in default_metrics (docs/extending.md, An evaluation task)"
            )

    def __init__(self, config: Any, name: str, opens_data: bool = True) -> None:
        self.config = config
        self.name = name
        if opens_data:
            self.dataset = opened(config.dataset, config.prompts, name)

    @cached_property
    def metrics(self) -> Mapping[str, Metric]:
        """Name -> metric, the first with the headline."""
        return built_metrics(self.config.metric_settings)

    @property
    def main_metric(self) -> str:
        """The headline score, if the data have what it needs; "": the task has no scores."""
        first = next((name for metric in self.metrics.values() for name in metric.names), "")
        return self.config.main_metric or first

    @property
    def generates(self) -> bool:
        """Whether the model generates an answer; False: only the likelihood of given texts is measured."""
        return True

    @property
    def measures_end(self) -> bool:
        """Whether the likelihood of a text includes that of the end of the turn after it."""
        return False

    def measured_texts(self, details: Mapping[str, Any]) -> Mapping[str, str]:
        """Name -> text whose likelihood as an answer to the question is measured; by default none.

        raises   MediaError for a question that cannot be asked
        """
        return {}

    def measured_references(self, references: Sequence[str]) -> Mapping[str, str]:
        """The same of texts that are among the known answers; by default none."""
        return {}

    def likelihood_fields(self, details: Mapping[str, Any], found: Mapping[str, Likelihood]) -> dict[str, Any]:
        """What the line of a question has besides its text: of the likelihoods of `measured_texts`."""
        return {}

    def scored(self, rows: Sequence[Prediction], folder: Path | None = None) -> Scored:
        """The scores of predictions. folder: of their file, for metrics of drawn images"""
        return Scored.of(self.metrics, items_of(rows, folder), self.main_metric)

    def results(self, scored: Scored, has_intervals: bool = True) -> dict[str, Any]:
        """The entry of metrics.json: `metric` (name of the headline), a value per score, and

        count       all questions; an unreadable one has the worst score
        measured    score -> how many questions have it, where some lack it
        unreadable  how many questions could not be read
        problems    reason -> how many of them, where there are some
        intervals   score -> [low, high]
        units       score -> unit, where it is not a fraction
        lower_is_better   the scores that count errors, where there are some
        by          field of `group_by` -> its value -> the results of that group
        prompts     with several `prompts`: each score by prompt, and its mean, spread and range over the prompts
        """
        found = {"metric": scored.headline, **self.group_results(scored)}
        if scored.unreadable:
            found["problems"] = scored.unreadable
        for field in self.config.group_by:
            groups = self.groups(field, scored)
            found.setdefault("by", {})[field] = {
                value: self.group_results(part, is_whole=False) for value, part in groups.items()
            }
        if has_intervals and (intervals := scored.intervals(self.config.resampled_together)):
            found["intervals"] = intervals
        if len(self.config.prompts) > 1:
            found["prompts"] = by_prompt(scored, self.config.prompts)
        return found

    def group_results(self, scored: Scored, is_whole: bool = True) -> dict[str, Any]:
        """The results of a group of questions, or of all. A task adds its own in an override."""
        partly = {name: count for name, count in scored.measured.items() if count < len(scored.items)}
        units = {name: unit for name in scored.values if (unit := scored.scores[name].unit) != "fraction"}
        errors = [name for name in scored.values if not scored.scores[name].higher_is_better]
        return {
            **scored.values,
            "count": len(scored.items),
            **({"measured": partly} if partly else {}),
            **({"units": units} if units else {}),
            **({"lower_is_better": errors} if errors else {}),
            "unreadable": sum(item.problem is not None for item in scored.items),
            **({"answers": counts} if (counts := scored.counts) else {}),
        }

    def groups(self, field: str, scored: Scored) -> Mapping[str, Scored]:
        """Value of an annotation field -> the questions that have it, in the order of the results."""
        return scored.by(field)

    def write(self, rows: Sequence[Prediction], folder: Path) -> list[Path]:
        """Write the files that an official tool or server takes into the run folder; returns their paths."""
        form = self.config.submission_format
        if form is None:
            return []
        path = write_submission_file(folder / f"submission_{self.name}.json", rows, form)
        if limit := self.config.dataset.config.limit:
            log.warning("%s has a part of the questions (dataset.limit: %d); a server wants all of them", path, limit)
        return [path]


def confusion(pairs: Iterable[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """correct answer -> given answer -> count, both sorted"""
    table: dict[str, dict[str, int]] = {}
    for correct, given in sorted(pairs):
        row = table.setdefault(correct, {})
        row[given] = row.get(given, 0) + 1
    return table


HELPERS = (  # files here that are no task
    "config", "drawn_answers", "evaluator", "first_question", "metric_settings", "metrics", "mmbench_submission",
    "modality_report", "partial_answers", "predict", "prediction_lines", "prompt", "question_loader", "receipt",
    "receipt_questions", "row_options", "score_text", "scores_file", "scoring", "settings", "several_prompts",
    "statistics", "submissions"
)  # fmt: skip
TASKS: Registry[Task] = Registry("task", "chatbridge.tasks", besides=HELPERS)


def task_for_scoring(name: str, node: Mapping[str, Any]) -> Task:
    """A task of a run folder without its data set, which may be on another machine.

    node     its settings, from resolved.yaml
    raises   ConfigError for settings that are not those of a task
    """
    kind = TASKS.get(str(node.get("name")))
    known = {field.name for field in fields(kind.Config)} - {"dataset"}
    config = make_dataclass(
        "Config",
        [("dataset", Any, None)],
        bases=(kind.Config,),
        namespace={"problems": lambda self: ()},  # of generation, and of the data set
        frozen=True,
        kw_only=True,
    )
    return kind(parse(config, {key: value for key, value in node.items() if key in known}), name, opens_data=False)


__all__ = [
    "FREE", "HELPERS", "TASKS", "Prediction", "PublishedScore", "ReportSettings", "Task", "TaskConfig", "confusion",
    "task_for_scoring"
]  # fmt: skip
