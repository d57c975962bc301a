"""BEATs: audio features from log-mel patches (Chen et al. 2022, microsoft/unilm: beats; iter3+ AS2M as released).

One flat sequence of patches, time-major with frequency fastest; a grouped convolution for positions; post-norm blocks
with deep-norm residuals; a bucketed relative bias that all blocks share and each gates with its own queries.
The released file carries its sizes (`cfg`), and they win over the settings here: the defaults of other
implementations describe another network.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chatbridge.common.errors import Problem
from chatbridge.common.types import Features
from chatbridge.models.encoders._beats_names import from_released, sizes_of_file
from chatbridge.models.encoders.base import ENCODERS, Encoder, EncoderConfig, check_shape, feature_norm
from chatbridge.models.parts import LoadNotes, State


@ENCODERS.register("beats")
class BEATs(Encoder):
    """float[M, frames, mel] -> float[M, (frames / patch) * (mel / patch), W]."""

    modalities = frozenset({"audio"})
    sums_in_fp32 = True

    @dataclass(frozen=True, kw_only=True)
    class Config(EncoderConfig):
        width: int = 768  # channels of the blocks and of the features
        depth: int = 12  # blocks
        heads: int = 12
        mlp_width: int = 3072  # hidden channels of a block's MLP
        patch_size: int = 16  # frames and mel bins per patch
        patch_width: int = 512  # channels of the patch projection
        patch_bias: bool = False
        position_kernel: int = 128  # patches
        position_groups: int = 16
        num_buckets: int = 320  # of the relative bias, half per direction
        max_distance: int = 800  # patches; farther ones share the last bucket
        deep_norm: bool = True  # residuals times (2 * depth)^0.25
        gated: bool = True  # each block gates the relative bias with its queries
        dropout: float = 0.0  # behind attention and MLP, only while training
        mel_bins: int = 128  # 64 only for weights that ChatBridge's own configs trained
        target_frames: int = 1024  # frames of 10 ms per clip
        channels: Literal["mean", "first"] = "mean"  # first: the first channel alone, as the released ChatBridge heard

        def problems(self) -> Iterator[Problem]:
            if self.width % self.heads:
                yield Problem("heads", f"width {self.width} does not divide into {self.heads} heads")
            if self.width % self.position_groups:
                yield Problem(
                    "position_groups", f"width {self.width} does not divide into {self.position_groups} groups"
                )
            for name in ("mel_bins", "target_frames"):
                if getattr(self, name) % self.patch_size:
                    message = f"{getattr(self, name)} is not a multiple of patch_size {self.patch_size}"
                    yield Problem(name, message)

        def processor(self, modality: str, train: bool, count: int) -> Any:
            from chatbridge.processors.audio import AudioProcessor

            return AudioProcessor(
                mel_bins=self.mel_bins, target_frames=self.target_frames, num_clips=count, channels=self.channels
            )

    config: BEATs.Config

    def __init__(self, config: BEATs.Config) -> None:
        super().__init__()
        self.config = config = sizes_of_file(config)
        self.patches = nn.Conv2d(1, config.patch_width, config.patch_size, config.patch_size, bias=config.patch_bias)
        self.patch_norm = nn.LayerNorm(config.patch_width)
        self.patch_proj = (
            nn.Linear(config.patch_width, config.width) if config.patch_width != config.width else nn.Identity()
        )
        self.position = PositionConv(config.width, config.position_kernel, config.position_groups)
        self.input_norm = nn.LayerNorm(config.width)
        self.relative_bias = RelativeBias(config.num_buckets, config.max_distance, config.heads)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = feature_norm(config.width, config.norm)

    @property
    def width(self) -> int:
        return self.config.width

    def num_tokens(self, modality: str) -> int:
        return (self.config.target_frames // self.config.patch_size) * (self.config.mel_bins // self.config.patch_size)

    def axes(self, modality: str) -> int:
        return 3  # [M, frames, mel]

    def forward(self, media: Tensor, modality: str = "audio", padding: Tensor | None = None) -> Features:
        """
        media    float[M, frames, mel]   normalised log-mel; frames and mel are cut to whole patches
        padding  bool[M, frames]         True = no sound there; ChatBridge never passes it
        raises   ValueError for another number of axes
        """
        check_shape(media, "M, frames, mel", {})
        x = self.patches(media.to(self.patches.weight.dtype)[:, None])  # [M, patch_width, T, mel / patch]
        x = self.patch_proj(self.patch_norm(x.flatten(2).transpose(1, 2)))  # [M, N, W]
        hidden = None if padding is None else token_padding(padding, x.shape[1])  # [M, N]
        x = self._transform(x, hidden)
        return Features(self.norm(x), None if hidden is None else ~hidden)

    def _transform(self, x: Tensor, hidden: Tensor | None) -> Tensor:
        if hidden is not None:
            x = x.masked_fill(hidden[..., None], 0.0)
        x = self.input_norm(x + self.position(x))
        bias = self.relative_bias(x.shape[1])  # [heads, N, N]
        for block in self.blocks:
            x = block(x, bias, hidden)
        return x  # [M, N, W]

    @staticmethod
    def convert(state: State) -> State:
        return from_released(state)

    def fit(self, state: State, notes: LoadNotes) -> State:
        """Drop the classifier of a fine-tuned file."""
        for key in [key for key in state if key.startswith("predictor.")]:
            state.pop(key)
            notes.dropped[key] = "classifier of the fine-tuned release"
        return self.fit_norm(state, notes, "ln_audio")


class PositionConv(nn.Module):
    """Positions from a wide grouped convolution whose kernel is kept as gain times direction (weight norm over taps).

    Written out instead of torch's parametrisation, whose names in a state dict changed between versions.
    """

    def __init__(self, width: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.kernel, self.groups = kernel, groups
        self.gain = nn.Parameter(torch.empty(1, 1, kernel))
        self.direction = nn.Parameter(torch.empty(width, width // groups, kernel))
        self.bias = nn.Parameter(torch.zeros(width))
        nn.init.normal_(self.direction, std=math.sqrt(4.0 / (kernel * width)))
        with torch.no_grad():
            self.gain.copy_(self.direction.norm(dim=(0, 1), keepdim=True))

    @property
    def weight(self) -> Tensor:
        """The effective kernel, float[W, W / groups, taps]."""
        return self.direction * (self.gain / self.direction.norm(dim=(0, 1), keepdim=True))

    def forward(self, x: Tensor) -> Tensor:
        """float[M, N, W] -> float[M, N, W]"""
        y = F.conv1d(x.transpose(1, 2), self.weight, self.bias, padding=self.kernel // 2, groups=self.groups)
        return F.gelu(y[..., : x.shape[1]]).transpose(1, 2)  # an even kernel gives one frame too many


class RelativeBias(nn.Module):
    """A bias per head and distance, in buckets that widen with the distance (T5's, with BEATs' directions)."""

    def __init__(self, num_buckets: int, max_distance: int, heads: int) -> None:
        super().__init__()
        self.num_buckets, self.max_distance = num_buckets, max_distance
        self.weight = nn.Parameter(torch.empty(num_buckets, heads))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, length: int) -> Tensor:
        """float[heads, N, N]; row = query, column = key"""
        distance = torch.arange(1 - length, length, device=self.weight.device)  # key minus query, 2N - 1 of them
        values = self.weight[relative_buckets(distance, self.num_buckets, self.max_distance)].T  # [heads, 2N - 1]
        position = torch.arange(length, device=self.weight.device)
        return values[:, position[None, :] - position[:, None] + length - 1]  # [heads, N, N]


def relative_buckets(distance: Tensor, num_buckets: int, max_distance: int) -> Tensor:
    """int64[...], key minus query -> bucket. Keys behind the query take the upper half.

    In each direction half of the buckets stand for one distance each and the rest grow with the logarithm.
    """
    half = num_buckets // 2
    exact = half // 2
    far = distance.abs()
    growth = torch.log(far.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    wide = (exact + (growth * (half - exact)).long()).clamp(max=half - 1)
    return torch.where(far < exact, far, wide) + half * (distance > 0)


class Block(nn.Module):
    """Attention and MLP with the norm behind each residual sum (post-norm, deep-norm factor on the residual)."""

    def __init__(self, config: BEATs.Config) -> None:
        super().__init__()
        self.residual_scale = (2.0 * config.depth) ** 0.25 if config.deep_norm else 1.0
        self.dropout = config.dropout
        self.attn = GatedAttention(config.width, config.heads, config.gated)
        self.attn_norm = nn.LayerNorm(config.width)
        self.fc1 = nn.Linear(config.width, config.mlp_width)
        self.fc2 = nn.Linear(config.mlp_width, config.width)
        self.mlp_norm = nn.LayerNorm(config.width)
        self._start((8.0 * config.depth) ** -0.25 if config.deep_norm else 1.0)

    def _start(self, gain: float) -> None:
        """Start values of deep-norm: everything that reaches the residual sum is damped by `gain`."""
        for part in (self.attn.q, self.attn.k):
            nn.init.xavier_normal_(part.weight)
        for part in (self.attn.v, self.attn.out, self.fc1, self.fc2):
            nn.init.xavier_normal_(part.weight, gain=gain)
            nn.init.zeros_(part.bias)

    def forward(self, x: Tensor, bias: Tensor, hidden: Tensor | None) -> Tensor:
        x = self.attn_norm(self.residual_scale * x + self._drop(self.attn(x, bias, hidden)))
        return self.mlp_norm(self.residual_scale * x + self._drop(self.fc2(F.gelu(self.fc1(x)))))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class GatedAttention(nn.Module):
    """Self-attention with a shared relative bias, scaled per query and head by a gate computed from the query.

    The released code divides the logits by 32 and multiplies them back after subtracting the row maximum (a guard
    against overflow in fp16); that leaves the result unchanged and is left to the attention kernel here.
    """

    def __init__(self, width: int, heads: int, gated: bool) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.gate = nn.Linear(width // heads, 8) if gated else None
        self.gate_scale = nn.Parameter(torch.ones(1, heads, 1, 1)) if gated else None

    def forward(self, x: Tensor, bias: Tensor, hidden: Tensor | None) -> Tensor:
        q, k, v = (self._split(part(x)) for part in (self.q, self.k, self.v))  # [M, heads, N, W / heads]
        mask = bias.to(q.dtype) * self._gate(q).to(q.dtype)  # [M, heads, N, N], the largest tensor: not in fp32
        if hidden is not None:
            mask = mask.masked_fill(hidden[:, None, None], float("-inf"))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(y.transpose(1, 2).flatten(2))  # [M, N, W]

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _gate(self, q: Tensor) -> Tensor:
        """float[M, heads, N, 1], the factor on the bias; one for every query when the block has no gate"""
        if self.gate is None or self.gate_scale is None:
            return q.new_ones(q.shape[0], 1, 1, 1)
        reset, update = self.gate(q).unflatten(-1, (2, 4)).sum(-1).sigmoid().chunk(2, dim=-1)  # each [M, heads, N, 1]
        return reset * (update * self.gate_scale - 1.0) + 2.0


def token_padding(padding: Tensor, num_tokens: int) -> Tensor:
    """bool[M, frames or samples] -> bool[M, N]: a token is padding when all it stands for is

    The sequence is cut to a multiple of N and split evenly, as in the released code.
    """
    whole = padding.shape[1] - padding.shape[1] % num_tokens
    return padding[:, :whole].unflatten(1, (num_tokens, -1)).all(-1)
