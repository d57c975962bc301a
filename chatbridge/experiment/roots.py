"""The root of a configuration, and the one way to read it: everything that is wrong with it is reported at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from chatbridge.common.environment import with_references
from chatbridge.common.errors import ConfigError, DataError, Problem, nearest
from chatbridge.config.added_settings import with_added_settings
from chatbridge.config.merge import load, placed, read
from chatbridge.config.original_keys import with_keys_here
from chatbridge.config.origins import Origins
from chatbridge.config.registry import add_plugins, plugin_names
from chatbridge.config.schema import parse, plain
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.conversation.templates import TEMPLATES
from chatbridge.datasets.builders import BUILDERS, Dataset
from chatbridge.datasets.config import DataConfig, SourceChoice
from chatbridge.datasets.piece_counts import piece_count_problems
from chatbridge.experiment.validate import batch_problems, mixed_piece_problems, piece_problems
from chatbridge.models.bridges import BRIDGES
from chatbridge.models.checkpoints import checkpoints
from chatbridge.models.config import ModelConfig, has_background, with_background
from chatbridge.models.encoders import ENCODERS
from chatbridge.models.fusion import FUSIONS
from chatbridge.models.generators import GENERATORS
from chatbridge.models.language import LANGUAGES
from chatbridge.runners.config import ComputeConfig, RunConfig, ranks_planned
from chatbridge.tasks import TASKS, Task
from chatbridge.tasks.config import EvaluationConfig

PARTS = (ENCODERS, BRIDGES, LANGUAGES, FUSIONS, GENERATORS, BUILDERS, TEMPLATES, TASKS)
REGISTRIES = (MODALITIES, *PARTS)  # what a plugin may add to


def language_template(model: ModelConfig) -> str | None:
    """The chat template that belongs to the language model."""
    return getattr(model.language.config, "template", None)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A training run: the whole content of a file in train_configs/."""

    model: ModelConfig
    data: DataConfig
    run: RunConfig
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    plugins: tuple[str, ...] = ()  # packages with parts of your own: my_lab/encoders/..., my_lab/tasks/...

    def __post_init__(self) -> None:
        if (background := self.data.image.background) is not None:  # a part of the model from here on
            encoders = with_background(self.model.encoders, background)
            object.__setattr__(self, "model", replace(self.model, encoders=encoders))

    @property
    def template(self) -> str:
        return self.data.template or language_template(self.model) or ""

    @property
    def evaluation_template(self) -> str:
        return self.evaluation.template or self.template

    def problems(self) -> Iterator[Problem]:
        if not self.template:
            yield Problem("data.template", "is missing, and the language model names none", allowed=TEMPLATES.names())
        if not self.model.trainable:
            hint = 'name what trains, for example ["bridges.*"]'
            yield Problem("model.trainable", "is empty: nothing would train", hint=hint)
        if self.data.image.background is not None and not any(map(has_background, self.model.encoders.values())):
            yield Problem("data.image.background", "changes nothing: no encoder of this model has a background")
        yield from batch_problems(self.data, self.run, ranks_planned())
        yield from mixed_piece_problems(self.data, self.model)
        for name, choice in self.data.sources.items():
            yield from unrouted(f"data.sources.{name}", choice.config, self.model)
            yield from piece_problems(f"data.sources.{name}", choice.config, self.model)
        yield from task_problems(self.evaluation, self.model)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A file in eval_configs/: a model, the tasks it is given, where to look for its trained tensors."""

    model: ModelConfig
    evaluation: EvaluationConfig
    run: ComputeConfig
    plugins: tuple[str, ...] = ()  # packages with parts of your own

    @property
    def evaluation_template(self) -> str:
        return self.evaluation.template or language_template(self.model) or ""

    def problems(self) -> Iterator[Problem]:
        if not self.evaluation_template:
            message = "is missing, and the language model names none"
            yield Problem("evaluation.template", message, allowed=TEMPLATES.names())
        if not self.evaluation.tasks:
            yield Problem("evaluation.tasks", "is empty; name at least one task", allowed=TASKS.names())
        folder = self.run.output_dir
        if checkpoints(folder / "checkpoints"):
            message = f"is {folder}, the folder of a training: its resolved.yaml would be written over"
            yield Problem("run.output_dir", message, hint=f"name another folder, for example {folder / 'eval'}")
        yield from task_problems(self.evaluation, self.model)


def task_problems(evaluation: EvaluationConfig, model: ModelConfig) -> Iterator[Problem]:
    """Tasks whose media the model cannot take."""
    for name, choice in evaluation.tasks.items():
        for dropped in choice.config.drop_media:
            if dropped not in MODALITIES:
                names = MODALITIES.names()
                message = f"there is no modality named {dropped!r}"
                place = f"evaluation.tasks.{name}.drop_media"
                yield Problem(place, message, allowed=names, nearest=nearest(dropped, names))
        path, source = f"evaluation.tasks.{name}.dataset", choice.config.dataset.config
        yield from unrouted(path, source, model)
        yield from (replace(one, path=f"{path}.{one.path}") for one in piece_count_problems(source))
        yield from piece_problems(path, source, model)


def unrouted(path: str, source: Any, model: ModelConfig) -> Iterator[Problem]:
    """A source whose media the model cannot take. Sources that only know after opening go to the failure log."""
    for modality in getattr(source, "modalities", ()):
        if modality not in model.routes:
            message = f"holds {modality}, for which the model has no route"
            yield Problem(path, message, allowed=tuple(model.routes), hint="add one under model.routes")


def drawing_problems(path: str, source: Dataset, template: str | None = None) -> Iterator[Problem]:
    """An open source whose drawings a run cannot train on. template: None when it is not known"""
    if source.has_drawings and template in TEMPLATES.names() and not TEMPLATES.get(template).can_draw:
        able = tuple(name for name in TEMPLATES.names() if TEMPLATES.get(name).can_draw)
        hint = "no template that ships can draw; a plugin may bring one" if not able else None
        yield Problem(path, f"holds drawings, which the template {template} cannot write", allowed=able, hint=hint)
    if (message := source.untrainable()) is not None:
        hint = "give each drawing the `path` of its image, or leave these records out"
        yield Problem(path, message, hint=hint)


Root = TypeVar("Root", Experiment, Evaluation)


@dataclass(frozen=True)
class Opened(Generic[Root]):
    """A configuration without a mistake, with everything it reads opened."""

    config: Root
    sources: dict[str, Dataset]
    tasks: dict[str, Task]
    references: Mapping[str, str] = field(default_factory=dict)  # path -> ${oc.env:...}

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration as plain values for files and messages: references in place of the environment's values."""
        return with_references(plain(self.config), self.references)

    def completed(self, then: Mapping[str, Any]) -> dict[str, Any]:
        """Settings that an earlier version wrote, with the defaults of those that it did not have."""
        return with_added_settings(type(self.config), then, plain(self.config))

    @property
    def datasets(self) -> dict[str, Dataset]:
        """Everything that is read, by its path in the configuration."""
        sources = {f"data.sources.{name}": dataset for name, dataset in self.sources.items()}
        return sources | {f"evaluation.tasks.{name}.dataset": task.dataset for name, task in self.tasks.items()}


