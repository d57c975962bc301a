"""The trunks of ImageBind: a stem for each kind of media, blocks, and a head that gives one vector for an item.

Every head reads one token only, so an item has one feature, however many patches it has. The feature is divided by its
length and multiplied by the trunk's scale: 1 for vision, 20 for audio.

Source: Girdhar et al. 2023; facebookresearch/ImageBind: imagebind/models (imagebind_model, multimodal_preprocessors).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chatbridge.models.encoders._imagebind_layers import EPS, STD, ImageBindBlock, start_linear_layers
from chatbridge.models.encoders._imagebind_sizes import (
    FRAMES,
    AudioSizes,
    DepthSizes,
    ImuSizes,
    SquareSizes,
    TextSizes,
    ThermalSizes,
    TrunkSizes,
    VisionSizes,
)
from chatbridge.models.encoders.base import check_shape

MAX_SCALE = 100.0  # of a feature's length


class Trunk(nn.Module):
    """Blocks over the tokens of a stem, and the head over the class token; subclasses make the tokens."""

    scale: Tensor | None

    def __init__(
        self, sizes: TrunkSizes, out_width: int, *, scale: float | None = None, extra: bool = True,
        causal: bool = False, head_dropout: float = 0.0,
    ) -> None:  # fmt: skip
        """scale   length of a feature, which a file may replace; None: 1. extra: blocks have an extra key and value"""
        super().__init__()
        width = sizes.width
        self.blocks = nn.ModuleList(
            ImageBindBlock(width, sizes.heads, extra=extra, causal=causal, drop_path=rate)
            for rate in _rates(sizes.drop_path, sizes.depth)
        )
        self.input_norm: nn.Module = nn.Identity()  # only vision has one
        self.head_norm = nn.LayerNorm(width, eps=EPS)
        self.head_dropout = nn.Dropout(head_dropout)
        self.head = nn.Linear(width, out_width, bias=False)
        self.register_buffer("scale", None if scale is None else torch.tensor(float(scale)))

    def _add_positions(self, width: int, num_tokens: int, has_class: bool = True) -> None:
        """The class token, and a position embedding for it and for each of `num_tokens` tokens."""
        self.class_token = nn.Parameter(torch.zeros(1, 1, width)) if has_class else None
        self.positions = nn.Parameter(torch.empty(1, num_tokens + has_class, width))
        nn.init.normal_(self.positions, std=STD)
        start_linear_layers(self)

    def forward(self, media: Tensor) -> Tensor:
        """The features of media, float[M, ...] -> float[M, out_width], of length `scale`.

        raises   ValueError for media of another shape
        """
        return self.lengthened(self.head(self.head_dropout(self.head_norm(self.pooled(self.states(media), media)))))

    def pooled(self, x: Tensor, media: Tensor) -> Tensor:
        """The token that the head reads, float[M, 1 + N, W] -> float[M, W]"""
        return x[:, 0]

    def states(self, media: Tensor) -> Tensor:
        """float[M, ...] -> float[M, 1 + N, W], the output of the last block"""
        x = self.input_norm(self.tokens(media))
        for block in self.blocks:
            x = block(x)
        return x

    def tokens(self, media: Tensor) -> Tensor:
        """float[M, ...] -> float[M, 1 + N, W], the input of the first block (before the norm that vision has)"""
        x = self.patches(media)
        assert self.class_token is not None
        return torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1) + self.positions

    def patches(self, media: Tensor) -> Tensor:
        """float[M, ...] -> float[M, N, W]. raises ValueError for media of another shape"""
        raise NotImplementedError

    def lengthened(self, x: Tensor) -> Tensor:
        """float[M, out_width] -> the same directions with length `scale`; in fp32, and back in the dtype of x"""
        unit = F.normalize(x.float(), dim=-1)
        return (unit if self.scale is None else unit * self.scale.float()).to(x.dtype)


class VisionTrunk(Trunk):
    """Images and clips: one patch covers all frames of a clip, and an image counts as a clip of equal frames."""

    def __init__(self, sizes: VisionSizes, out_width: int) -> None:
        super().__init__(sizes, out_width, extra=False)
        self.sizes = sizes
        kernel = (FRAMES, sizes.patch_size, sizes.patch_size)
        self.stem = nn.Conv3d(3, sizes.width, kernel, kernel, bias=False)
        self.input_norm = nn.LayerNorm(sizes.width, eps=EPS)
        self._add_positions(sizes.width, math.prod(sizes.grid))

    def patches(self, media: Tensor) -> Tensor:
        """images float[M, 3, H, W] or clips float[M, 3, frames, H, W] -> float[M, N, W]"""
        weight, side = self.stem.weight, self.sizes.image_size
        media = media.to(weight.dtype)
        if media.ndim == 5:
            check_shape(media, "M, 3, frames, H, W", {1: 3, 2: FRAMES, 3: side, 4: side})
        else:
            check_shape(media, "M, 3, H, W", {1: 3, 2: side, 3: side})
            media = media[:, :, None].expand(-1, -1, FRAMES, -1, -1)
        if media.dtype == torch.float32:
            return self.stem(media).flatten(2).transpose(1, 2)  # rounds as the reference does
        media, kernel = media.flatten(1, 2), weight.flatten(1, 2)  # [M, 3 * frames, H, W]
        return F.conv2d(media, kernel, stride=self.sizes.patch_size).flatten(2).transpose(1, 2)


class PatchTrunk(Trunk):
    """Media of one channel in two dimensions, float[M, 1, H, W]: mel bins by frames, depth maps, thermal images."""

    def __init__(
        self, sizes: AudioSizes | SquareSizes, out_width: int, shape: tuple[int, int], letters: str, stride: int,
        scale: float,
    ) -> None:  # fmt: skip
        """shape   H and W of the media, `letters` names their axes; stride: from one patch to the next"""
        super().__init__(sizes, out_width, scale=scale)
        self.shape, self.letters = shape, letters
        self.stem = nn.Conv2d(1, sizes.width, sizes.patch_size, stride, bias=False)
        self.stem_norm = nn.LayerNorm(sizes.width, eps=1e-5)
        self._add_positions(sizes.width, math.prod(sizes.grid))

    def patches(self, media: Tensor) -> Tensor:
        """float[M, 1, H, W] -> float[M, N, W], rows of patches one after the other"""
        check_shape(media, self.letters, {1: 1, 2: self.shape[0], 3: self.shape[1]})
        return self.stem_norm(self.stem(media.to(self.stem.weight.dtype)).flatten(2).transpose(1, 2))


class ImuTrunk(Trunk):
    """Windows of readings, all channels of a window in one token."""

    def __init__(self, sizes: ImuSizes, out_width: int) -> None:
        super().__init__(sizes, out_width, scale=5.0, head_dropout=sizes.head_dropout)
        self.sizes = sizes
        self.stem = nn.Linear(sizes.channels * sizes.window, sizes.width, bias=False)
        self.stem_norm = nn.LayerNorm(sizes.width, eps=1e-5)
        self._add_positions(sizes.width, math.prod(sizes.grid))

    def patches(self, media: Tensor) -> Tensor:
        """float[M, channels, length] -> float[M, length / window, W]"""
        check_shape(media, "M, channels, readings", {1: self.sizes.channels, 2: self.sizes.length})
        windows = media.to(self.stem.weight.dtype).unflatten(2, (-1, self.sizes.window))  # [M, channels, N, window]
        return self.stem_norm(self.stem(windows.transpose(1, 2).flatten(2)))


class TextTrunk(Trunk):
    """Token ids; the feature is read at the end token, which has the largest id."""

    def __init__(self, sizes: TextSizes, out_width: int) -> None:
        super().__init__(sizes, out_width, extra=False, causal=True)
        self.sizes = sizes
        self.embedding = nn.Embedding(sizes.vocabulary, sizes.width)
        nn.init.normal_(self.embedding.weight, std=STD)
        self.log_scale = nn.Parameter(torch.tensor([math.log(1 / 0.07)]))  # not a scalar: sharding has an axis
        self._add_positions(sizes.width, sizes.context_length, has_class=False)

    def pooled(self, x: Tensor, media: Tensor) -> Tensor:
        """The state of the end token, float[M, L, W] -> float[M, W]"""
        return x[torch.arange(len(x), device=x.device), media.argmax(-1)]

    def tokens(self, media: Tensor) -> Tensor:
        """int64[M, L] -> float[M, L, W]; L up to the context length, padded on the right with any smaller id

        raises   ValueError for more tokens, ids outside the vocabulary, or a tensor that is not ids
        """
        self._check(media)
        return self.embedding(media) + self.positions[:, : media.shape[1]]

    def lengthened(self, x: Tensor) -> Tensor:
        """float[M, out_width] -> the same directions with the learned length, at most 100"""
        scale = self.log_scale.float().exp().clamp(max=MAX_SCALE)
        return (F.normalize(x.float(), dim=-1) * scale).to(x.dtype)

    def _check(self, ids: Tensor) -> None:
        if ids.ndim != 2 or ids.is_floating_point() or not 1 <= ids.shape[1] <= self.sizes.context_length:
            raise ValueError(
                f"text has shape {list(ids.shape)} of {ids.dtype}, expected token ids int64[M, L] with L from 1 to "
                f"{self.sizes.context_length}"
            )
        if not ids.is_meta and ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.sizes.vocabulary:
            raise ValueError(
                f"text has ids from {int(ids.min())} to {int(ids.max())}, the vocabulary of this trunk has 0 to "
                f"{self.sizes.vocabulary - 1}; use CLIP's tokenizer"
            )


def _audio(sizes: AudioSizes, out_width: int) -> Trunk:
    shape = (sizes.mel_bins, sizes.frames)
    return PatchTrunk(sizes, out_width, shape, "M, 1, mel, frames", sizes.stride, scale=20.0)


def _depth(sizes: DepthSizes, out_width: int) -> Trunk:
    shape = (sizes.image_size, sizes.image_size)
    return PatchTrunk(sizes, out_width, shape, "M, 1, H, W", sizes.patch_size, scale=5.0)


def _thermal(sizes: ThermalSizes, out_width: int) -> Trunk:
    shape = (sizes.image_size, sizes.image_size)
    return PatchTrunk(sizes, out_width, shape, "M, 1, H, W", sizes.patch_size, scale=10.0)


TRUNKS: dict[str, Callable[..., Trunk]] = {  # name, also of its sizes in the Config -> what builds it
    "vision": VisionTrunk, "audio": _audio, "depth": _depth, "thermal": _thermal, "imu": ImuTrunk, "text": TextTrunk,
}  # fmt: skip


def _rates(last: float, depth: int) -> list[float]:
    """Probabilities of skipping, from 0 for the first block to `last`."""
    return [last * number / max(1, depth - 1) for number in range(depth)]
