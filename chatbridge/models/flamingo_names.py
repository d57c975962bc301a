"""Names of OpenFlamingo's tensors and ours, for the resampler and the gated blocks; each mapping can be reversed.

source   mlfoundations/open_flamingo and open-mmlab/Multimodal-GPT: the state dicts of the released checkpoints
"""

from __future__ import annotations

import re

_FEED_FORWARD = {"0": "norm", "1": "up", "3": "down"}  # number in the released Sequential -> our name
_RESAMPLER_PREFIX = r"^perceiver\."
_SINGLE = {"frame_embs": "frame_embeddings"}
_GATES = {"attn_gate": "attention_gate", "ff_gate": "feed_forward_gate"}


def resampler_name(released: str) -> str:
    """Our name of a tensor of the resampler, with or without `perceiver.` before it; other names stay as they are."""
    name = re.sub(_RESAMPLER_PREFIX, "", released)
    if name in _SINGLE:
        return _SINGLE[name]
    if found := re.fullmatch(r"layers\.(\d+)\.0\.(.+)", name):
        return f"blocks.{found[1]}.attention.{found[2]}"
    if found := re.fullmatch(r"layers\.(\d+)\.1\.([013])\.(.+)", name):
        return f"blocks.{found[1]}.feed_forward.{_FEED_FORWARD[found[2]]}.{found[3]}"
    return name


def released_resampler_name(ours: str) -> str:
    """The released name, without `perceiver.`, of a tensor of the resampler."""
    back = {value: key for key, value in _SINGLE.items()}
    if ours in back:
        return back[ours]
    if found := re.fullmatch(r"blocks\.(\d+)\.attention\.(.+)", ours):
        return f"layers.{found[1]}.0.{found[2]}"
    if found := re.fullmatch(r"blocks\.(\d+)\.feed_forward\.(norm|up|down)\.(.+)", ours):
        return f"layers.{found[1]}.1.{_number(found[2])}.{found[3]}"
    return ours


def block_name(released: str) -> str:
    """Our name of a tensor of a gated block, from what follows `gated_cross_attn_layer.` or its like."""
    if released in _GATES:
        return _GATES[released]
    if found := re.fullmatch(r"ff\.([013])\.(.+)", released):
        return f"feed_forward.{_FEED_FORWARD[found[1]]}.{found[2]}"
    return re.sub(r"^attn\.", "attention.", released)


def released_block_name(ours: str) -> str:
    """The released name of a tensor of a gated block, from what follows `fusion.layers.<number>.`."""
    back = {value: key for key, value in _GATES.items()}
    if ours in back:
        return back[ours]
    if found := re.fullmatch(r"feed_forward\.(norm|up|down)\.(.+)", ours):
        return f"ff.{_number(found[1])}.{found[2]}"
    return re.sub(r"^attention\.", "attn.", ours)


def _number(part: str) -> str:
    return next(number for number, name in _FEED_FORWARD.items() if name == part)


__all__ = ["block_name", "released_block_name", "released_resampler_name", "resampler_name"]
