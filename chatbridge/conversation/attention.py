"""Which positions of a sequence may see each other, as the mask or arguments that a device runs fastest.

Position i sees position j when j does not come after i, both are of the same conversation, and j is of the base and
before the anchor of i's branch, or of i's own branch (common.types.Segments). Packed conversations and side texts are
two users of this one rule. Cumulative side texts also see the side texts before them.

Its form depends on the attention implementation of the model (`attn_implementation` of transformers):

    any, no segments         nothing: plain causal attention
    flash_attention_*        variable-length attention over the conversations; cannot express side texts
    varlen                   the same by torch's own kernel (varlen_attention.py)
    flex_attention           a FlexAttention block mask
    sdpa, eager              a dense mask
    registered by a plugin   the mask of its function in transformers' AttentionMaskInterface
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from chatbridge.common.types import Segments
from chatbridge.conversation import varlen_attention

# (batch, head, query, key) -> bool, indices: transformers and FlexAttention make masks of it
Rule = Callable[[Tensor, Tensor | None, Tensor, Tensor], Tensor]

KEY_VALUE_LAYERS = (
    "full_attention",
    "sliding_attention",
    "chunked_attention",
)  # kinds of layers in which a mask separates conversations
DENSE = "set model.language.attention to sdpa, eager or flex_attention"
UNPACKED = "give every conversation its own sequence, without side texts, or choose another language model"


def visible(segments: Segments) -> Tensor:
    """bool[B, L, L], True where the position of the second axis sees the one of the third. Padding sees padding alone,
    so no softmax is empty."""
    batch, positions = (torch.arange(size, device=segments.branch.device) for size in segments.branch.shape)
    return rule(segments)(batch[:, None, None], None, positions[None, :, None], positions[None, None, :])


def rule(segments: Segments) -> Rule:
    """The function (batch, head, query, key) -> bool[...] whether a query sees a key."""
    conversation, branch, anchor = segments.conversation, segments.branch, segments.anchor

    def sees(batch: Tensor, head: Tensor | None, query: Tensor, key: Tensor) -> Tensor:
        is_same = conversation[batch, query] == conversation[batch, key]
        is_base = (branch[batch, key] == 0) & (key < anchor[batch, query])
        return (key <= query) & is_same & (is_base | (branch[batch, query] == branch[batch, key]))

    def sees_earlier_branches(batch: Tensor, head: Tensor | None, query: Tensor, key: Tensor) -> Tensor:
        is_of_branches = (branch[batch, query] > 0) & (branch[batch, key] > 0)
        is_same = conversation[batch, query] == conversation[batch, key]
        return sees(batch, head, query, key) | ((key <= query) & is_same & is_of_branches)

    return sees_earlier_branches if segments.cumulative else sees


def attention_arguments(
    decoder: Any, embeds: Tensor, positions: Tensor | None, segments: Segments | None
) -> dict[str, Any]:
    """Keyword arguments with which a decoder of transformers keeps segments apart, in a forward pass without a cache.

    decoder    the model without its head; its config names the attention implementation and the kinds of its layers
    embeds     float[B, L, D]
    positions  int64[B, L]; windows of attention are counted in them, as columns include other texts
    returns    {} without segments
    raises     ValueError when the decoder cannot keep them apart
    """
    if segments is None:
        return {}
    is_partial = _is_flash(decoder.config) or _has_local_windows(decoder.config)  # else no need to ask the device
    reason = obstacle(decoder, side_texts=is_partial and bool((segments.branch > 0).any()))
    if reason is not None:
        raise ValueError(reason)
    if positions is None:
        raise ValueError("segments need positions: a packed conversation counts from 0, a side text from its anchor")
    if decoder.config._attn_implementation == varlen_attention.NAME:  # any mask of four axes: transformers makes none
        return {**_variable_length(segments), "attention_mask": embeds.new_zeros(1, 1, 1, 1)}
    if _is_flash(decoder.config):
        return _variable_length(segments)
    kinds = _layer_kinds(decoder.config)
    masks = {kind: _mask(decoder.config, embeds, positions, segments, kind) for kind in kinds}
    return {"attention_mask": masks if len(masks) > 1 else masks[kinds[0]]}


def obstacle(decoder: Any, side_texts: bool = False) -> str | None:
    """Why this decoder cannot keep segments apart, and what to do; None when it can. Reads no tensor.

    side_texts  whether sequences have side texts, which some attention cannot express though it can express packing
    """
    config, name = decoder.config, decoder.config.model_type
    implementation = config._attn_implementation
    others = [kind for kind in _layer_kinds(config) if kind not in KEY_VALUE_LAYERS]
    if getattr(decoder, "_is_stateful", False) or others:
        state = f"layers of kind {', '.join(others)}" if others else "layers"
        return f"language model {name}: its {state} carry a state from token to token past any mask; {UNPACKED}"
    if _has_alibi(decoder):
        return f"language model {name} measures distances in columns (ALiBi), not in positions; {UNPACKED}"
    if not any(hasattr(sys.modules[kind.__module__], "create_causal_mask") for kind in type(decoder).__mro__[:-1]):
        return f"language model {name} does not take its attention masks from transformers; {UNPACKED}"
    if not getattr(config, "is_causal", True) or getattr(config, "use_bidirectional_attention", False):
        return f"language model {name} is set up for attention in both directions; {UNPACKED}"
    if side_texts and _has_local_windows(config):
        return f"language model {name} counts its local windows in columns, side texts included; {UNPACKED}"
    if _is_flash(config):
        if side_texts:
            return f"{implementation} cannot express side texts (captions of drawings); {DENSE}"
        if implementation == varlen_attention.NAME and (reason := _varlen_obstacle(config)) is not None:
            return f"{reason}; {DENSE}"
        if not getattr(decoder, "_supports_attention_backend", False):
            return f"language model {name} does not pass the borders of conversations to {implementation}; {DENSE}"
    elif implementation not in _mask_functions():
        known = ", ".join(sorted(_mask_functions()))
        return (
            f"attention implementation {implementation!r} has no mask function, so packed conversations would see "
            f"each other; known: {known}; {DENSE}, or register one with transformers' AttentionMaskInterface"
        )
    return None


def takes_step_masks(decoder: Any) -> bool:
    """Whether a decoder takes the masks of `step_mask`; it takes those of segments, which have the same form."""
    return obstacle(decoder) is None and "chunked_attention" not in _layer_kinds(decoder.config)


def step_mask(config: Any, columns: Tensor | None) -> Any:
    """The mask of a step that reads one column after others, in the form that costs nothing to check.

    From two axes transformers makes one of four, and asks the device whether there is padding at all, in every step.
    config   of a decoder that `takes_step_masks`
    columns  bool[B, L], False = padding; None without any
    returns  bool[B, 1, 1, L], or one for each kind of layers if there are several; with other attention than sdpa
             `columns`, and None without padding
    """
    if columns is None or config._attn_implementation != "sdpa":
        return columns
    kinds = _layer_kinds(config)
    masks = {kind: _step_mask(config, columns, kind) for kind in kinds}
    return masks if len(masks) > 1 else masks[kinds[0]]


def _step_mask(config: Any, columns: Tensor, kind: str) -> Tensor:
    length = columns.shape[1]
    if kind == "sliding_attention" and length > config.sliding_window:
        columns = columns.clone()
        columns[:, : length - config.sliding_window] = False
    return columns[:, None, None]


def _layer_kinds(config: Any) -> list[str]:
    """The kinds of layers, as transformers names them. A model with several takes one mask for each."""
    named = getattr(config, "layer_types", None)
    if named:
        return sorted(set(named))
    if getattr(config, "sliding_window", None) is not None:
        return ["sliding_attention"]
    return ["chunked_attention" if getattr(config, "attention_chunk_size", None) else "full_attention"]


def _mask(config: Any, embeds: Tensor, positions: Tensor, segments: Segments, kind: str) -> Any:
    """The mask of the implementation's mask function for the rule. Never the model's own window: it counts columns.

    The names of the arguments differ between transformers 5.0 and 5.23, so only accepted ones are passed.
    """
    from transformers.masking_utils import and_masks, create_causal_mask

    sees = rule(segments)
    near = _near(config, positions, kind)
    given = {
        "attention_mask": None,
        "past_key_values": None,
        "inputs_embeds": embeds,
        "input_embeds": embeds,
        "cache_position": torch.arange(embeds.shape[1], device=embeds.device),
        "and_mask_function": sees if near is None else and_masks(sees, near),
    }
    accepted = signature(create_causal_mask).parameters
    return create_causal_mask(config, **{name: value for name, value in given.items() if name in accepted})


def _near(config: Any, positions: Tensor, kind: str) -> Rule | None:
    """Whether a key is inside the window of a query, counted in positions of the conversation; None = no window."""
    if kind == "sliding_attention":
        window = config.sliding_window
        return lambda batch, head, query, key: positions[batch, query] - positions[batch, key] < window
    if kind == "chunked_attention":
        chunk = config.attention_chunk_size
        return lambda batch, head, query, key: positions[batch, query] // chunk == positions[batch, key] // chunk
    return None


def _variable_length(segments: Segments) -> dict[str, Any]:
    """The borders of conversations in the flattened batch; the padding of a sequence is one more conversation."""
    conversation = segments.conversation
    is_first = torch.ones_like(conversation, dtype=torch.bool)
    is_first[:, 1:] = conversation[:, 1:] != conversation[:, :-1]
    borders = torch.cat([is_first.flatten().nonzero().flatten(), conversation.new_tensor([conversation.numel()])])
    longest, borders = int(borders.diff().max()), borders.to(torch.int32)
    return {
        "attention_mask": None,
        "cu_seq_lens_q": borders,
        "cu_seq_lens_k": borders,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def _is_flash(config: Any) -> bool:
    """Whether the implementation takes the borders of conversations in place of a mask."""
    return "flash" in (config._attn_implementation or "") or config._attn_implementation == varlen_attention.NAME


def _varlen_obstacle(config: Any) -> str | None:
    if not varlen_attention.has_kernel():
        return f"{varlen_attention.NAME} needs torch 2.10 or later, this is torch {torch.__version__}"
    if getattr(config, "attn_logit_softcapping", None) is not None:
        return f"{varlen_attention.NAME} has no capped scores, as {config.model_type} needs"
    if getattr(config, "attention_dropout", 0.0):
        return f"{varlen_attention.NAME} has no dropout, and attention_dropout is {config.attention_dropout}"
    if "chunked_attention" in _layer_kinds(config):
        return f"{varlen_attention.NAME} has no chunked layers, as {config.model_type} has"
    return None


def _has_local_windows(config: Any) -> bool:
    """Whether the layers limit attention themselves, as in GPT-Neo."""
    return "local" in getattr(config, "attention_layers", ())


def _mask_functions() -> Mapping[str, Any]:
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    return ALL_MASK_ATTENTION_FUNCTIONS


def _has_alibi(decoder: Any) -> bool:
    """Bloom and MPT always have it, Falcon where its config says so."""
    names = {name for kind in type(decoder).__mro__ for name in vars(kind) if "alibi" in name}
    return bool(names) or bool(getattr(decoder.config, "alibi", False))
