"""What a chat reads of a training or evaluation file: the model, where its trained tensors are, and the template."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from chatbridge.common.errors import ConfigError, Problem, nearest
from chatbridge.config.merge import OPTIONS, load, read
from chatbridge.config.original_keys import with_keys_here
from chatbridge.config.registry import add_plugins, plugin_names
from chatbridge.config.schema import Exists, Range
from chatbridge.conversation.templates import TEMPLATES
from chatbridge.datasets.config import ImageConfig
from chatbridge.experiment.roots import REGISTRIES, language_template
from chatbridge.models.checkpoint_manifest import MANIFEST
from chatbridge.models.config import ModelConfig, with_background
from chatbridge.models.manifest_check import ModelFrom
from chatbridge.processors.limits import ChatLimits

RESOLVED = "resolved.yaml"  # what a run folder says about itself
READ = {  # section -> the keys a chat reads; None: all of them. Other sections and keys belong to other commands
    "model": None, "plugins": None, "run": ("device", "precision", "threads", "init_from", "model_from"),
    "evaluation": ("template", "chat"), "data": ("image",),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ChatRun:
    """Where the model runs."""

    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: cuda where there is one
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 where the device has it, fp32 on a CPU
    threads: Annotated[int, Range(low=1)] | None = (
        None  # of one operation on the CPU; null: OMP_NUM_THREADS, or all cores
    )
    init_from: Annotated[Path, Exists()] | None = None  # a checkpoint or a run folder; null: bridges stay untrained
    model_from: ModelFrom | None = None  # whose settings count where YAML and checkpoint differ; null: that is an error


@dataclass(frozen=True, kw_only=True)
class ChatEvaluation:
    """Of the evaluation, a chat takes the template and its own limits."""

    template: str | None = None  # chat template; null: the one of the language model
    chat: ChatLimits = field(default_factory=ChatLimits)  # what an upload may cost; beyond, it is refused


@dataclass(frozen=True, kw_only=True)
class ChatData:
    """Of a training file's data, a chat takes how images are read."""

    image: ImageConfig = field(default_factory=ImageConfig)


@dataclass(frozen=True, kw_only=True)
class ChatConfig:
    """A model to talk to."""

    model: ModelConfig
    run: ChatRun = field(default_factory=ChatRun)
    evaluation: ChatEvaluation = field(default_factory=ChatEvaluation)
    data: ChatData = field(default_factory=ChatData)
    plugins: tuple[str, ...] = ()  # packages with parts of your own

    def __post_init__(self) -> None:
        if (background := self.data.image.background) is not None:  # as Experiment does it
            encoders = with_background(self.model.encoders, background)
            object.__setattr__(self, "model", replace(self.model, encoders=encoders))

    @property
    def template(self) -> str:
        return self.evaluation.template or language_template(self.model) or ""

    def problems(self) -> Iterator[Problem]:
        names = TEMPLATES.names()
        if not self.template:
            yield Problem("evaluation.template", "is missing, and the language model names none", allowed=names)
        elif self.template not in names:
            message = f"there is no template named {self.template!r}"
            yield Problem("evaluation.template", message, allowed=names, nearest=nearest(self.template, names))


def read_chat(path: str | Path, options: Sequence[str] = (), checkpoint: str | Path | None = None) -> ChatConfig:
    """The part of a file that a chat needs. Data sets need not be there: nothing of them is read.

    path        a file of eval_configs/ or train_configs/, or a run's resolved.yaml
    checkpoint  whose trained tensors to take, instead of run.init_from
    raises      ConfigError with everything that is wrong, options that change nothing here included
    """
    idle = [problem for option in options if (problem := _idle(option)) is not None]
    if checkpoint is not None:
        options = [*options, f"run.init_from={json.dumps(str(checkpoint))}"]
    try:
        config = read(ChatConfig, path, options, prepare=_narrow)[0]
    except ConfigError as error:
        raise ConfigError(with_keys_here([*idle, *error.problems])) from None
    if idle:
        raise ConfigError(with_keys_here(idle))
    return config


def config_of(checkpoint: str | Path) -> Path:
    """The resolved.yaml of a run folder or of one of its checkpoints.

    raises   ConfigError when the folder is not from a run of ours
    """
    folder = Path(checkpoint)
    if (folder / MANIFEST).is_file():
        folder = folder.resolve().parents[1]
    if not (folder / RESOLVED).is_file():
        hint = f"expected a run folder (with {RESOLVED} and checkpoints/) or one of its step_* folders"
        raise ConfigError([Problem("", f"{checkpoint} does not say how its model is built", hint=hint)])
    return folder / RESOLVED


def as_trained(options: Sequence[str]) -> list[str]:
    """Options for a run's own resolved.yaml: its checkpoint says the template, unless an option names one."""
    is_told = any(option.startswith(("run.model_from=", "evaluation.template=")) for option in options)
    return [*options] if is_told else [*options, "run.model_from=checkpoint"]


def task_nodes(path: str | Path, options: Sequence[str] = ()) -> Mapping[str, Any]:
    """name -> node of the tasks in a file, unchecked: the demo takes examples from those that happen to be readable."""
    try:
        evaluation = load(path, options)[0].get("evaluation")
    except ConfigError:
        return {}
    tasks = evaluation.get("tasks") if isinstance(evaluation, Mapping) else None
    return tasks if isinstance(tasks, Mapping) else {}


def _narrow(mapping: dict[str, Any]) -> None:
    """Drop what other commands read, add the plugins."""
    for section in ("data", "run", "evaluation"):
        content = mapping.pop(section, None)
        if section in READ and isinstance(content, Mapping):
            mapping[section] = {key: content[key] for key in READ[section] or () if key in content}
    add_plugins(REGISTRIES, plugin_names(mapping))


def _idle(option: str) -> Problem | None:
    """An option that a chat would not even look at."""
    path = option.partition("=")[0].strip()
    section, _, key = path.partition(".")
    if section not in ("data", "run", "evaluation"):
        return None  # read, or reported as unknown
    keys = READ.get(section) or ()
    if key.partition(".")[0] in keys:
        return None
    allowed = tuple(f"{name}.{inner}" for name, inners in READ.items() for inner in inners or ("*",))
    return Problem(path, "changes nothing in a chat", OPTIONS, allowed=allowed, nearest=nearest(path, allowed))
