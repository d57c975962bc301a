"""The way of one modality: pieces apart, through the encoder, through the bridge, pieces together again."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from chatbridge.common.types import Features
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.models.bridges import Bridge
from chatbridge.models.config import PiecesConfig
from chatbridge.models.encoders import Encoder


class Route:
    """Holds references, not weights: the same parts may serve several routes."""

    def __init__(self, modality: str, encoder: Encoder, bridge: Bridge, pieces: PiecesConfig) -> None:
        self.modality = modality
        self.encoder = encoder
        self.bridge = bridge
        self.pieces = pieces

    @property
    def num_tokens(self) -> int:
        """K, tokens of one item."""
        features = self.encoder.num_tokens(self.modality)
        if self.pieces.merge == "concat":
            return self.bridge.num_tokens(self.pieces.count * features)
        times = self.pieces.count if self.pieces.merge == "separate" else 1
        return times * self.bridge.num_tokens(features)

    def takes(self, count: int) -> bool:
        """Whether items of `count` pieces become K tokens too, so that token sequences need not change."""
        if count == self.pieces.count or self.pieces.merge == "mean":
            return True
        if self.pieces.merge != "concat" or any(self.bridge.config.route_problems({self.modality: count})):
            return False
        try:
            return self.bridge.num_tokens(count * self.encoder.num_tokens(self.modality)) == self.num_tokens
        except ValueError:  # too few features for its groups
            return False

    def tokens(self, media: Tensor) -> Tensor:
        """float[M, ...] or float[M, T, ...] -> float[M, K, D]; T may differ from the route's where `takes(T)`

        Pictures may come as bytes, uint8[M, 3, H, W] or uint8[M, T, 3, H, W]; they are normalised here, in fp32.

        raises   ValueError for another number of axes or of pieces
        """
        flat, num_pieces = self.flat(media)
        if flat.dtype == torch.uint8:
            is_seen = self.modality in ("image", "video")  # frames are normalised as images are
            statistics = self.encoder.statistics if is_seen else self.encoder.statistics_of(self.modality)
            flat = statistics.normalised(flat)
        with without_gradient(self.encoder):
            features = self.encoder(flat, self.modality)  # x [M * T, N, W]
        if self.pieces.merge == "concat":
            features = merge_frames(features, num_pieces)  # x [M, T * N, W]
        with without_gradient(self.bridge, features.x):
            tokens = self.bridge(features, self.modality)
        return tokens if self.pieces.merge == "concat" else self._joined(tokens, num_pieces)

    def _joined(self, tokens: Tensor, num_pieces: int) -> Tensor:
        """float[M * T, K, D], the tokens of each piece -> float[M, T * K, D] or, by their mean, float[M, K, D]"""
        by_item = tokens.unflatten(0, (-1, num_pieces))  # [M, T, K, D]
        return by_item.mean(1) if self.pieces.merge == "mean" else by_item.flatten(1, 2)

    def flat(self, media: Tensor) -> tuple[Tensor, int]:
        """The pieces of all items in one row, float[M * T, ...], and T."""
        axes = self.encoder.axes(self.modality)
        if media.ndim == axes and self.pieces.count == 1:
            return media, 1
        if media.ndim != axes + 1 or not self.takes(media.shape[1]):
            pieces = MODALITIES.get(self.modality).pieces
            raise ValueError(
                f"{self.modality}: media of shape {list(media.shape)}; expected {axes + 1} axes with "
                f"{self.pieces.count} {pieces} on the second, as the route says, or another number that gives "
                f"the same {self.num_tokens} tokens"
            )
        return media.flatten(0, 1), media.shape[1]


def merge_frames(features: Features, num_frames: int) -> Features:
    """Put the tokens of all frames of an item side by side.

    features  x float[M * T, N, W], frames of one item are neighbours
    returns   x float[M, T * N, W]
    """
    x = features.x.unflatten(0, (-1, num_frames)).flatten(1, 2)  # [M, T * N, W]
    mask = None if features.mask is None else features.mask.unflatten(0, (-1, num_frames)).flatten(1, 2)
    return Features(x, mask, num_frames)


def without_gradient(part: nn.Module, given: Tensor | None = None) -> AbstractContextManager[object]:
    """no_grad for a part in which nothing trains and whose input carries no gradient either."""
    trains = any(parameter.requires_grad for parameter in part.parameters())
    reaches = given is not None and given.requires_grad
    return nullcontext() if trains or reaches else torch.no_grad()
