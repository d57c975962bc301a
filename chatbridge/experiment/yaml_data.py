"""The data of any configuration, opened before its weights are on the disk.

What is wrong is collected beside what could be opened, so that one broken source hides no other. Settings that name
weight files are left aside: whether those are there is what `chatbridge weights list` answers.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from chatbridge.common.errors import ConfigError, DataError, Problem, nearest
from chatbridge.common.log import get_logger
from chatbridge.config.constraints import Choice, PartOf
from chatbridge.config.merge import load, placed, read
from chatbridge.config.origins import MISSING, Origins, Unresolved, is_below
from chatbridge.config.registry import add_plugins, plugin_names
from chatbridge.config.schema import parse
from chatbridge.datasets.builders import Dataset
from chatbridge.datasets.config import DataConfig, SourceChoice
from chatbridge.datasets.quarantine import read_quarantine
from chatbridge.datasets.remote_shards.permissions import add_allow_pipe, command_problems, commands_of
from chatbridge.experiment.roots import REGISTRIES, Evaluation, Experiment, drawing_problems, open_choices, unrouted
from chatbridge.experiment.vocabulary import vocabulary_problems
from chatbridge.runners.config import RunConfig
from chatbridge.tasks import TASKS, Task, TaskConfig

T = TypeVar("T")
MOST = 10**9  # of anything that is counted on the command line
FILES = ("weights", "norm_weights", "tokenizer", "init_from", "resume")  # settings that name weights


@dataclass(frozen=True)
class Source:
    """A data set that could be opened.

    at    where the configuration has it
    task  what asks its questions; None for a source of a training
    """

    name: str
    at: str
    builder: str
    dataset: Dataset
    task: TaskConfig | None = None


@dataclass(frozen=True)
class DataOfYaml:
    """Everything the data commands read from a file.

    sources   opened, in the order of the file: those of the training first, then the data sets of the tasks
    broken    place -> what is wrong with the source there
    problems  everything that would stop a run but for missing weights, that of the sources included
    warnings  what sources say that open nevertheless, for example of a tar that breaks off
    data      the data section over the sources that are sound; None for an evaluation, or when it cannot be read
    run       None for an evaluation, or when it cannot be read
    """

    path: Path
    mapping: Mapping[str, Any]
    origins: Origins
    sources: tuple[Source, ...] = ()
    broken: Mapping[str, list[Problem]] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()
    data: DataConfig | None = None
    run: RunConfig | None = None

    @property
    def trained(self) -> tuple[Source, ...]:
        return tuple(source for source in self.sources if source.task is None)

    @property
    def asked(self) -> tuple[Source, ...]:
        return tuple(source for source in self.sources if source.task is not None)

    @property
    def default(self) -> tuple[Source, ...]:
        """What a training learns from, or what an evaluation asks."""
        return self.trained if self.is_training else self.asked

    @property
    def is_training(self) -> bool:
        return "data" in self.mapping

    def node(self, *keys: str) -> Mapping[str, Any]:
        """A part of the file; empty when it is not there, or no mapping."""
        node: Any = self.mapping
        for key in keys:
            node = node.get(key) if isinstance(node, Mapping) else None
        return node if isinstance(node, Mapping) else {}

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


def whole(low: int, high: int = MOST) -> Callable[[str], int]:
    """The type of an argument of the command line: a whole number within these bounds."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected a whole number from {low} to {high}, got {text!r}")
        return value

    return number


def config_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, metavar="CFG", help="the YAML of a training or an evaluation")
    parser.add_argument(
        "--options", nargs="+", default=[], metavar="KEY=VALUE", help="settings that replace the file's"
    )
    add_allow_pipe(parser)


def read_data(path: Path, options: Sequence[str] = ()) -> DataOfYaml:
    """Open every source of a file. raises ConfigError only when the file itself cannot be read"""
    mapping, origins = load(path, options)
    problems: list[Problem] = []
    try:
        add_plugins(REGISTRIES, plugin_names(mapping))
    except ConfigError as error:
        problems += error.problems
    found = DataOfYaml(path, mapping, origins)
    problems += _mistakes(found, path, options)
    with _heard() as warnings:
        sources, faults = _opened(found)
    refused = command_problems(commands_of({source.at: source.dataset for source in sources}))
    sources = tuple(source for source in sources if source.at not in {problem.path for problem in refused})
    faults += [placed(problem, origins) for problem in refused]
    words = [placed(one, origins) for one in vocabulary_problems(found.node("model"))]
    problems = list(dict.fromkeys([*problems, *faults, *_unusable(found, sources), *_unlisted(found), *words]))
    places = [*(f"data.sources.{name}" for name in found.node("data", "sources")),
              *(f"evaluation.tasks.{name}" for name in found.node("evaluation", "tasks"))]  # fmt: skip
    broken = {at: [one for one in problems if is_below(one.path, at)] for at in places}
    sound = {source.name: found.node("data", "sources")[source.name] for source in sources if source.task is None}
    data = {key: value for key, value in found.node("data").items() if key != "quarantine"}  # check may yet write it
    run = {key: value for key, value in found.node("run").items() if key not in FILES and value != MISSING}
    return replace(
        found,
        sources=sources,
        broken={at: faults for at, faults in broken.items() if faults},
        problems=tuple(problems),
        warnings=tuple(warnings),
        data=_parsed(DataConfig, {**data, "sources": sound}) if found.is_training else None,
        run=_parsed(RunConfig, {"output_dir": "runs", **run}) if "max_steps" in run else None,
    )


