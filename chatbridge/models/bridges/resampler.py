"""Perceiver resampler: K trained latents read the features of an item, layer by layer, and become its tokens.

Every layer's latents attend to the features and to themselves at once (Flamingo, Alayrac et al. 2022). The tokens have
the width of the features, as the released one; where the language model or the fusion wants another width, a linear
layer follows. All modalities of a bridge share the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chatbridge.common.errors import Problem
from chatbridge.common.types import Features
from chatbridge.config.constraints import Range
from chatbridge.models.bridges.base import BRIDGES, Bridge, BridgeConfig, one_width, start_output
from chatbridge.models.component import State
from chatbridge.models.flamingo_names import resampler_name
from chatbridge.models.reading_layers import FeedForward, attend

Positive = Annotated[int, Range(low=1)]


@BRIDGES.register("resampler")
class Resampler(Bridge):
    """float[M, T * N, W] -> float[M, num_latents, D]"""

    fp32_residuals = True

    @dataclass(frozen=True, kw_only=True)
    class Config(BridgeConfig):
        depth: Positive = 6  # layers
        num_latents: Positive = 64  # K, tokens per item
        heads: Positive = 8
        head_width: Positive = 64  # channels of a head
        feed_forward_mult: Positive = 4  # hidden channels of a layer's feed-forward part, in multiples of its width
        # A trained vector for each of so many frames, added to the features of that frame. null: none, as released;
        # then the order of frames that are read at once is not seen
        max_frames: Positive | None = None

        def route_problems(self, frames: Mapping[str, int]) -> Iterator[Problem]:
            for modality, count in frames.items():
                if self.max_frames is not None and count > self.max_frames:
                    message = f"has vectors for {self.max_frames} frames, but the route of {modality} reads {count}"
                    yield Problem("max_frames", f"{message} at once", hint=f"set it to at least {count}")

    config: Resampler.Config

    def __init__(self, config: Resampler.Config, widths: Mapping[str, int], out_width: int) -> None:
        super().__init__(config, widths, out_width)
        width = one_width(widths)
        self.latents = nn.Parameter(torch.randn(config.num_latents, width))
        if config.max_frames is not None:
            self.frame_embeddings = nn.Parameter(torch.randn(config.max_frames, width))
        self.blocks = nn.ModuleList(_Block(width, config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width)
        self.output: nn.Module = nn.Identity()
        if out_width != width:
            self.output = nn.Linear(width, out_width)
            start_output(self.output, config.output_std)
        elif config.output_std is not None:
            nn.init.constant_(self.norm.weight, config.output_std)

    def num_tokens(self, num_features: int) -> int:
        return self.config.num_latents

    def forward(self, features: Features, modality: str) -> Tensor:
        """The tokens of M items.

        features  x float[M, T * N, W], mask bool[M, T * N] or None
        returns   float[M, K, D]
        raises    ValueError for more frames than there are vectors
        """
        x = self._with_frames(features.x.to(self.latents.dtype), features.frames)  # [M, T * N, W]
        latents = self.latents.expand(len(x), -1, -1)  # [M, K, W]
        mask = None
        if features.mask is not None:  # latents read each other in any case
            keys = F.pad(features.mask, (0, latents.shape[1]), value=True)  # [M, T * N + K]
            mask = keys[:, None].expand(-1, latents.shape[1], -1)  # [M, K, T * N + K]
        for block in self.blocks:
            latents = block(latents, x, mask)
        return self.output(self.norm(latents))

    def _with_frames(self, x: Tensor, frames: int) -> Tensor:
        """Features plus the vector of their frame, float[M, T * N, W]."""
        most = self.config.max_frames
        if most is None:
            return x
        if frames > most:
            raise ValueError(f"{frames} frames, but max_frames has vectors for {most} only")
        return (x.unflatten(1, (frames, -1)) + self.frame_embeddings[:frames, None]).flatten(1, 2)

    @staticmethod
    def convert(state: State) -> State:
        """Rename the tensors [...] of OpenFlamingo's `perceiver`."""
        return {resampler_name(key): value for key, value in state.items()}


class _Attention(nn.Module):
    """What K latents read from the features and from each other: float[M, K, W], without a residual."""

    def __init__(self, width: int, config: Resampler.Config) -> None:
        super().__init__()
        self.heads, inner = config.heads, config.heads * config.head_width
        self.norm_media = nn.LayerNorm(width)
        self.norm_latents = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(self, latents: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
        latents = self.norm_latents(latents)
        read = self.to_kv(torch.cat([self.norm_media(x), latents], 1))  # [M, T * N + K, 2 * inner]
        return self.to_out(attend(self.to_q(latents), read, self.heads, mask))


class _Block(nn.Module):
    """A layer: latents float[M, K, W], features float[M, T * N, W], mask bool[M, K, T * N + K] -> float[M, K, W]"""

    def __init__(self, width: int, config: Resampler.Config) -> None:
        super().__init__()
        self.attention = _Attention(width, config)
        self.feed_forward = FeedForward(width, config.feed_forward_mult)

    def forward(self, latents: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
        latents = latents + self.attention(latents, x, mask)
        return latents + self.feed_forward(latents)
