"""Names of OpenFlamingo's tensors and ours, for the resampler and the gated blocks; each mapping can be reversed.

source   mlfoundations/open_flamingo and open-mmlab/Multimodal-GPT: the state dicts of the released checkpoints
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# (beginning of a released name, beginning of ours); N is the number of a layer
_RESAMPLER = (
    ("frame_embs", "frame_embeddings"),
    ("layers.N.0.", "blocks.N.attention."),
    ("layers.N.1.0.", "blocks.N.feed_forward.norm."),
    ("layers.N.1.1.", "blocks.N.feed_forward.up."),
    ("layers.N.1.3.", "blocks.N.feed_forward.down."),
)
_BLOCK = (
    ("attn_gate", "attention_gate"),
    ("ff_gate", "feed_forward_gate"),
    ("attn.", "attention."),
    ("ff.0.", "feed_forward.norm."),
    ("ff.1.", "feed_forward.up."),
    ("ff.3.", "feed_forward.down."),
)


def resampler_name(released: str) -> str:
    """Our name of a tensor of the resampler, with or without `perceiver.` before it; other names stay as they are."""
    return _renamed(released.removeprefix("perceiver."), _RESAMPLER)


def released_resampler_name(ours: str) -> str:
    """The released name, without `perceiver.`, of a tensor of the resampler."""
    return _renamed(ours, _reversed(_RESAMPLER))


def block_name(released: str) -> str:
    """Our name of a tensor of a gated block, from what follows `gated_cross_attn_layer.` or its like."""
    return _renamed(released, _BLOCK)


def released_block_name(ours: str) -> str:
    """The released name of a tensor of a gated block, from what follows `fusion.layers.<number>.`."""
    return _renamed(ours, _reversed(_BLOCK))


def _reversed(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(ours, released) for released, ours in pairs]


def _renamed(name: str, pairs: Sequence[tuple[str, str]]) -> str:
    """The name with another beginning, the one of the pair whose first it has; without such a pair as it is."""
    for before, after in pairs:
        if found := re.match(re.escape(before).replace("N", r"(\d+)"), name):
            return after.replace("N", found[1] if found.re.groups else "") + name[found.end() :]
    return name


__all__ = ["block_name", "released_block_name", "released_resampler_name", "resampler_name"]
