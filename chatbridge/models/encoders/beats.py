"""BEATs: audio features from log-mel patches (Chen et al. 2022, microsoft/unilm: beats; iter3+ AS2M as released).

The patches form one sequence, time-major with frequency fastest. Positions come from a grouped convolution and from a
bucketed relative bias that all blocks share and each block gates with its queries. Blocks are post-norm with deep-norm
residuals. The sizes in a released file (`cfg`) have priority over the settings here: the defaults of other
implementations describe a different network.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor, nn

from chatbridge.common.errors import Problem
from chatbridge.common.types import Features
from chatbridge.models.component import LoadNotes, State
from chatbridge.models.encoders._beats_checkpoint import rename_released, sizes_of_file
from chatbridge.models.encoders._beats_layers import BEATsBlock, PositionConv, RelativeBias, token_padding
from chatbridge.models.encoders.base import ENCODERS, Encoder, EncoderConfig, check_shape, feature_norm


@ENCODERS.register("beats")
class BEATs(Encoder):
    """float[M, frames, mel] -> float[M, (frames / patch) * (mel / patch), W]."""

    modalities = frozenset({"audio"})
    fp32_residuals = True

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
        dropout: float = 0.0  # after attention and MLP, only in training
        mel_bins: int = 128  # 64 only for weights that were trained with ChatBridge's own configs
        target_frames: int = 1024  # frames of 10 ms per clip
        channels: Literal["mean", "first"] = "mean"  # first: only the first channel, as in the released ChatBridge

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
        self.config = config = replace(config, **sizes_of_file(config.weights))
        self.patches = nn.Conv2d(1, config.patch_width, config.patch_size, config.patch_size, bias=config.patch_bias)
        self.patch_norm = nn.LayerNorm(config.patch_width)
        self.patch_proj = (
            nn.Linear(config.patch_width, config.width) if config.patch_width != config.width else nn.Identity()
        )
        self.position = PositionConv(config.width, config.position_kernel, config.position_groups)
        self.input_norm = nn.LayerNorm(config.width)
        self.relative_bias = RelativeBias(config.num_buckets, config.max_distance, config.heads)
        self.blocks = nn.ModuleList(
            BEATsBlock(
                config.width, config.heads, config.mlp_width, depth=config.depth, gated=config.gated,
                deep_norm=config.deep_norm, dropout=config.dropout,
            )
            for _ in range(config.depth)
        )  # fmt: skip
        self.norm = feature_norm(config.width, config.norm)

    @property
    def width(self) -> int:
        return self.config.width

    def num_tokens(self, modality: str) -> int:
        return (self.config.target_frames // self.config.patch_size) * (self.config.mel_bins // self.config.patch_size)

    def axes(self, modality: str) -> int:
        return 3  # [M, frames, mel]

    def forward(self, media: Tensor, modality: str = "audio", padding: Tensor | None = None) -> Features:
        """The features of audio clips.

        media    float[M, frames, mel], normalised log-mel; frames of 10 ms; both axes are cut to whole patches
        padding  bool[M, frames], True = padding; ChatBridge never passes it
        returns  x float[M, N, W], mask bool[M, N] with padding, True = a token that counts
        raises   ValueError for a different number of axes
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
        """Rename released tensors; see _beats_checkpoint.rename_released. Tensors [...] keep their shapes."""
        return rename_released(state)

    def fit(self, state: State, notes: LoadNotes) -> State:
        """Drop the classifier of a fine-tuned file; the other tensors [...] stay as they are."""
        for key in [key for key in state if key.startswith("predictor.")]:
            state.pop(key)
            notes.dropped[key] = "classifier of the fine-tuned release"
        return self.fit_norm(state, notes, "ln_audio")
