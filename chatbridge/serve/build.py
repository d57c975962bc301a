"""From the settings of a chat to a model with its weights, and its layout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from chatbridge.common import dist as ranks
from chatbridge.common.errors import ConfigError, Problem
from chatbridge.conversation.layout import Layout
from chatbridge.conversation.templates import build_template
from chatbridge.conversation.tokenizer import Tokenizer
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.importers.released import start_from
from chatbridge.models.loading import load_weights
from chatbridge.models.trainable import set_trainable
from chatbridge.serve.settings import ChatConfig, ChatRun


def build(config: ChatConfig) -> tuple[ChatModel, Layout, tuple[str, ...]]:
    """The model ready to answer, its layout, and lines about the weights for people.

    raises   ConfigError when weights are missing, damaged or do not fit
    """
    device = ranks.start(config.run.device).device
    model = ChatModel(config.model)
    set_trainable(model, config.model.trainable)  # what trained stays in fp32, as it was evaluated
    with reported_at("model"):
        about = load_weights(model, device, compute_dtype(config.run, device))
    folder = model.language.tokenizer_folder
    if folder is None:
        raise ConfigError([Problem("model.language.tokenizer", "is missing: there are no weights to take it from")])
    tokenizer = Tokenizer.from_pretrained(folder)
    if config.run.init_from is None:
        about.append("no checkpoint: parts without a weights file have random values")
    else:
        with reported_at("run.init_from"):
            about.append(str(start_from(model, config.run.init_from, tokenizer)))
    layout = Layout(build_template(config.template), tokenizer, model.media_lengths())
    return model.requires_grad_(False).eval(), layout, tuple(about)


def compute_dtype(run: ChatRun, device: torch.device) -> torch.dtype:
    """bfloat16 or float32; `auto` takes bfloat16 where the device computes in it."""
    if run.precision == "auto":
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bf16 else torch.float32
    return torch.bfloat16 if run.precision == "bf16" else torch.float32


@contextmanager
def reported_at(path: str) -> Iterator[None]:
    """What a part says with a ValueError becomes a problem of the configuration at `path`."""
    try:
        yield
    except ConfigError:
        raise
    except ValueError as error:
        message, _, rest = str(error).partition("\n")
        raise ConfigError([Problem(path, message, hint=rest or None)]) from error
