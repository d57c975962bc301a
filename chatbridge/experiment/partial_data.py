"""The data of a file that may be incomplete, for the data commands: every source that can be opened.

Problems are collected beside the open sources, so that one broken source does not hide the others. Settings that name
weights are left aside: `chatbridge weights list` reports whether those files are there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

from chatbridge.common.errors import ConfigError, DataError, Problem, nearest
from chatbridge.common.log import get_logger
from chatbridge.config.constraints import Choice, PartOf
from chatbridge.config.merge import placed
from chatbridge.config.origins import MISSING, is_below
from chatbridge.datasets.builders import Dataset
from chatbridge.datasets.config import DataConfig
from chatbridge.datasets.quarantine import read_quarantine
from chatbridge.datasets.remote_shards.permissions import command_problems, commands_of
from chatbridge.experiment.data import choices_of, open_choices, steps_settled
from chatbridge.experiment.open import open_partial
from chatbridge.experiment.opened import RUN_FILES, Opened, readable
from chatbridge.experiment.tokens import vocabulary_problems
from chatbridge.experiment.validate import drawing_problems, unrouted
from chatbridge.models.weight_files import FILE_SETTINGS
from chatbridge.runners.config import RunConfig, ranks_planned
from chatbridge.tasks import TASKS, Task, TaskConfig

TaskChoice = Annotated[Choice[Task], PartOf(TASKS)]
FILES = (*FILE_SETTINGS, *RUN_FILES)


@dataclass(frozen=True)
class Source:
    """A data set that could be opened.

    at    its place in the configuration
    task  the settings of its task; None for a source of a training
    """

    name: str
    at: str
    builder: str
    dataset: Dataset
    task: TaskConfig | None = None


@dataclass(frozen=True)
class PartialData(Opened[Any]):
    """Everything the data commands read from a file.

    sources   opened, in the order of the file: those of the training first, then the data sets of the tasks
    broken    place -> the problems of the source there
    problems  everything that would stop a run except missing weights
    warnings  of sources that open nevertheless, for example a truncated tar
    data      the data section over the sound sources; None for an evaluation, or when it has mistakes
    run       None for an evaluation, or when it has mistakes
    """

    sources: tuple[Source, ...] = ()
    broken: Mapping[str, list[Problem]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    data: DataConfig | None = None
    run: RunConfig | None = None

    @property
    def trained(self) -> tuple[Source, ...]:
        """The sources of the training."""
        return tuple(source for source in self.sources if source.task is None)

    @property
    def asked(self) -> tuple[Source, ...]:
        """The data sets of the tasks."""
        return tuple(source for source in self.sources if source.task is not None)

    @property
    def default(self) -> tuple[Source, ...]:
        """The sources of a training run, or the data sets of an evaluation's tasks."""
        return self.trained if self.is_training else self.asked

    @property
    def is_training(self) -> bool:
        return "data" in self.mapping

    def find(self, name: str) -> Source:
        """A source or task by its name. raises ConfigError with the names there are"""
        for source in self.sources:
            if source.name == name:
                return source
        known = tuple(source.name for source in self.sources)
        for at, problems in self.broken.items():
            if name in at.split("."):
                raise ConfigError(problems)
        guess = nearest(name, known)
        raise ConfigError([Problem("--source", f"there is no source called {name!r}", allowed=known, nearest=guess)])


