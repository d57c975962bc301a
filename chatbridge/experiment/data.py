"""The data of a run: its data sets, opened, their order, and the loader."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from chatbridge.common.dist import Dist
from chatbridge.common.errors import ConfigError, DataError, Problem
from chatbridge.config.constraints import Choice
from chatbridge.config.merge import placed
from chatbridge.config.origins import Origins
from chatbridge.conversation.layout import Layout
from chatbridge.datasets.batching import Batching, default_token_budget
from chatbridge.datasets.build_mixture import build_mixture, steps_of_epochs
from chatbridge.datasets.builders import Dataset
from chatbridge.datasets.config import DataConfig, SourceChoice
from chatbridge.datasets.failure_log import FailureLog
from chatbridge.datasets.loader import BatchLoader, build_loader
from chatbridge.datasets.order.mixture import Mixture
from chatbridge.datasets.quarantine import Quarantine
from chatbridge.datasets.shared_lengths import LengthTable
from chatbridge.datasets.validation_loader import HeldOutSamples
from chatbridge.experiment.opened import Opened
from chatbridge.experiment.roots import Experiment
from chatbridge.experiment.start import global_batch
from chatbridge.experiment.training_tasks import tasks_during_training
from chatbridge.experiment.validate import drawing_problems, mixed_piece_problems
from chatbridge.experiment.validate_watching import stream_problems
from chatbridge.models.chat_model import ChatModel
from chatbridge.processors.media_processor import with_limits
from chatbridge.runners.config import RunConfig
from chatbridge.runners.step_loss import ONE_STREAM
from chatbridge.runners.validation import Validator
from chatbridge.tasks import Task
from chatbridge.tasks.first_question import task_problems


@dataclass(frozen=True)
class RunData:
    """The open data sets of a run: sources of the training, tasks of the evaluation, by name."""

    sources: dict[str, Dataset]
    tasks: dict[str, Task]

    @property
    def datasets(self) -> dict[str, Dataset]:
        """place in the configuration -> data set"""
        sources = {f"data.sources.{name}": dataset for name, dataset in self.sources.items()}
        return sources | {f"evaluation.tasks.{name}.dataset": task.dataset for name, task in self.tasks.items()}


def open_data(opened: Opened[Any]) -> RunData:
    """Open every data set that a configuration names.

    raises  ConfigError with every mistake: those of the configuration, and data sets that are missing, malformed, empty
            or of no use to the model
    """
    if opened.problems:
        raise ConfigError([*opened.problems, *open_choices(choices_of(opened), opened.origins)[1]])
    config = opened.config
    sources = config.data.sources if isinstance(config, Experiment) else {}
    data = {f"data.sources.{name}": (choice, name) for name, choice in sources.items()}
    is_training = isinstance(config, Experiment)
    asked = tasks_during_training(config.run, config.evaluation) if is_training else config.evaluation.tasks
    tasks = {f"evaluation.tasks.{name}": (choice, name) for name, choice in asked.items()}
    found, problems = open_choices({**data, **tasks}, opened.origins)
    if problems:
        raise ConfigError(problems)
    for at in tasks:
        problems += [replace(one, path=f"{at}.{one.path}") for one in task_problems(found[at])]
    if problems:
        raise ConfigError([placed(one, opened.origins) for one in problems])
    open_sources = {name: found[at] for at, (_, name) in data.items()}
    if isinstance(config, Experiment):
        problems += mixed_piece_problems(config.data, config.model, open_sources)
        for at in data:
            problems += drawing_problems(at, found[at], config.template)
        if problems:
            raise ConfigError([placed(one, opened.origins) for one in problems])
    return RunData(open_sources, {name: found[at] for at, (_, name) in tasks.items()})


def with_steps(opened: Opened[Experiment], sources: Mapping[str, Dataset], num_ranks: int) -> Opened[Experiment]:
    """The same training with the number of steps that run.max_epochs gives over its open sources.

    raises  ConfigError for settings that do not fit that number, for example a longer warm-up
    """
    config = opened.config
    if config.run.max_epochs is None:
        return opened
    run = steps_settled(config.data, config.run, sources, num_ranks)
    if problems := [replace(one, path=f"run.{one.path}") for one in run.problems()]:
        raise ConfigError([placed(one, opened.origins) for one in problems])
    return replace(opened, parsed=replace(config, run=run))


def steps_settled(data: DataConfig, run: RunConfig, sources: Mapping[str, Dataset], num_ranks: int) -> RunConfig:
    """The run with its number of steps: the smaller of max_steps and that of max_epochs."""
    if run.max_epochs is None:
        return run
    batch = global_batch(run, num_ranks)
    mixture = build_mixture(data, sources, run.seed, batch, micro_batch=run.micro_batch, is_limited=False)
    return replace(run, max_steps=min(run.max_steps, steps_of_epochs(run.max_epochs, mixture)))


def run_mixture(data: DataConfig, run: RunConfig, sources: Mapping[str, Dataset], num_ranks: int) -> Mixture[Dataset]:
    """The order of a run's data over its open sources. raises ConfigError when max_passes or validation leaves too
    little of them"""
    batch = global_batch(run, num_ranks)
    mixture = build_mixture(data, sources, run.seed, batch, micro_batch=run.micro_batch, max_steps=run.max_steps)
    if problems := list(stream_problems(run, mixture)):
        raise ConfigError(problems)
    return mixture


def run_validator(
    data: DataConfig, run: RunConfig, dist: Dist, mixture: Mixture[Dataset], layout: Any, model: ChatModel
) -> Validator | None:
    """The validation of a run on its held-out samples; None without one. layout: of the training"""
    if run.validate_every is None:
        return None
    processors = {name: with_limits(one, data.media) for name, one in model.processors(train=False).items()}
    samples = HeldOutSamples(mixture, layout, processors, run.seed, run.micro_batch)
    return Validator(model, samples, dist, data.num_workers, data.stream_weights or ONE_STREAM)


def run_loader(
    data: DataConfig,
    run: RunConfig,
    dist: Dist,
    mixture: Mixture[Dataset],
    layout: Layout,
    processors: Mapping[str, Any],
    failure_log: FailureLog,
    quarantine: Quarantine,
) -> Callable[[int, int], BatchLoader]:
    """(start, stop) -> this rank's micro-batches from step `start` up to step `stop`. Every rank calls it.

    layout      the Layout of the training
    processors  modality -> its processor for training
    """
    table = LengthTable.shared(dist) if data.batching == "grouped" else None

    def steps(start: int, stop: int) -> BatchLoader:
        return build_loader(
            mixture,
            layout,
            processors,
            micro_batch=run.micro_batch,
            accumulate=run.accumulate,
            batching=batching_of(data, layout),
            rank=dist.rank,
            world=dist.world_size,
            start_step=start,
            stop_step=stop,
            num_workers=data.num_workers,
            seed=run.seed,
            failure_log=failure_log,
            quarantine=quarantine,
            pin_memory=dist.device.type == "cuda",
            length_table=table,
        )

    return steps


def batching_of(data: DataConfig, layout: Layout) -> Batching:
    """The batching of a run. layout: of the training"""
    budget = data.token_budget or default_token_budget(layout.context_length, layout.longest)
    return Batching(data.batching, data.group_window, budget)


def open_choices(
    choices: Mapping[str, tuple[Choice[Any], str]], origins: Origins
) -> tuple[dict[str, Any], list[Problem]]:
    """What could be opened, by place in the configuration, and a problem for each data set that could not.

    choices   place -> the data set or task to open, and its name
    """
    opened: dict[str, Any] = {}
    problems: list[Problem] = []
    for at, (choice, name) in choices.items():
        try:
            opened[at] = choice.part(choice.config, name)
        except ConfigError as error:
            for one in error.problems:
                problems.append(placed(replace(one, path=f"{at}.{one.path.rpartition('.')[2]}"), origins))
        except DataError as error:
            message, _, rest = str(error).partition("\n")
            problems.append(placed(Problem(at, message, hint=rest or None), origins))
    return opened, problems


def choices_of(opened: Opened[Any]) -> dict[str, tuple[Choice[Any], str]]:
    """place -> the data set and its name, of those whose settings have no mistake."""
    places = {(f"data.sources.{name}", name): opened.part(SourceChoice, "data", "sources", name)
              for name in opened.node("data", "sources")}  # fmt: skip
    for name in opened.node("evaluation", "tasks"):
        dataset = opened.part(SourceChoice, "evaluation", "tasks", name, "dataset")
        places[f"evaluation.tasks.{name}.dataset", name] = dataset
    return {at: (choice, name) for (at, name), choice in places.items() if choice is not None}
