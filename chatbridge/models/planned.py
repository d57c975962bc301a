"""A model as its YAML describes it, without a single file: for plans, parameter counts and comparisons of names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from chatbridge.common.config import load
from chatbridge.common.origins import MISSING, Unresolved
from chatbridge.common.schema import parse
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.settings import ModelConfig
from chatbridge.models.trainable import set_trainable

FILES = ("weights", "norm_weights", "tokenizer")  # settings of parts that name files


def without_files(model: Mapping[str, Any]) -> dict[str, Any]:
    """The `model:` node with everything that names a file left out, filled in or not (???)."""
    return {
        key: without_files(value) if isinstance(value, Mapping) else value
        for key, value in model.items()
        if key not in FILES and value != MISSING and not isinstance(value, Unresolved)
    }


def planned_model(path: str | Path, options: Sequence[str] = ()) -> ChatModel:
    """The whole model on the meta device, in seconds whatever its size, with its `trainable` patterns applied.

    raises   ConfigError when the YAML has mistakes other than missing files
    """
    mapping, origins = load(path, options)
    config = parse(ModelConfig, without_files(mapping["model"]), origins, "model")
    with torch.device("meta"):
        model = ChatModel(config)
    set_trainable(model, config.trainable)
    return model