def read_data(path: Path, options: Sequence[str] = ()) -> PartialData:
    """Open every source of a file that can be opened. raises ConfigError only when the file itself cannot be read"""
    opened = open_partial(path, options)
    choices = choices_of(opened)
    with _collected_warnings() as warnings:
        found, faults = open_choices(choices, opened.origins)
    refused = command_problems(commands_of(found))
    found = {at: dataset for at, dataset in found.items() if at not in {problem.path for problem in refused}}
    sources = tuple(_sources(opened, choices, found))
    faults += [*refused, *_unusable(opened, sources), *_unlisted(opened), *vocabulary_problems(opened)]
    problems = [one for one in opened.problems if not _is_aside(one, opened)]
    problems = list(dict.fromkeys([*problems, *(placed(one, opened.origins) for one in faults)]))
    places = [*(f"data.sources.{name}" for name in opened.node("data", "sources")),
              *(f"evaluation.tasks.{name}" for name in opened.node("evaluation", "tasks"))]  # fmt: skip
    broken = {at: [one for one in problems if is_below(one.path, at)] for at in places}
    data = _sound_data(opened, sources)
    return PartialData(
        opened.path,
        opened.mapping,
        opened.origins,
        tuple(problems),
        sources=sources,
        broken={at: faults for at, faults in broken.items() if faults},
        warnings=tuple(warnings),
        data=data,
        run=_run(opened, data, sources),
    )


def _sources(
    opened: Opened[Any], choices: Mapping[str, tuple[Choice[Any], str]], found: Mapping[str, Dataset]
) -> Iterator[Source]:
    """The open data sets; one whose task has mistakes is left out."""
    for at, (choice, name) in choices.items():
        if at not in found:
            continue
        if at.startswith("data."):
            yield Source(name, at, choice.name, found[at])
        elif (task := opened.part(TaskChoice, "evaluation", "tasks", name)) is not None:
            yield Source(name, at, choice.name, found[at], task.config)


def _is_aside(problem: Problem, opened: Opened[Any]) -> bool:
    """Problems of weights, and of sections that a file of configs/mixtures or configs/datasets does not have."""
    top, last = problem.path.partition(".")[0], problem.path.rpartition(".")[2]
    is_partial = "run" not in opened.mapping or "model" not in opened.mapping
    return (top in ("model", "run") and last in FILES) or (is_partial and problem.path in ("model", "run"))


def _sound_data(opened: Opened[Any], sources: Sequence[Source]) -> DataConfig | None:
    """The data section over the open sources. `data check` may still write the quarantine list that it names."""
    sound = {source.name: opened.node("data", "sources", source.name) for source in sources if source.task is None}
    section = {key: value for key, value in opened.node("data").items() if key != "quarantine"}
    return readable(DataConfig, {**section, "sources": sound}) if "data" in opened.mapping else None


def _run(opened: Opened[Any], data: DataConfig | None, sources: Sequence[Source]) -> RunConfig | None:
    """The run section; run.max_epochs becomes a number of steps over the open sources."""
    run = {key: value for key, value in opened.node("run").items() if key not in FILES and value != MISSING}
    found: RunConfig | None = None
    if "max_steps" in run or "max_epochs" in run:
        found = readable(RunConfig, {"output_dir": "runs", **run})
    if found is None or data is None or found.max_epochs is None:
        return found
    trained = {source.name: source.dataset for source in sources if source.task is None}
    try:
        return steps_settled(data, found, trained, ranks_planned())
    except (ConfigError, DataError):  # reported where the order is needed
        return found


@contextmanager
def _collected_warnings() -> Iterator[list[str]]:
    """The warnings of our log, for the end of the report."""
    found: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: found.append(record.getMessage())
    logger = get_logger()
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)


def _unlisted(opened: Opened[Any]) -> list[Problem]:
    """Problems of the list of quarantined samples."""
    named = opened.node("data").get("quarantine")
    try:
        read_quarantine(Path(named) if isinstance(named, str) and Path(named).is_file() else None)
    except DataError as error:
        return [Problem("data.quarantine", str(error))]
    return []


def _unusable(opened: Opened[Any], sources: Sequence[Source]) -> list[Problem]:
    """Open sources whose media the model cannot process, or whose drawings cannot be trained on."""
    named = opened.node("data").get("template") or opened.node("model", "language").get("template")
    template = named if isinstance(named, str) else None
    faults = [fault for one in sources if one.task is None for fault in drawing_problems(one.at, one.dataset, template)]
    if routes := opened.node("model", "routes"):
        faults += [fault for one in sources for fault in unrouted(one.at, one.dataset, SimpleNamespace(routes=routes))]
    return faults