def open_config(kind: type[Root], path: str | Path, options: Sequence[str] = ()) -> Opened[Root]:
    """Read a file and open the data it names.

    raises  ConfigError with every mistake: misspelled keys, wrong values, missing files, data sets without samples
    """
    seen: dict[str, Any] = {}

    def prepare(mapping: dict[str, Any]) -> None:
        seen.update(mapping)
        add_plugins(REGISTRIES, plugin_names(mapping))

    try:
        config, _, origins = read(kind, path, options, prepare=prepare)
    except ConfigError as error:
        found = with_keys_here(error.problems)
        raise ConfigError([*found, *_faults_of_the_rest(seen, path, options)]) from None
    data = {f"data.sources.{name}": choice for name, choice in _sources(config).items()}
    tasks = {f"evaluation.tasks.{name}": choice for name, choice in config.evaluation.tasks.items()}
    opened, problems = open_choices({**data, **tasks}, origins)
    if problems:
        raise ConfigError(problems)
    sources = {_last(at): opened[at] for at in data}
    if isinstance(config, Experiment):
        found = [*mixed_piece_problems(config.data, config.model, sources)]
        for name, dataset in sources.items():
            found += drawing_problems(f"data.sources.{name}", dataset, config.template)
        if problems := [placed(one, origins) for one in found]:
            raise ConfigError(problems)
    return Opened(config, sources, {_last(at): opened[at] for at in tasks}, origins.references)


def _sources(config: Experiment | Evaluation) -> Mapping[str, Any]:
    return config.data.sources if isinstance(config, Experiment) else {}


def open_choices(choices: Mapping[str, Any], origins: Origins) -> tuple[dict[str, Any], list[Problem]]:
    """Open what was chosen, by path; what cannot be opened becomes a problem at its path."""
    opened: dict[str, Any] = {}
    problems: list[Problem] = []
    for path, choice in choices.items():
        try:
            opened[path] = choice.part(choice.config, _last(path))
        except ConfigError as error:
            problems += [placed(replace(one, path=f"{path}.{_last(one.path)}"), origins) for one in error.problems]
        except DataError as error:
            message, _, rest = str(error).partition("\n")
            problems.append(placed(Problem(path, message, hint=rest or None), origins))
    return opened, problems


def _faults_of_the_rest(mapping: Mapping[str, Any], path: str | Path, options: Sequence[str]) -> list[Problem]:
    """When the configuration has mistakes: what is wrong with the data of those sources that read well nevertheless."""
    try:
        _, origins = load(path, options)
    except ConfigError:
        origins = Origins()
    sources = {f"data.sources.{name}": node for name, node in _mapping(mapping, "data", "sources").items()}
    for name, node in _mapping(mapping, "evaluation", "tasks").items():
        sources[f"evaluation.tasks.{name}.dataset"] = node.get("dataset") if isinstance(node, Mapping) else None
    readable = {at: choice for at, node in sources.items() if (choice := _choice(node)) is not None}
    return open_choices(readable, origins)[1]


@dataclass(frozen=True, kw_only=True)
class _OneSource:
    source: SourceChoice


def _choice(node: Any) -> Any:
    """The source a node describes, or None when it has mistakes, which are reported already."""
    try:
        return parse(_OneSource, {"source": node}).source
    except ConfigError:
        return None


def _mapping(mapping: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    node: Any = mapping
    for key in keys:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node if isinstance(node, Mapping) else {}


def _last(path: str) -> str:
    return path.rpartition(".")[2]
