"""The route of one modality: split items into pieces, encode, bridge, merge the pieces."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from chatbridge.common.types import Features
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.models.bridges import Bridge
from chatbridge.models.encoders import Encoder
from chatbridge.models.route_config import PiecesConfig


class Route:
    """References to an encoder and a bridge, which several routes may share."""

    def __init__(self, modality: str, encoder: Encoder, bridge: Bridge, pieces: PiecesConfig) -> None:
        self.modality = modality
        self.encoder = encoder
        self.bridge = bridge
        self.pieces = pieces

    @property
    def num_tokens(self) -> int:
        """K, the number of tokens of one item."""
        features = self.encoder.num_tokens(self.modality)
        if self.pieces.merge == "concat":
            return self.bridge.num_tokens(self.pieces.count * features)
        times = self.pieces.count if self.pieces.merge == "separate" else 1
        return times * self.bridge.num_tokens(features)

    @property
    def bridges_once(self) -> bool:
        """Whether the bridge runs once for an item, not once for each piece."""
        return self.pieces.merge in ("concat", "mean_features")

    def accepts(self, count: int) -> bool:
        """Whether items of `count` pieces also become K tokens, so the token sequence stays the same."""
        if count == self.pieces.count or self.pieces.merge in ("mean", "mean_features"):
            return True
        if self.pieces.merge != "concat" or any(self.bridge.config.route_problems({self.modality: count})):
            return False
        try:
            return self.bridge.num_tokens(count * self.encoder.num_tokens(self.modality)) == self.num_tokens
        except ValueError:  # too few features for the groups of the bridge
            return False

    def tokens(self, media: Tensor | Features) -> Tensor:
        """The bridge tokens of media items.

        media    float[M, ...] or float[M, T, ...]; pixels also as uint8[M, 3, H, W] or uint8[M, T, 3, H, W], which are
                 normalised here, in fp32. T may differ from the route's if `accepts(T)`. Features of the cache, x
                 [M, T * N, W], are not encoded again
        returns  float[M, K, D]
        raises   ValueError for a wrong number of axes or pieces
        """
        if isinstance(media, Features):
            num_pieces, features = media.frames, self._stored(media)  # x [M, T * N, W]
            if self.pieces.merge != "concat":
                features = split_frames(features)  # x [M * T, N, W]
        else:
            flat, num_pieces = self.flat(media)  # [M * T, ...]
            with without_gradient(self.encoder):
                features = encoded(self.encoder, self.modality, flat)  # x [M * T, N, W]
            if self.pieces.merge == "concat":
                features = merge_frames(features, num_pieces)  # x [M, T * N, W]
        if self.pieces.merge == "mean_features":
            features = mean_of_frames(features, num_pieces)  # x [M, N, W]
        with without_gradient(self.bridge, features.x):
            tokens = self.bridge(features, self.modality)  # [M, K, D], or [M * T, K, D] for separate pieces
        return tokens if self.bridges_once else self._joined(tokens, num_pieces)

    def _stored(self, features: Features) -> Features:
        """Features of the cache as the encoder would give them: fp32, or under autocast the dtype they are stored in.

        features  x [M, T * N, W] fp32, bf16, or int8 with scale float[M, T * N, 1]
        raises    ValueError for a wrong number of pieces
        """
        if not self.accepts(features.frames):
            raise ValueError(f"{self.modality}: features of {features.frames} pieces, expected {self.pieces.count}")
        x = features.floats()
        x = x if torch.is_autocast_enabled(x.device.type) else x.float()
        return Features(x, features.mask, features.frames)

    def _joined(self, tokens: Tensor, num_pieces: int) -> Tensor:
        """Tokens of pieces, float[M * T, K, D] -> float[M, T * K, D], or their mean float[M, K, D]."""
        by_item = tokens.unflatten(0, (-1, num_pieces))  # [M, T, K, D]
        return by_item.mean(1) if self.pieces.merge == "mean" else by_item.flatten(1, 2)

    def flat(self, media: Tensor) -> tuple[Tensor, int]:
        """The pieces of all items on one axis.

        media    [M, ...] or [M, T, ...], any dtype
        returns  [M * T, ...], and T
        raises   ValueError for a wrong number of axes or pieces
        """
        axes = self.encoder.axes(self.modality)
        if media.ndim == axes and self.pieces.count == 1:
            return media, 1
        if media.ndim != axes + 1 or not self.accepts(media.shape[1]):
            pieces = MODALITIES.get(self.modality).pieces
            raise ValueError(
                f"{self.modality}: media of shape {list(media.shape)}; expected {axes + 1} axes with "
                f"{self.pieces.count} {pieces} on the second, as configured, or a number that gives "
                f"the same {self.num_tokens} tokens"
            )
        return media.flatten(0, 1), media.shape[1]  # [M * T, ...]


def encoded(encoder: Encoder, modality: str, flat: Tensor) -> Features:
    """The features of single pieces: what a route gives its bridge, and what the feature cache stores.

    flat     float[M, ...] or pixels uint8[M, 3, H, W], which are normalised in fp32
    returns  x float[M, N, W]
    """
    if flat.dtype == torch.uint8:
        is_seen = modality in ("image", "video")  # frames have the statistics of images
        statistics = encoder.statistics if is_seen else encoder.statistics_of(modality)
        flat = statistics.normalised(flat)
    return encoder(flat, modality)


def split_frames(features: Features) -> Features:
    """The inverse of merge_frames.

    features  x float[M, T * N, W]
    returns   x float[M * T, N, W]
    """
    num_frames = features.frames
    x = features.x.unflatten(1, (num_frames, -1)).flatten(0, 1)  # [M * T, N, W]
    mask = None if features.mask is None else features.mask.unflatten(1, (num_frames, -1)).flatten(0, 1)
    return Features(x, mask)


def merge_frames(features: Features, num_frames: int) -> Features:
    """Concatenate the feature tokens of all frames of an item.

    features  x float[M * T, N, W], frames of one item are neighbours
    returns   x float[M, T * N, W]
    """
    x = features.x.unflatten(0, (-1, num_frames)).flatten(1, 2)  # [M, T * N, W]
    mask = None if features.mask is None else features.mask.unflatten(0, (-1, num_frames)).flatten(1, 2)
    return Features(x, mask, num_frames)


def mean_of_frames(features: Features, num_frames: int) -> Features:
    """The mean of the feature tokens of all frames of an item; only tokens that count enter it.

    features  x float[M * T, N, W], frames of one item are neighbours
    returns   x float[M, N, W]
    """
    x = features.x.unflatten(0, (-1, num_frames))  # [M, T, N, W]
    if features.mask is None:
        return Features(x.mean(1))
    mask = features.mask.unflatten(0, (-1, num_frames))  # [M, T, N]
    weight = (mask / mask.sum(1, keepdim=True).clamp(min=1)).to(x.dtype)
    return Features((x * weight[..., None]).sum(1), mask.any(1))


def without_gradient(part: nn.Module, given: Tensor | None = None) -> AbstractContextManager[object]:
    """torch.no_grad() for a frozen component whose input needs no gradient; otherwise a null context.

    given    the input of the component, float[...], if it may need a gradient
    """
    is_trainable = any(parameter.requires_grad for parameter in part.parameters())
    needs_gradient = given is not None and given.requires_grad
    return nullcontext() if is_trainable or needs_gradient else torch.no_grad()
