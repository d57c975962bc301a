"""The resampler and the gated cross-attention block alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from chatbridge.common.types import Features
from chatbridge.models.bridges.resampler import Resampler
from chatbridge.models.flamingo_names import block_name
from chatbridge.models.fusion._gated_block import GatedBlock
from chatbridge.models.fusion._seen_media import NEVER, Reach, SeenMedia, seen
from chatbridge.models.loading import load_component
from tests.parity.golden import Check, Golden
from tests.parity.weight_files import released_file

VECTORS = (
    "media_time_embs (a vector per media item of a conversation) are no setting, as the public model has none; here "
    "they are added to the input, where they act the same"
)
BLIND = (
    "media: all: text before the first item reads nothing, as a token without any item cannot; the reference gives it "
    "the mean of all items"
)
SURPLUS = (
    "an <image> token beyond the images is an error here: slots are typed, and their number is checked; the reference "
    "then reads all images uniformly"
)


def perceiver(check: Check) -> None:
    """The tokens of all images, the first attention alone, and tokens of images with several frames."""
    golden = check.golden
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        bridge = _resampler(golden, "perceiver.")
        first: Any = bridge.blocks[0]
        first.attention.register_forward_hook(lambda *call: found.update(attention=call[-1]))
        x = golden.inputs["x"]
        check.close("x", _read(bridge, x), features=True)
        check.close("layer0_attention", found["attention"].unflatten(0, x.shape[:2]), features=True)
        timed = _resampler(golden, "perceiver_time.")
        check.deviates(VECTORS)
        frames = golden.inputs["x_frames"]  # [B, images, frames, tokens, W]
        vectors = golden.weights["perceiver_time.media_time_embs"][: frames.shape[1], :, None]  # [images, 1, 1, W]
        check.close("x_frames", _read(timed, frames + vectors), features=True)


def _resampler(golden: Golden, prefix: str) -> Resampler:
    sizes = golden.config
    weights = {f"perceiver.{name.removeprefix(prefix)}": value for name, value in golden.weights.items()
               if name.startswith(prefix) and not name.endswith("media_time_embs")}  # fmt: skip
    config = Resampler.Config(
        depth=sizes["depth"], num_latents=sizes["num_latents"], heads=sizes["heads"], head_width=sizes["dim_head"],
        feed_forward_mult=sizes["ff_mult"],
        max_frames=sizes["max_num_frames"] if "perceiver.frame_embs" in weights else None,
    )  # fmt: skip
    bridge = Resampler(config, {"image": sizes["dim"]}, out_width=sizes["dim"]).eval()
    with released_file(weights) as path:
        load_component(bridge, path)
    return bridge


def _read(bridge: Resampler, x: Tensor) -> Tensor:
    """float[B, images, frames, tokens, W] -> float[B, images, K, W]"""
    tokens = bridge(Features(x.flatten(0, 1).flatten(1, 2), frames=x.shape[2]), "image")
    return tokens.unflatten(0, x.shape[:2])


def xattn(check: Check) -> None:
    """The block with 0, 1 and 3 images in a row, for every reach, and its attention alone."""
    golden = check.golden
    x, block = golden.inputs["x"], _block(golden)
    at = golden.inputs["media_locations"]
    found: dict[str, Tensor] = {}
    block.attention.register_forward_hook(lambda *call: found.update(attention=call[-1]))
    reaches: tuple[tuple[str, Reach], ...] = (("attend_previous_false", "next"), ("attend_previous_true", "previous"))
    with torch.no_grad():
        for name, reach in reaches:
            check.close(name, block(x, _seen(golden, at, reach)), features=True)
            check.close(f"{name}.attn", found["attention"], features=True)
        every = _seen(golden, at, "all")
        check.deviates(BLIND)
        has_item = every.reads.any(2)
        check.close("all_previous_media", block(x, every), at=has_item, features=True)
        whole = _seen(golden, at, "previous")
        check.close("no_locations", block(x, replace(whole, reads=torch.ones_like(whole.reads))), features=True)
        last = torch.full((len(x), 1), x.shape[1] - 1)
        check.close("cached_media_last_token", block(x[:, -1:], whole.at(last)), features=True)
        check.deviates(SURPLUS)
        surplus = golden.inputs["overflow_media_locations"]  # [1, L], one token more than images
        known = surplus.cumsum(1) <= golden.inputs["media"].shape[1]
        check.close("overflow", block(x[:1], _seen(golden, surplus & known, "previous")), at=known, features=True)


def _block(golden: Golden) -> GatedBlock:
    sizes, prefix = golden.config, "gated_cross_attn_layer."
    block = GatedBlock(sizes["dim"], sizes["dim_visual"], sizes["heads"], sizes["dim_head"], sizes["ff_mult"]).eval()
    block.load_state_dict({block_name(name.removeprefix(prefix)): value for name, value in golden.weights.items()})
    return block


def _seen(golden: Golden, at: Tensor, reach: Reach) -> SeenMedia:
    """The first images of each row, one for each of its <image> tokens."""
    media = golden.inputs["media"][: len(at)]  # [B, images, K, W]
    start = torch.full(media.shape[:2], NEVER)
    for row, places in enumerate(at):
        (columns,) = places.nonzero(as_tuple=True)
        start[row, : len(columns)] = columns
    positions = torch.arange(at.shape[1]).expand(len(at), -1)
    return seen(media.flatten(1, 2), start.repeat_interleave(media.shape[2], 1), reach, True, positions)
