"""The interface of encoders: media in, features out, with the preprocessing that belongs to the weights."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from torch import Tensor, nn

from chatbridge.common.types import Features
from chatbridge.config.constraints import Exists
from chatbridge.config.registry import Registry
from chatbridge.models.component import Component, LoadNotes, State
from chatbridge.processors.image import PixelStatistics


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Settings all encoders share."""

    weights: Annotated[Path | None, Exists("file")] = None  # released file or one of ours; null: random weights
    norm: bool = True  # a LayerNorm over the features, stored with the encoder (ln_vision, ln_audio)

    def processor(self, modality: str, train: bool, count: int) -> Any:
        """The processor that turns a file of `modality` into this encoder's input.

        train   whether it may augment, and how
        count   pieces (frames, clips) per item
        """
        raise NotImplementedError


class Encoder(Component):
    """A network that turns media into feature tokens.

    The route flattens frames and clips into M before it calls an encoder, so an encoder gets single images
    (float[M, 3, H, W]) or single audio clips (float[M, frames, mel]).
    """

    modalities: ClassVar[frozenset[str]]
    config: EncoderConfig

    @classmethod
    def for_routes(cls, config: Any, modalities: frozenset[str]) -> Self:
        """The encoder that a model builds for the routes of these modalities; most encoders are the same for any."""
        return cls(config)

    @property
    @abstractmethod
    def width(self) -> int:
        """W, the number of channels of the features."""

    @abstractmethod
    def num_tokens(self, modality: str) -> int:
        """N, the number of feature tokens of one image or clip."""

    @abstractmethod
    def axes(self, modality: str) -> int:
        """Number of axes of `media`, M included; the route flattens media with one axis more (frames, clips)."""

    @abstractmethod
    def forward(self, media: Tensor, modality: str) -> Features:
        """The features of media.

        media    float[M, ...], the output of the processor, M single images or clips
        returns  Features(x float[M, N, W], mask bool[M, N] or None; True = a token that counts)
        raises   ValueError for media of the wrong shape
        """

    @cached_property
    def statistics(self) -> PixelStatistics:
        """Mean and std of the processor, to normalise media that arrive as uint8[M, 3, H, W].

        raises   ValueError when the processor has no pixel statistics
        """
        return self.statistics_of("image" if "image" in self.modalities else "video")

    def statistics_of(self, modality: str) -> PixelStatistics:
        """Mean and std of the processor of one modality: not all modalities of an encoder need be pixels.

        raises   ValueError when the processor has no pixel statistics
        """
        processor = self.config.processor(modality, True, 1)
        found = getattr(getattr(processor, "image", processor), "statistics", None)
        if found is None:
            name = type(self).__name__
            raise ValueError(f"the processor of {name} has no pixel statistics, so {name} takes float media only")
        return found

    def fit_norm(self, state: State, notes: LoadNotes, released_name: str) -> State:
        """Adapt the feature norm of a file: `norm: false` drops it, and a file need not have it.

        state           our name -> tensor; norm.weight and norm.bias are float[W]
        released_name   the norm's name in released files, for the note
        returns         the same tensors without an unused norm
        """
        names = ("norm.weight", "norm.bias")
        if not self.config.norm:
            notes.dropped |= {name: "switched off with norm: false" for name in names if name in state}
            return {name: value for name, value in state.items() if name not in names}
        if not any(name in state for name in names):
            notes.kept |= dict.fromkeys(names, f"initial values; the file has no {released_name}")
        return state


class FloatLayerNorm(nn.LayerNorm):
    """LayerNorm computed in fp32 for any dtype of input and weights.

    In half precision the features of a large frozen encoder overflow.
    """

    def forward(self, input: Tensor) -> Tensor:
        """float[..., W] -> float[..., W] in the dtype of the input"""
        weight, bias = self.weight.float(), self.bias.float()
        return nn.functional.layer_norm(input.float(), self.normalized_shape, weight, bias, self.eps).to(input.dtype)


def feature_norm(width: int, enabled: bool, eps: float = 1e-5) -> nn.Module:
    """The norm after an encoder; eps is that of the released models (transformers' Blip2VisionModel now has 1e-6).

    source   salesforce/LAVIS: lavis/models/blip2_models/blip2.py (ln_vision)
    """
    return FloatLayerNorm(width, eps=eps) if enabled else nn.Identity()


def check_shape(media: Tensor, letters: str, expected: Mapping[int, int]) -> None:
    """Check the shape of media.

    media     float[M, ...]
    letters   its axes, for example "M, 3, H, W"
    expected  axis -> size
    raises    ValueError when the number of axes or a size differs
    """
    axes = letters.split(", ")
    if media.ndim != len(axes) or any(media.shape[axis] != size for axis, size in expected.items()):
        wanted = ", ".join(str(expected.get(axis, name)) for axis, name in enumerate(axes))
        raise ValueError(f"media has shape {list(media.shape)}, expected [{wanted}]")


ENCODERS: Registry[Encoder] = Registry("encoder", "chatbridge.models.encoders")

__all__ = ["ENCODERS", "Encoder", "EncoderConfig", "FloatLayerNorm", "check_shape", "feature_norm"]
