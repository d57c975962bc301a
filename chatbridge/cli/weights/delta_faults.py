"""The reasons why a base model and a delta do not belong together.

The values of a delta do not show which base it was computed from: it is small beside any. Known are the shapes, the
settings of both folders, and the ids of the delta's added tokens; and a whole model is recognised by its norms.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from chatbridge.models.language._llava_folder import read_mapping
from chatbridge.models.lazy_tensors import LazyTensors

EXTENDED = ("embed_tokens.weight", "lm_head.weight")  # the delta may add rows for new tokens
NEW = re.compile(r"(^|\.)mm_projector\.(weight|bias)$")  # what only the delta may have
COMPARED = (  # settings of config.json in which LLaMA and Llama-2 or longer variants of equal sizes differ
    "rms_norm_eps", "rope_theta", "max_position_embeddings", "num_attention_heads", "num_key_value_heads",
)  # fmt: skip
_LIKE = 0.5  # relative distance of a norm's weights; a fine-tuning changes them by some percent


def is_buffer(name: str) -> bool:
    """Return whether a tensor holds the rotary frequencies of old files, which follow from the sizes."""
    return name.endswith("rotary_emb.inv_freq")


def faults(base: LazyTensors, delta: LazyTensors) -> Iterator[str]:
    """Yield reasons why base and delta do not belong together, or are not what they are given as."""
    found = list(_of_headers(base, delta))
    yield from found
    yield from _of_settings(base.path, delta.path)
    if not found:  # names and shapes fit, so values can be compared
        yield from _of_norms(base, delta)


def _of_headers(base: LazyTensors, delta: LazyTensors) -> Iterator[str]:
    ours, theirs = base.headers, delta.headers
    if absent := [name for name in ours if name not in theirs and not is_buffer(name)]:
        yield f"{len(absent)} tensors of the base are not in the delta, for example {absent[0]}"
    shared = [name for name in theirs if name in ours]
    if not shared:
        yield "base and delta have no tensor in common"
        return
    new = [name for name in theirs if name not in ours and not is_buffer(name) and not NEW.search(name)]
    if new:
        yield f"{len(new)} tensors of the delta are not in the base, for example {new[0]}; only mm_projector may be new"
    for name in shared:
        own, other = ours[name].shape, theirs[name].shape
        is_extended = name.endswith(EXTENDED) and own[1:] == other[1:] and other[0] > own[0]
        if own != other and not is_extended:
            yield f"{name} is {_size(own)} in the base and {_size(other)} in the delta"
    if any(NEW.search(name) for name in theirs):
        yield from _of_added_tokens(base, delta)


def _of_added_tokens(base: LazyTensors, delta: LazyTensors) -> Iterator[str]:
    """A fault if the base has rows of added tokens: the delta of a multimodal model holds them whole."""
    added = read_mapping(delta.path / "added_tokens.json")
    ids = [number for number in added.values() if isinstance(number, int)]
    for name, header in base.headers.items():
        if ids and name.endswith(EXTENDED) and min(ids) < header.shape[0] < delta.headers[name].shape[0]:
            token = next(token for token, number in added.items() if number == min(ids))
            yield (
                f"{name} has {header.shape[0]} rows in the base, but the delta adds tokens from id {min(ids)} "
                f"({token}): it was computed from a model with {min(ids)} rows, such as LLaMA, not from one with added "
                "tokens, such as Vicuna"
            )


def _of_settings(base: Path, delta: Path) -> Iterator[str]:
    """Faults of settings that both config.json have with different values."""
    ours, theirs = read_mapping(base / "config.json"), read_mapping(delta / "config.json")
    for key in COMPARED:
        if key in ours and key in theirs and ours[key] != theirs[key]:
            yield (
                f"config.json has {key} {ours[key]} in the base and {theirs[key]} in the delta; give the base that the "
                "delta was computed from (LLaMA and Llama-2 have equal shapes)"
            )


def _of_norms(base: LazyTensors, delta: LazyTensors) -> Iterator[str]:
    """A fault if the delta holds a whole model, or the base holds differences."""
    name = next((name for name in base.headers if name.endswith("model.norm.weight")), None)
    if name is None:
        return
    ours, change = base[name].double(), delta[name].double()
    if float((change - ours).norm()) < _LIKE * float(ours.norm()):
        yield f"{name} of the delta is that of a whole model, not a difference; is {delta.path} the result already?"
    elif float(ours.norm()) < _LIKE * float(change.norm()):
        yield f"{name} of the base holds differences, those of the delta a whole model; swap the two arguments"


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