def _mistakes(found: DataOfYaml, path: Path, options: Sequence[str]) -> list[Problem]:
    """What `train.py` or an evaluation would say to the file, without what it says about weights."""
    try:
        read(Experiment if found.is_training else Evaluation, path, options)
    except ConfigError as error:
        return [problem for problem in error.problems if not _is_aside(problem, found)]
    return []


def _is_aside(problem: Problem, found: DataOfYaml) -> bool:
    """Weights, and whole sections that a file of configs/mixtures or configs/datasets does not have."""
    top, last = problem.path.partition(".")[0], problem.path.rpartition(".")[2]
    is_part = "run" not in found.mapping or "model" not in found.mapping
    return (top in ("model", "run") and last in FILES) or (is_part and problem.path in ("model", "run"))


def _opened(found: DataOfYaml) -> tuple[tuple[Source, ...], list[Problem]]:
    """Each source by itself. Its mistakes of spelling are among those of the whole file already."""
    choices: dict[str, tuple[Choice[Dataset], str, TaskConfig | None]] = {}
    for name, node in found.node("data", "sources").items():
        if (one := _parsed(_OneSource, {"source": node})) is not None:
            choices[f"data.sources.{name}"] = (one.source, name, None)
    for name, node in found.node("evaluation", "tasks").items():
        if (asked := _parsed(_OneTask, {"task": node})) is not None:
            config: TaskConfig = asked.task.config
            choices[f"evaluation.tasks.{name}.dataset"] = (config.dataset, name, config)
    named = {at: replace(choice, part=partial(_build, choice, name)) for at, (choice, name, _) in choices.items()}
    opened, faults = open_choices(named, found.origins)
    sources = (Source(name, at, choice.name, opened[at], task)
               for at, (choice, name, task) in choices.items() if at in opened)  # fmt: skip
    return tuple(sources), faults


@contextmanager
def _heard() -> Iterator[list[str]]:
    """The warnings of our log, which would otherwise stand somewhere above the report."""
    heard: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: heard.append(record.getMessage())
    logger = get_logger()
    logger.addHandler(handler)
    try:
        yield heard
    finally:
        logger.removeHandler(handler)


def _build(choice: Choice[Dataset], name: str, config: Any, _: str) -> Dataset:
    return choice.part(config, name)


def _unlisted(found: DataOfYaml) -> list[Problem]:
    """What a run would say to its list of quarantined samples when it opens it."""
    named = found.node("data").get("quarantine")
    try:
        read_quarantine(Path(named) if isinstance(named, str) and Path(named).is_file() else None)
    except DataError as error:
        at = found.origins.find("data.quarantine")
        return [Problem("data.quarantine", str(error), file=at.file if at else None, line=at.line if at else None)]
    return []


def _unusable(found: DataOfYaml, sources: Sequence[Source]) -> list[Problem]:
    """Sources whose media the model cannot take, or whose drawings cannot be trained on, once they are open and know
    what they hold."""
    named = found.node("data").get("template") or found.node("model", "language").get("template")
    template = named if isinstance(named, str) else None
    faults = [fault for one in sources if one.task is None for fault in drawing_problems(one.at, one.dataset, template)]
    if routes := found.node("model", "routes"):
        model: Any = argparse.Namespace(routes=routes)
        faults += [fault for one in sources for fault in unrouted(one.at, one.dataset, model)]
    placed = ((fault, found.origins.find(fault.path)) for fault in faults)
    return [replace(fault, file=origin.file, line=origin.line) if origin else fault for fault, origin in placed]


@dataclass(frozen=True, kw_only=True)
class _OneSource:
    source: SourceChoice


@dataclass(frozen=True, kw_only=True)
class _OneTask:
    task: Annotated[Choice[Task], PartOf(TASKS)]


def _parsed(kind: type[T], node: Mapping[str, Any]) -> T | None:
    """None when it has mistakes; the whole file was parsed before, so they are known."""
    if any(isinstance(value, Unresolved) for value in node.values()):
        return None
    try:
        return parse(kind, node)
    except ConfigError:
        return None
