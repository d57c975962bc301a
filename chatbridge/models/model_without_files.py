"""A model as its YAML describes it, without a single file: for plans, parameter counts and comparisons of names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from chatbridge.config.merge import load
from chatbridge.config.origins import MISSING, Unresolved
from chatbridge.config.schema import parse
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.config import ModelConfig
from chatbridge.models.hf_folder import cached_folder
from chatbridge.models.trainable import set_trainable

# Width of a language model that is not built, where no count of tokens depends on it: what checks its width against a
# number of heads or groups should find that they divide it
ANY_WIDTH = 5040
FILES = ("weights", "norm_weights", "tokenizer")  # settings of parts that name files


def without_files(model: Mapping[str, Any]) -> dict[str, Any]:
    """The `model:` node with everything that names a file left out, filled in or not (???)."""
    return {
        key: without_files(value) if isinstance(value, Mapping) else value
        for key, value in model.items()
        if key not in FILES and value != MISSING and not isinstance(value, Unresolved)
    }


def with_known_files(model: Mapping[str, Any], at: str = "model") -> tuple[dict[str, Any], list[str]]:
    """The `model:` node with the files that are there, and a line for each one that is not: ??? or a missing path."""
    kept: dict[str, Any] = {}
    absent: list[str] = []
    for key, value in model.items():
        path = f"{at}.{key}"
        if isinstance(value, Mapping):
            kept[key], inner = with_known_files(value, path)
            absent += inner
        elif key in FILES and value is not None and not _is_there(value):
            absent.append(f"{path} ({value if isinstance(value, str) else 'not resolved'})")
        elif value != MISSING and not isinstance(value, Unresolved):
            kept[key] = value
    return kept, absent


def _is_there(value: Any) -> bool:
    """A file, a folder, or an id in the Hugging Face cache."""
    if not isinstance(value, (str, Path)) or value == MISSING:
        return False
    folder = cached_folder(Path(value))
    try:
        return folder is not None and folder.exists()
    except OSError:  # a name that is too long, a folder that may not be entered
        return False


def model_without_files(path: str | Path, options: Sequence[str] = ()) -> ChatModel:
    """The whole model on the meta device, in seconds whatever its size, with its `trainable` patterns applied.

    raises   ConfigError when the YAML has mistakes other than missing files
    """
    mapping, origins = load(path, options)
    config = parse(ModelConfig, without_files(mapping["model"]), origins, "model")
    with torch.device("meta"):
        model = ChatModel(config)
    set_trainable(model, config.trainable)
    return model
