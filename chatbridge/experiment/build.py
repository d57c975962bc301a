"""Build the model of a configuration: the one builder for train, evaluate, demo, generate, load_model and checks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch

from chatbridge.common import dist as ranks
from chatbridge.common.dist import Dist
from chatbridge.common.environment import hidden_in
from chatbridge.common.errors import ConfigError, Problem, reported_at
from chatbridge.common.threads import use_threads
from chatbridge.config.schema import plain
from chatbridge.conversation.layout import Layout
from chatbridge.conversation.templates import TEMPLATES, build_template
from chatbridge.conversation.tokenizer import Tokenizer
from chatbridge.datasets.batching import BatchingKind
from chatbridge.datasets.builders import Dataset
from chatbridge.experiment.roots import Chat, Evaluation
from chatbridge.experiment.validate_adapters import marked_trainable
from chatbridge.models.adapter_layers import inject_adapters
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.chat_template import template_strings
from chatbridge.models.checkpoint_manifest import read_manifest
from chatbridge.models.checkpoints import find_checkpoint, is_run_or_checkpoint
from chatbridge.models.config import ModelConfig
from chatbridge.models.generators import Generator
from chatbridge.models.importers.released import load_model_weights, start_from
from chatbridge.models.loading import load_weights
from chatbridge.models.manifest_check import Reconciled, reconcile
from chatbridge.models.memory import by_component, components
from chatbridge.models.preprocessing_record import preprocessing_of
from chatbridge.models.start_from_checkpoint import tokenizer_fingerprint
from chatbridge.models.tokenizer_loading import read_tokenizer, slot_ids
from chatbridge.models.trainable import TrainableReport
from chatbridge.runners.config import Precision, compute_dtype
from chatbridge.runners.optimizer_groups import GroupConfig


@dataclass
class Built:
    """A model with its tokenizer and its layouts.

    trainable  its trainable parameters
    template   name and strings of the checkpoint's template, where the checkpoint's side is taken; None otherwise
    """

    model: ChatModel
    trainable: TrainableReport
    template: Mapping[str, Any] | None = None

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """raises ConfigError when there is none, or the model lacks an id that it writes"""
        return read_tokenizer(self.model.language, self.model.config.added_tokens)

    def layout(self, template: str, max_tokens: int | None = None) -> Layout:
        """How conversations become token sequences.

        template    name of the template, unless the checkpoint's is taken
        max_tokens  longest sequence of a training; None: the context length of the language model
        raises      ConfigError when the model cannot use the template, or lacks the token of a media slot
        """
        strings = dict(self.template or {"name": template})
        return layout_of(self.model, self.tokenizer, strings.pop("name"), strings, max_tokens)

    def load_weights(
        self,
        device: torch.device,
        precision: Precision,
        layers_later: bool = False,
        exceptions: Mapping[str, Literal["fp32", "bf16"]] = MappingProxyType({}),
    ) -> list[str]:
        """Read the weights files of the model and move it to the device; a line per file. raises ConfigError

        exceptions     run.compute_dtype
        layers_later   leave the decoder layers to `parallel.place`, which reads only the rows of this rank
        """
        with reported_at("model"):
            dtype, own = compute_dtype(precision, device), by_component(exceptions, components(self.model))
            dtypes = {name: compute_dtype(one, device) for name, one in own.items()}
            lines = load_weights(self.model, device, dtype, layers_later, dtypes)
        with reported_at("model.weights"):
            return lines + load_model_weights(self.model)

    def start_from(self, checkpoint: Path) -> str:
        """Take the trained tensors of run.init_from; the report. raises ConfigError when they do not fit"""
        with reported_at("run.init_from"):
            return str(start_from(self.model, checkpoint, self.tokenizer))


def layout_of(
    model: ChatModel, tokenizer: Tokenizer, name: str, strings: Mapping[str, Any], max_tokens: int | None = None
) -> Layout:
    """How conversations become token sequences with a template.

    name, strings  of the template: those of a checkpoint, or none beside the settings of the model
    max_tokens     longest sequence of a training; None: the context length of the language model
    raises         ConfigError when the model cannot use the template, or lacks the token of a media slot
    """
    own = template_strings(model.config, name)
    free = {key: value for key, value in own.items() if key in TEMPLATES.get(name).free_settings}
    made = build_template(name, **{**own, **strings, **free})
    slots = slot_ids(model.slot_tokens(), tokenizer)
    return Layout(made, tokenizer, model.media_lengths(), max_tokens, model.language.max_positions, slots)


def build_model(config: ModelConfig | Reconciled, on_meta: bool = False, groups: Sequence[GroupConfig] = ()) -> Built:
    """A model with its trainable parameters marked, and without weights.

    on_meta  without memory and without random numbers, for a plan
    groups   run.optimizer.groups of a training, which name trainable tensors
    raises   ConfigError when a part cannot be built; or with all problems of model.trainable, model.adapters and groups
    """
    settled = config if isinstance(config, Reconciled) else Reconciled(config)
    with torch.device("meta" if on_meta else torch.get_default_device()):
        model = ChatModel(settled.model)
        trainable = marked_trainable(model, settled.model, groups)
        if on_meta:  # otherwise `load_weights` puts them in, once the weights are there
            inject_adapters(model, settled.model.adapters)
    return Built(model, trainable, settled.template)


def reconciled(config: Chat | Evaluation) -> Reconciled:
    """The settings of the model, compared with those of the checkpoint of run.init_from. raises ConfigError"""
    return reconcile(config.model, config.run.init_from, config.run.model_from, config.evaluation_template)


@dataclass(frozen=True)
class BuiltChat:
    """A model that answers.

    weights    a line per loaded file
    notes      warnings: settings that differ from those of the checkpoint
    generator  draws the images of answers; None where the model has none
    """

    model: ChatModel
    layout: Layout
    weights: tuple[str, ...]
    notes: tuple[str, ...] = ()
    generator: Generator | None = None

    @property
    def lines(self) -> tuple[str, ...]:
        """Weights and notes, for display."""
        return (*self.weights, *self.notes)


def build_chat(
    config: Chat | Evaluation,
    gpu_id: int | None = None,
    dist: Dist | None = None,
    seed: int | None = 0,
    has_generator: bool = True,
) -> BuiltChat:
    """The model of a configuration with its weights and trained tensors, frozen and in evaluation mode.

    gpu_id         which GPU; None: the first one. A line reports a machine without a GPU
    dist           of a command that has set its device and threads already
    seed           of parts without weights: the same values each time, so that `generate` may resume; None: as torch is
    has_generator  False: build no generator; answers hold the captions of images only
    raises         ConfigError when weights are missing, damaged or do not fit, or there is no such GPU
    """
    note = ranks.gpu_note(gpu_id, config.run.device)
    if dist is None:
        dist = ranks.start(config.run.device, gpu_id)
        use_threads(config.run.threads)
    settled = reconciled(config)
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.manual_seed(seed)
        built = build_model(settled)
        lines = built.load_weights(dist.device, config.run.precision, exceptions=config.run.compute_dtype)
    if config.run.init_from is None:
        lines.append("no checkpoint: parts without a weights file have random values")
    else:
        lines.append(built.start_from(config.run.init_from))
    lines += [note] if note is not None else []
    layout, model = built.layout(config.evaluation_template), built.model.requires_grad_(False).eval()
    generator = None
    if has_generator and (choice := config.model.generator) is not None:
        with reported_at("model.generator"):
            check_drawing(model, layout)
            generator = choice.part(choice.config)
            lines.append(generator.load(model.device, model.compute_dtype))
    return BuiltChat(model, layout, tuple(lines), tuple(settled.notes), generator)


@dataclass(frozen=True)
class PlannedChat:
    """What `build_chat` would build.

    text    for display
    model   its settings, with those that the checkpoint decided
    layout  None without a tokenizer
    """

    text: str
    model: ModelConfig
    layout: Layout | None


def plan_chat(config: Chat | Evaluation, gpu_id: int | None = None) -> str:
    """The text of `planned_chat`."""
    return planned_chat(config, gpu_id).text


def planned_chat(config: Chat | Evaluation, gpu_id: int | None = None) -> PlannedChat:
    """What `build_chat` would build, without reading weights: parameters, modalities, template, checkpoint, device.

    raises   ConfigError when the parts do not fit together, the tokenizer or the checkpoint cannot be read, or there is
             no such GPU
    """
    settled = reconciled(config)
    built = build_model(settled, on_meta=True)
    lines, layout = ["parameters", str(built.trainable), ""], None
    if built.model.language.tokenizer_folder is not None:
        layout = built.layout(config.evaluation_template)
        if config.model.generator is not None:
            with reported_at("model.generator"):
                check_drawing(built.model, layout)
    if config.model.generator is not None and (faults := list(config.model.generator.config.faults())):
        raise ConfigError([Problem("model.generator", fault) for fault in faults])
    start = config.run.init_from
    if start is not None and is_run_or_checkpoint(start):
        with reported_at("run.init_from"):
            start = find_checkpoint(start)
            read_manifest(start)
    template = (settled.template or {}).get("name", config.evaluation_template)
    lines.append(f"takes {', '.join(config.model.routes) or 'text only'}; template {template}")
    if config.model.generator is not None:
        described = config.model.generator.config.describe()
        lines.append(f"answers are drawn by {config.model.generator.name}{described and f': {described}'}")
    lines += [*settled.notes, f"trained tensors from {start or '(none: bridges are untrained)'}"]
    note = ranks.gpu_note(gpu_id, config.run.device)
    return PlannedChat("\n".join([*lines, *([note] if note else [])]), settled.model, layout)


def has_side_texts(layout: Layout, sources: Iterable[Dataset]) -> bool:
    """Whether training sequences have side texts: captions, if a source has drawings, or others of the template."""
    draws = layout.template.can_draw and any(source.has_drawings for source in sources)
    return draws or layout.template.writes_side_texts


def check_segments(model: ChatModel, side_texts: bool) -> None:
    """raises ConfigError when sequences have side texts and the language model cannot keep them apart"""
    if side_texts and (reason := model.language.segments_obstacle(side_texts=True)):
        raise ConfigError([Problem("model.language", reason)])


def prepare_packing(model: ChatModel, side_texts: bool, batching: BatchingKind) -> None:
    """Let the language model choose the attention of packed rows; a mask of side texts needs that of the settings."""
    if batching == "packed" and not side_texts:
        model.language.use_packed_attention()


def check_drawing(model: ChatModel, layout: Layout) -> None:
    """raises ValueError when a generator beside this model would draw nothing, or nothing that the model can read"""
    if layout.template.drawing_ids is None:
        name = type(layout.template).__name__
        raise ValueError(f"the template {name} cannot draw; choose one that can, or leave the generator out")
    if "image" not in model.config.routes:
        raise ValueError("the model reads no images, but an answer continues after the drawn image; add a route")
    if not model.language.new_cache().store.croppable:
        raise ValueError(
            "this language model keeps a running state, from which a caption cannot be taken back when its image is "
            "drawn; choose another language model, or leave the generator out"
        )


def manifest_settings(built: Built, layout: Layout, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a manifest records beside the components: enough to put the same model together again.

    settings   of the model, with references in place of the environment's values
    """
    folder = hidden_in(str(built.model.language.tokenizer_folder))
    return {
        "model": settings,
        "tokenizer": {"folder": folder, "fingerprint": tokenizer_fingerprint(layout.tokenizer)},
        "template": plain_template(layout),
        "preprocessing": preprocessing_of(built.model.config),
    }


def plain_template(layout: Layout) -> dict[str, Any]:
    """Name and settings of the template."""
    template: Any = layout.template
    return {"name": type(template).__module__.rpartition(".")[2], **plain(template.config)}
