"""From the settings of a chat to a model with its weights, and its layout."""

from __future__ import annotations

import torch

from chatbridge.common import dist as ranks
from chatbridge.common.errors import reported_at
from chatbridge.common.threads import use_threads
from chatbridge.conversation.layout import Layout
from chatbridge.conversation.templates import build_template
from chatbridge.conversation.tokenizer import Tokenizer
from chatbridge.experiment.chat_config import ChatConfig, ChatRun
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.chat_template import template_strings
from chatbridge.models.checkpoint_manifest import read_manifest
from chatbridge.models.checkpoints import find_checkpoint
from chatbridge.models.generators import Generator
from chatbridge.models.importers.released import start_from
from chatbridge.models.loading import load_weights
from chatbridge.models.manifest_check import Reconciled, reconcile
from chatbridge.models.tokenizer_loading import read_tokenizer, slot_ids
from chatbridge.models.trainable import set_trainable


def build(config: ChatConfig, gpu_id: int | None = None) -> tuple[ChatModel, Layout, tuple[str, ...]]:
    """The model ready to answer, its layout, and lines about the weights for people.

    gpu_id   which GPU; None: the first one. A line says so when there is none
    raises   ConfigError when weights are missing, damaged or do not fit, or there is no such GPU
    """
    device = ranks.start(config.run.device, gpu_id).device
    note = ranks.gpu_note(gpu_id, config.run.device)
    use_threads(config.run.threads)
    settled = reconcile(config.model, config.run.init_from, config.run.model_from, config.template)
    with torch.random.fork_rng(devices=[]), reported_at("model"):
        torch.manual_seed(0)  # parts without weights: the same random values each time, as `generate` resumes
        model = ChatModel(settled.model)
        set_trainable(model, settled.model.trainable)  # what trained stays in fp32, as it was evaluated
        about = load_weights(model, device, compute_dtype(config.run, device))
    tokenizer = read_tokenizer(model.language, settled.model.added_tokens)
    if config.run.init_from is None:
        about.append("no checkpoint: parts without a weights file have random values")
    else:
        with reported_at("run.init_from"):
            about.append(str(start_from(model, config.run.init_from, tokenizer)))
    if note is not None:
        about.append(note)
    about += settled.notes
    layout = _layout(config, settled, model, tokenizer)
    return model.requires_grad_(False).eval(), layout, tuple(about)


def _layout(config: ChatConfig, settled: Reconciled, model: ChatModel, tokenizer: Tokenizer) -> Layout:
    strings = dict(settled.template or {"name": config.template})
    name = strings.pop("name")
    own = template_strings(settled.model, name)
    made, slots = build_template(name, **{**own, **strings}), slot_ids(model.slot_tokens(), tokenizer)
    return Layout(made, tokenizer, model.media_lengths(), slot_ids=slots)


def build_generator(config: ChatConfig, model: ChatModel, layout: Layout) -> tuple[Generator | None, tuple[str, ...]]:
    """What draws the images of answers, ready, and lines about it for people; None where the model has none.

    raises   ConfigError when it cannot be built, or the model could not use it
    """
    choice = config.model.generator
    if choice is None:
        return None, ()
    with reported_at("model.generator"):
        check_drawing(model, layout)
        generator = choice.part(choice.config)
        return generator, (generator.load(model.device, model.compute_dtype),)


def check_drawing(model: ChatModel, layout: Layout) -> None:
    """raises ValueError when a generator beside this model would draw nothing, or nothing that the model can read"""
    if layout.template.drawing_ids is None:
        name = type(layout.template).__name__
        raise ValueError(f"the template {name} cannot draw; choose one that can, or leave the generator out")
    if "image" not in model.config.routes:
        raise ValueError("the model reads no images, and an answer goes on in view of what was drawn; add a route")
    if not model.language.new_cache().store.croppable:
        raise ValueError(
            "this language model keeps a running state, from which a caption cannot be taken back when its image is "
            "drawn; choose another language model, or leave the generator out"
        )


def plan(config: ChatConfig, gpu_id: int | None = None) -> str:
    """What `build` would build, without reading weights: parameters, modalities, template, checkpoint, device.

    raises   ConfigError when the parts do not fit together, the tokenizer or the checkpoint cannot be read, or there is
             no such GPU
    """
    settled = reconcile(config.model, config.run.init_from, config.run.model_from, config.template)
    with torch.device("meta"):
        model = ChatModel(settled.model)
    lines = ["parameters", str(set_trainable(model, config.model.trainable)), ""]
    if model.language.tokenizer_folder is not None:
        layout = _layout(config, settled, model, read_tokenizer(model.language, settled.model.added_tokens))
        if config.model.generator is not None:
            with reported_at("model.generator"):
                check_drawing(model, layout)
    start = config.run.init_from
    if start is not None and start.is_dir():
        with reported_at("run.init_from"):
            start = find_checkpoint(start)
            read_manifest(start)
    template = (settled.template or {}).get("name", config.template)
    lines.append(f"takes {', '.join(config.model.routes)}; template {template}")
    if config.model.generator is not None:
        lines.append(f"answers are drawn by {config.model.generator.name}")
    lines += settled.notes
    lines.append(f"trained tensors from {start or '(none: bridges are untrained)'}")
    note = ranks.gpu_note(gpu_id, config.run.device)
    return "\n".join([*lines, *([note] if note else [])])


def compute_dtype(run: ChatRun, device: torch.device) -> torch.dtype:
    """bfloat16 or float32; `auto` takes bfloat16 where the device computes in it."""
    if run.precision == "auto":
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bf16 else torch.float32
    return torch.bfloat16 if run.precision == "bf16" else torch.float32
