"""A transformers model as an encoder: shared by hf_vision and hf_audio.

Token and channel counts are measured on a meta-device copy: families name them differently in their configurations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from chatbridge.common.errors import Problem
from chatbridge.common.quiet_transformers import quiet_transformers
from chatbridge.models.attention_setting import Attention, attention_problems, with_attention
from chatbridge.models.encoders.base import Encoder, EncoderConfig, feature_norm
from chatbridge.models.hf_folder import (
    COMPARED,
    architecture_problems,
    folder_problems,
    read_folder,
    removed,
    resolve_cached_ids,
    said,
)

Kind = Literal["vision", "audio"]


@dataclass(frozen=True, kw_only=True)
class HFTowerConfig(EncoderConfig):
    """Settings of encoders that are a model of transformers."""

    # Hugging Face model folder (config.json, preprocessor_config.json, weights), or owner/name in the local cache; of
    # CLIP also one file in the names of OpenAI or open_clip, beside architecture
    weights: Path | None = None
    # model_type and sizes: of a random model without weights or of a file, otherwise those that the folder must have
    architecture: dict[str, Any] = field(default_factory=dict)
    layer: int | None = None  # hidden state to use, 0 = embeddings, -2 = last but one; null: the model's output
    norm: bool = False  # add a LayerNorm over the features
    # Attention implementation; null: the default of transformers, which is sdpa if the model supports it
    attention: Attention | None = None

    kind: ClassVar[Kind]  # which tower of a model with two (CLIP, CLAP)

    def __post_init__(self) -> None:
        resolve_cached_ids(self, "weights")

    def problems(self) -> Iterator[str | Problem]:
        found = list(source_problems(self.folder, self.architecture, self.kind, self.weights))
        yield from found
        yield from attention_problems(self.attention, None if found else self._family)

    @property
    def folder(self) -> Path | None:
        """The model folder; None for random weights or those of one file."""
        return None if self.weights is not None and self.weights.is_file() else self.weights

    @property
    def _family(self) -> type | None:
        """The class of the tower; None if its configuration cannot be read, which building it reports."""
        try:
            return _model_class(self.whole_settings)
        except ValueError:
            return None

    @cached_property
    def whole_settings(self) -> Any:
        """The configuration of the transformers model (a PretrainedConfig), as its folder or `architecture` has it."""
        return with_attention(tower_settings(self.folder, self.architecture, self.kind), self.attention)

    @cached_property
    def settings(self) -> Any:
        """The configuration of the tower that is built."""
        return self.whole_settings


class HFTower(Encoder):
    """An encoder whose `tower` is a model of transformers."""

    config: Any
    tower: Any
    norm: Any
    output: TowerOutput

    @property
    def width(self) -> int:
        return self.output.width

    def num_tokens(self, modality: str) -> int:
        return self.output.num_tokens

    def files(self) -> list[tuple[Path, tuple[str, ...] | None]]:
        path: Path | None = self.config.weights
        return [] if path is None or self.config.folder is not None else [(path, None)]  # `load_folder` reads a folder

    def load_folder(self) -> str | None:
        """Replace the empty tower by the one of the folder. raises ValueError when the folder does not fill it"""
        if self.config.folder is None:
            return None
        tower, surplus, prefix = self.read_tower()
        trainable = {name for name, parameter in self.tower.named_parameters() if parameter.requires_grad}
        for name, parameter in without_unused(tower, self.output.unused).named_parameters():
            parameter.requires_grad_(name in trainable)
        self.tower = tower.train(self.tower.training)
        if self.config.norm:  # not part of any folder
            self.norm = feature_norm(self.width, True).requires_grad_(self.norm.weight.requires_grad)
        rest = f", {surplus} others not needed" if surplus else ""
        return f"{len(tower.state_dict())} tensors from {self.config.folder}{rest}{removed(prefix)}"

    def read_tower(self) -> tuple[Any, int, str]:
        """What `read_tower` below returns for the folder of the configuration."""
        return read_tower(self.config.folder, self.config.settings, self.output.unused)

    def reset_buffers(self) -> None:
        refill_buffers(self.tower)


@dataclass(frozen=True)
class TowerOutput:
    """Size of a tower's features for one input.

    num_tokens, width   N and W
    unused              parameters that the features do not depend on: poolers, heads, layers after the one that is used
    """

    num_tokens: int
    width: int
    unused: frozenset[str]


def source_problems(
    folder: Path | None, architecture: Mapping[str, Any], kind: Kind = "vision", weights: Path | None = None
) -> Iterator[str | Problem]:
    """Problems of the settings `weights`, a folder or one file, and `architecture`: neither is given, a file has no
    sizes beside it, or they contradict each other."""
    if folder is None and not architecture:
        what = f"{weights} is one file, which has no sizes: " if weights is not None else ""
        yield (
            f"{what}give weights (a Hugging Face model folder: config.json, preprocessor_config.json, "
            "model.safetensors) or architecture (model_type and sizes of a random one)"
        )
    if architecture and "model_type" not in architecture:
        yield Problem("architecture", "has no model_type, for example clip_vision_model")
    elif architecture:
        found = list(architecture_problems(architecture, str(architecture["model_type"])))
        yield from found
        if not found and folder is None:
            try:
                tower_settings(None, architecture, kind)
            except ValueError as error:
                yield Problem("architecture", str(error))
    problems = list(folder_problems("weights", folder))
    yield from problems
    if folder is not None and architecture and not problems:
        yield from _other_sizes(folder, architecture, kind)


def _other_sizes(folder: Path, expected: Mapping[str, Any], kind: Kind) -> Iterator[Problem]:
    """A problem for each size of a folder that differs; one that cannot be read is reported when it is used."""
    try:
        found = tower_settings(folder, {}, kind)
    except ValueError:
        return
    for key in (*COMPARED, "image_size", "patch_size"):
        own = getattr(found, key, None)
        if own is not None and expected.get(key, own) != own:
            message = f"{folder} has {key} {own}, this configuration is for {expected[key]} (architecture.{key})"
            yield Problem("weights", message, hint="give the folder of a model of that size, or change architecture")


def tower_settings(weights: Path | None, architecture: Mapping[str, Any], kind: Kind) -> Any:
    """The transformers configuration of the tower; of a model with several towers, the one of `kind`.

    raises   ValueError when it cannot be read or built
    """
    from transformers import AutoConfig

    try:
        if weights is None:
            whole = AutoConfig.for_model(**architecture)
        else:
            whole = AutoConfig.from_pretrained(str(weights), local_files_only=True)
    except Exception as error:  # transformers raises many types for values that do not fit
        what = "these sizes make no model" if weights is None else f"{weights}: the configuration cannot be read"
        raise ValueError(f"{what}: {said(error)}") from None
    return getattr(whole, f"{kind}_config", None) or whole


def build_tower(settings: Any) -> Any:
    """A tower with random weights on the current device; of an encoder-decoder, the encoder.

    raises   ValueError for a configuration without a plain model in transformers
    """
    try:
        return _encoder_of(_model_class(settings)(settings))
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise ValueError(f"transformers cannot build {type(settings).__name__}: {error}") from None


def read_tower(folder: Path, settings: Any, unused: frozenset[str]) -> tuple[Any, int, str]:
    """The tower with the weights of a folder, the number of unused tensors, and the removed prefix ("" for none).

    raises   ValueError when weights are missing, truncated, or do not fill the tower
    """
    from safetensors import SafetensorError

    kind = _model_class(settings)
    try:
        with quiet_transformers(True):  # what is missing is judged below: a decoder's tensors are not needed
            whole, found, removed_prefix = read_folder(kind, folder, config=settings, dtype="auto")
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{folder}: {kind.__name__} cannot be read: {reason}") from None
    tower = _encoder_of(whole)
    prefix = "" if tower is whole else next(name for name, part in whole.named_modules() if part is tower) + "."
    absent = {key.removeprefix(prefix) for key in found["missing"] if key.startswith(prefix)} - unused
    wrong = [f"  missing: {', '.join(sorted(absent)[:8])}"] if absent else []
    if found["mismatched"]:
        wrong.append(f"  mismatched: {', '.join(found['mismatched'][:8])}")
    if wrong:
        message = f"{folder} does not fill the {kind.__name__} its config.json describes:"
        raise ValueError("\n".join([message, *wrong]))
    return tower, len(found["unexpected"]), removed_prefix


def features_of(tower: Any, media: Tensor, layer: int | None) -> Tensor:
    """The features of a transformers model.

    media    float[M, ...], its main input
    layer    hidden state to use, 0 = embeddings, -2 = last but one; None: the model's output
    returns  float[M, N, W]
    """
    known = {"interpolate_pos_encoding": True} if _can_interpolate(tower) else {}
    if layer is None:
        x = tower(media, **known).last_hidden_state
    else:
        x = tower(media, output_hidden_states=True, **known).hidden_states[layer]
    return x.flatten(2).transpose(1, 2) if x.ndim == 4 else x  # [M, N, W], also from [M, W, rows, columns]


def tower_output(settings: Any, input_shape: Sequence[int], layer: int | None) -> TowerOutput:
    """The size of a tower's features, measured on the meta device.

    input_shape   of one input, without M
    raises        ValueError when the tower cannot read an input of this shape
    """
    with torch.device("meta"), torch.enable_grad():
        twin = build_tower(settings).eval()
        try:
            x = features_of(twin, torch.empty(1, *input_shape), layer)
        except IndexError:
            raise ValueError(f"layer {layer} is not among the hidden states of {type(twin).__name__}") from None
        except Exception as error:  # families raise different types
            shape = "x".join(map(str, input_shape))
            raise ValueError(f"{type(twin).__name__} cannot read an input of {shape}: {error}") from None
        named = {name: parameter for name, parameter in twin.named_parameters() if parameter.requires_grad}
        gradients = torch.autograd.grad(x.sum(), list(named.values()), allow_unused=True)
    unused = {name for name, gradient in zip(named, gradients, strict=True) if gradient is None}
    return TowerOutput(x.shape[1], x.shape[2], frozenset(unused))


def without_unused(tower: Any, unused: frozenset[str]) -> Any:
    """The tower without poolers and heads, so that parameters no feature depends on are not stored or trained."""
    for path, owner in list(tower.named_modules()):
        if not hasattr(owner, "main_input_name"):  # only direct children of a (sub)model, which it calls with a tensor
            continue
        for name, child in owner.named_children():
            names = [f"{path}.{name}.{leaf}".lstrip(".") for leaf, _ in child.named_parameters()]
            if names and unused.issuperset(names) and not isinstance(child, nn.ModuleList):
                setattr(owner, name, nn.Identity())
    return tower


def refill_buffers(tower: Any) -> None:
    """Compute the buffers that no file holds (position ids, windows) after the tower left the meta device."""
    stored = tower.state_dict(keep_vars=True)
    for tensor in [*tower.parameters(), *(buffer for name, buffer in tower.named_buffers() if name in stored)]:
        tensor._is_hf_initialized = True  # transformers does not initialise tensors with this mark
    tower.initialize_weights()


def _model_class(settings: Any) -> Any:
    """The model class of a configuration: CLIPVisionConfig -> CLIPVisionModel, or by the table of transformers."""
    import transformers

    found = getattr(transformers, f"{type(settings).__name__.removesuffix('Config')}Model", None)
    if found is None:
        found = transformers.MODEL_MAPPING.get(type(settings), None)
        found = found[0] if isinstance(found, (list, tuple)) else found
    if found is None:
        raise ValueError(f"transformers has no plain model for {type(settings).__name__}")
    return found


def _encoder_of(model: Any) -> Any:
    return model.get_encoder() if getattr(model.config, "is_encoder_decoder", False) else model


def _can_interpolate(tower: Any) -> bool:
    """Whether the tower can interpolate its position embeddings for other image sizes."""
    import inspect

    return "interpolate_pos_encoding" in inspect.signature(tower.forward).parameters
