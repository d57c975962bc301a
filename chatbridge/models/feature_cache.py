"""What identifies an encoder in the feature cache, and the encoders of a model by themselves, without its other parts.

The fingerprints of checkpoints sample a thousand values of each tensor, rounded to bf16. A cache must not miss a small
change, so here every byte of every parameter and buffer is hashed, in the dtype in which the run computes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from chatbridge.common.errors import ConfigError, Problem
from chatbridge.config.constraints import Choice
from chatbridge.config.schema import plain
from chatbridge.models.checkpoint_manifest import WEIGHTS
from chatbridge.models.checkpoints import find_checkpoint
from chatbridge.models.config import ModelConfig
from chatbridge.models.encoders import Encoder
from chatbridge.models.loading import copy_state, load_component, read_state
from chatbridge.models.placement import place_model

# Of a folder's configuration: names and versions, which do not change what a model computes
_VOLATILE = ("transformers_version", "_name_or_path", "torch_dtype", "dtype", "_attn_implementation_autoset")
_ASIDE = ("weights", "attention")  # where the weights are; kernels that differ by rounding
SAMPLES, BLOCK = 256, 4096  # of a weights file that its print reads


def encoder_settings(choice: Choice[Encoder]) -> dict[str, Any]:
    """The settings of an encoder other than the defaults, without the location of its weights.

    A folder of weights may decide more than its tensors do (activation, heads, eps): its configuration is included.
    """
    config: Any = choice.config
    defaults = {one.name: one.default for one in fields(config) if one.default is not MISSING}
    own = {one.name: getattr(config, one.name) for one in fields(config) if one.init and one.name not in _ASIDE}
    found = {key: plain(value) for key, value in own.items() if key not in defaults or value != defaults[key]}
    to_dict = getattr(getattr(config, "settings", None), "to_dict", None)
    if to_dict is not None:
        found["folder"] = {key: repr(value) for key, value in sorted(to_dict().items()) if key not in _VOLATILE}
    return {"class": choice.name, "settings": found}


def weights_hash(encoder: nn.Module) -> str:
    """A hash of names, shapes, dtypes and all bytes of the parameters and buffers of an encoder.

    Every rank must call it when a tensor is sharded.
    """
    digest = hashlib.sha256()
    named = {**dict(encoder.named_parameters()), **dict(encoder.named_buffers())}
    for name in sorted(named, key=_plain_name):
        gather: Any = getattr(named[name], "full_tensor", None)
        tensor = named[name].detach() if gather is None else gather().detach()
        digest.update(f"{_plain_name(name)} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _plain_name(name: str) -> str:
    """The name of a tensor without what compilation and checkpointing wrappers add."""
    return name.replace("_orig_mod.", "").replace("_checkpoint_wrapped_module.", "")


def trained_parts(encoder: nn.Module) -> list[str]:
    """Parameters of an encoder that train, its adapters among them; then its outputs change from step to step."""
    return [name for name, parameter in encoder.named_parameters() if parameter.requires_grad]


def pattern_for(name: str, patterns: Iterable[str]) -> str | None:
    """The first pattern that names tensors of this encoder: `encoders.vision.*`; None when there is none."""
    at = f"encoders.{name}"
    for pattern in patterns:
        group, _, rest = pattern.partition(".")
        if fnmatchcase("encoders", group) and group != "*" and fnmatchcase(name, rest.partition(".")[0] or "*"):
            return pattern
        if pattern == at:
            return pattern
    return None


def file_print(path: Path) -> str:
    """A hash of the size of a file and of 256 blocks spread over it; of a folder, of its weights and settings."""
    digest = hashlib.sha256()
    for one in sorted(path.iterdir()) if path.is_dir() else [path]:
        if not one.is_file() or (path.is_dir() and one.suffix not in (".safetensors", ".bin", ".json")):
            continue
        size = one.stat().st_size
        digest.update(f"{one.name if path.is_dir() else ''} {size}\n".encode())
        with one.open("rb") as file:
            for at in range(0, size, max(BLOCK, size // SAMPLES)):
                file.seek(at)
                digest.update(file.read(BLOCK))
    return digest.hexdigest()[:16]


class Encoders(nn.Module):
    """The encoders of a model alone, with their weights: what `chatbridge cache` runs, without the language model."""

    def __init__(self, parts: Mapping[str, Encoder]) -> None:
        super().__init__()
        self.encoders, self.bridges = nn.ModuleDict(parts), nn.ModuleDict()
        self.compute_dtype = torch.float32

    def part(self, name: str) -> Encoder:
        return cast("Encoder", self.encoders[name])


def load_encoders(
    config: ModelConfig,
    names: Iterable[str],
    device: torch.device,
    dtype: torch.dtype,
    start: Path | None = None,
    is_alone: bool = False,
) -> Encoders:
    """The encoders of a model, frozen and in evaluation mode.

    All are built, in the order of the model: an encoder without weights then has the random values that a training
    with the same seed gives it.
    names     encoders to load; the others are dropped
    start     run.init_from, a checkpoint whose trained tensors of encoders are taken
    is_alone  build no other encoder: none of `names` has random values
    raises    ConfigError when weights are missing, damaged or do not fit
    """
    from chatbridge.models.chat_model import build_encoder

    wanted = list(names)
    every = {
        name: build_encoder(one, config.modalities_of(name))
        for name, one in config.encoders.items()
        if name in wanted or not is_alone
    }
    model, problems = Encoders({name: every[name] for name in wanted}), []
    for name, part in model.encoders.items():
        encoder = cast("Encoder", part)
        try:
            for path, only in encoder.files():
                load_component(encoder, path, only)
            encoder.load_folder()
        except ValueError as error:
            message, _, rest = str(error).partition("\n")
            problems.append(Problem(f"model.encoders.{name}", message, hint=rest or None))
    if problems:
        raise ConfigError(problems)
    if start is not None:
        trained = read_state(find_checkpoint(start) / WEIGHTS)
        copy_state(model, {name: value for name, value in trained.items() if name in model.state_dict()})
    model.requires_grad_(False).eval()
    place_model(cast("Any", model), device, dtype)
    return model
