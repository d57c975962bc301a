"""What every encoder promises: media in, features out, with the preprocessing that belongs to its weights."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

from torch import Tensor, nn

from chatbridge.common.types import Features
from chatbridge.config.constraints import Exists
from chatbridge.config.registry import Registry
from chatbridge.models.component import Component, LoadNotes, State
from chatbridge.processors.image import PixelStatistics


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Settings all encoders share."""

    weights: Annotated[Path | None, Exists("file")] = None  # released file or one of ours; null: drawn at random
    norm: bool = True  # a LayerNorm over the features, stored with the encoder (ln_vision, ln_audio)

    def processor(self, modality: str, train: bool, count: int) -> Any:
        """The processor that turns a file into this encoder's input; `count` = frames or clips per item."""
        raise NotImplementedError


class Encoder(Component):
    """Reads media of the modalities it names.

    The model flattens frames and clips into M before it calls an encoder, so that an encoder sees single pictures
    (float[M, 3, H, W]) and single sound clips (float[M, F, mel]).
    """

    modalities: ClassVar[frozenset[str]]
    config: EncoderConfig

    @property
    @abstractmethod
    def width(self) -> int:
        """W, channels of the features."""

    @abstractmethod
    def num_tokens(self, modality: str) -> int:
        """N, feature tokens of one picture or clip."""

    @abstractmethod
    def axes(self, modality: str) -> int:
        """Number of axes of `media`, M included; the model flattens what has one more (frames, clips)."""

    @abstractmethod
    def forward(self, media: Tensor, modality: str) -> Features:
        """float[M, ...] -> Features(x float[M, N, W])."""

    @cached_property
    def statistics(self) -> PixelStatistics:
        """How its processor normalises pixels, for media that arrive as uint8[M, 3, H, W].

        raises   ValueError when the processor names no statistics
        """
        return self.statistics_of("image" if "image" in self.modalities else "video")

    def statistics_of(self, modality: str) -> PixelStatistics:
        """The same for one modality: of those an encoder reads, only some may be pixels, or have other statistics."""
        processor = self.config.processor(modality, True, 1)
        found = getattr(getattr(processor, "image", processor), "statistics", None)
        if found is None:
            name = type(self).__name__
            raise ValueError(f"the processor of {name} has no pixel statistics, so {name} takes float media only")
        return found

    def fit_norm(self, state: State, notes: LoadNotes, released_name: str) -> State:
        """The last norm may be switched off here, or be missing in the file."""
        names = ("norm.weight", "norm.bias")
        if not self.config.norm:
            notes.dropped |= {name: "switched off with norm: false" for name in names if name in state}
            return {name: value for name, value in state.items() if name not in names}
        if not any(name in state for name in names):
            notes.kept |= dict.fromkeys(names, f"start values; the file has no {released_name}")
        return state


class FloatLayerNorm(nn.LayerNorm):
    """LayerNorm whose statistics are taken in fp32, whatever comes in and whatever the weights are kept in.

    Half-precision features of a large frozen encoder overflow otherwise. The result has the input's dtype.
    """

    def forward(self, input: Tensor) -> Tensor:
        weight, bias = self.weight.float(), self.bias.float()
        return nn.functional.layer_norm(input.float(), self.normalized_shape, weight, bias, self.eps).to(input.dtype)


def feature_norm(width: int, enabled: bool) -> nn.Module:
    """The norm behind an encoder: eps 1e-5 as in the released models (transformers' Blip2VisionModel has 1e-6)."""
    return FloatLayerNorm(width, eps=1e-5) if enabled else nn.Identity()


def check_shape(media: Tensor, letters: str, expected: Mapping[int, int]) -> None:
    """raises ValueError unless media has the axes `letters` ("M, 3, H, W") with the `expected` sizes (axis -> size)"""
    axes = letters.split(", ")
    if media.ndim != len(axes) or any(media.shape[axis] != size for axis, size in expected.items()):
        wanted = ", ".join(str(expected.get(axis, name)) for axis, name in enumerate(axes))
        raise ValueError(f"media has shape {list(media.shape)}, expected [{wanted}]")


ENCODERS: Registry[Encoder] = Registry("encoder", "chatbridge.models.encoders")

__all__ = ["ENCODERS", "Encoder", "EncoderConfig", "FloatLayerNorm", "check_shape", "feature_norm"]
