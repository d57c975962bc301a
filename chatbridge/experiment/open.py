"""Read a configuration: the one way from a YAML file, its bases and its options to typed settings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from chatbridge.common.errors import ConfigError, Problem, nearest
from chatbridge.common.log import get_logger
from chatbridge.config.merge import OPTIONS, load, read, with_options
from chatbridge.config.original_keys import with_keys_here
from chatbridge.config.origins import Origins
from chatbridge.config.registry import RESOLVED, add_plugins, plugin_names
from chatbridge.config.schema import parse
from chatbridge.datasets.feature_cache.command import remember_file
from chatbridge.experiment.opened import Opened
from chatbridge.experiment.roots import REGISTRIES, SHARED, Chat, Evaluation, Experiment
from chatbridge.models.checkpoint_manifest import MANIFEST

T = TypeVar("T")
log = get_logger(__name__)


def open_config(kind: type[T], path: str | Path, options: Sequence[str] = ()) -> Opened[T]:
    """Read a file as an Experiment or an Evaluation.

    Mistakes are kept for `Opened.config`, which raises them: `open_data` adds those of the data sets, so that one
    message lists all.
    """
    seen: dict[str, Any] = {}
    remember_file(path, options)

    def prepare(mapping: dict[str, Any]) -> None:
        seen.update(mapping)
        add_plugins(REGISTRIES, plugin_names(mapping))

    try:
        config, mapping, origins = read(kind, path, options, prepare=prepare)
        return Opened(Path(path), mapping, origins, parsed=config)
    except ConfigError as error:
        problems = tuple(with_keys_here(error.problems))
    try:
        origins = load(path, options)[1]
    except ConfigError:  # a file of it is missing or is not YAML
        return Opened(Path(path), seen, Origins(), problems)
    return Opened(Path(path), seen, origins, problems)


def open_partial(path: str | Path, options: Sequence[str] = ()) -> Opened[Any]:
    """Read a file for a command that looks at incomplete files: an Experiment where it has data, else an Evaluation.

    raises   ConfigError only when a file cannot be read
    """
    return open_config(Experiment if "data" in load(path, options)[0] else Evaluation, path, options)


def open_model_file(path: str | Path | None, options: Sequence[str] = ()) -> Opened[Any]:
    """Read a file for a command that looks at its weights: a training, an evaluation or a file of configs/models.

    raises   ConfigError when a file cannot be read, or has no model
    """
    if path is None:
        raise ConfigError([Problem("", "name a YAML file, for example configs/models/chatbridge_vicuna13b.yaml")])
    mapping, origins = load(path, options)
    add_plugins(REGISTRIES, plugin_names(mapping))
    if not isinstance(mapping.get("model"), dict):
        raise ConfigError([Problem("model", "is missing: this file describes no model", file=str(path))])
    return Opened(Path(path), mapping, origins)


def open_chat(path: str | Path, options: Sequence[str] = (), checkpoint: str | Path | None = None) -> Opened[Chat]:
    """Read the part of a file that a model needs to answer. Nothing is read of its data sets, which may be absent.

    path        a file of eval_configs/ or train_configs/, or a run's resolved.yaml
    checkpoint  a run folder or checkpoint that replaces run.init_from
    raises      ConfigError with everything that is wrong, options without effect included
    """
    idle = [problem for option in options if (problem := _idle(option)) is not None]
    if checkpoint is not None:
        options = [*options, f"run.init_from={json.dumps(str(checkpoint))}"]
    try:
        config, mapping, origins = read(Chat, path, options, prepare=_narrow)
    except ConfigError as error:
        raise ConfigError(with_keys_here([*idle, *error.problems])) from None
    if idle:
        raise ConfigError(with_keys_here(idle))
    return Opened(Path(path), mapping, origins, parsed=config)


def chat_from(mapping: Mapping[str, Any], plugins: Iterable[str], options: Sequence[str] = ()) -> Chat:
    """The same from settings that a checkpoint's manifest records instead of a file. raises ConfigError"""
    add_plugins(REGISTRIES, plugins)
    return parse(Chat, *with_options(mapping, options))


def _meant(folder: Path) -> str:
    """The run beside an absent folder whose name is nearest, as the beginning of a hint."""
    near = nearest(folder.name, [file.parent.name for file in folder.parent.glob(f"*/{RESOLVED}")])
    return f"did you mean {folder.parent / near}? " if near else ""


def config_of(checkpoint: str | Path) -> Path:
    """The resolved.yaml of a run folder or of one of its checkpoints.

    raises   ConfigError when the folder does not belong to a run
    """
    folder = Path(checkpoint)
    if (folder / MANIFEST).is_file():
        folder = folder.resolve().parents[1]
    if not (folder / RESOLVED).is_file():
        expected = f"expected a run folder (with {RESOLVED} and checkpoints/) or one of its step_* folders"
        if folder.exists():
            raise ConfigError([Problem("", f"{checkpoint} has no description of its model", hint=expected)])
        raise ConfigError([Problem("", f"{checkpoint} does not exist", hint=f"{_meant(folder)}{expected}")])
    return folder / RESOLVED


def as_trained(options: Sequence[str]) -> list[str]:
    """Options for a run's resolved.yaml: its checkpoint gives the template, unless an option names one."""
    is_named = any(option.startswith(("run.model_from=", "evaluation.template=")) for option in options)
    return [*options] if is_named else [*options, "run.model_from=checkpoint"]


def task_nodes(path: str | Path, options: Sequence[str] = ()) -> Mapping[str, Any]:
    """name -> node of the tasks in a file, unchecked: the demo takes examples from those that can be read."""
    try:
        evaluation = load(path, options)[0].get("evaluation")
    except ConfigError:
        return {}
    tasks = evaluation.get("tasks") if isinstance(evaluation, Mapping) else None
    return tasks if isinstance(tasks, Mapping) else {}


def use_plugins(settings: Mapping[str, Any], path: Path) -> None:
    """Add the plugins of a run's resolved.yaml for its report. A missing plugin costs the examples of its data and
    logs a warning: a report must not need more than the run folder."""
    try:
        add_plugins(REGISTRIES, plugin_names(settings))
    except ConfigError as error:
        reasons = "; ".join(problem.message for problem in error.problems)
        log.warning("%s: %s; the report has no examples of its data", path, reasons)


def plugins_of(checkpoint: str | Path) -> list[str]:
    """The plugins of the run that a checkpoint belongs to; none for a checkpoint that was moved out of its run."""
    try:
        return plugin_names(load(config_of(checkpoint))[0])
    except ConfigError:
        return []


def _narrow(mapping: dict[str, Any]) -> None:
    """Keep what a chat reads, add the plugins."""
    for section in SHARED:
        content = mapping.pop(section, None)
        if isinstance(content, Mapping):
            mapping[section] = {key: content[key] for key in Chat.keys()[section] if key in content}
    add_plugins(REGISTRIES, plugin_names(mapping))


def _idle(option: str) -> Problem | None:
    """The problem of an option that a chat would not read."""
    path = option.partition("=")[0].strip()
    section, _, key = path.partition(".")
    if section not in SHARED or key.partition(".")[0] in Chat.keys()[section]:
        return None  # read, or reported as unknown
    allowed = ("model.*", "plugins.*", *(f"{name}.{inner}" for name, keys in Chat.keys().items() for inner in keys))
    return Problem(path, "has no effect on a chat", OPTIONS, allowed=allowed, nearest=nearest(path, allowed))
