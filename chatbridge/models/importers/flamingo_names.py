"""The names of OpenFlamingo's and Multimodal-GPT's files by part and by our names.

    perceiver.*                                          -> the bridge of the image route
    lang_encoder.model.layers.N.gated_cross_attn_layer.* -> fusion.layers.N, N is the decoder layer that follows
    lang_encoder.gated_cross_attn_layers.N.*                the same tensors: OpenFlamingo-9B's file holds both
    lang_encoder.model.layers.N.decoder_layer.*          -> language.lm.model.layers.N
    lang_encoder.model.{embed_tokens,norm}, lm_head      -> language and added_tokens
    vision_encoder.visual.*, vision_encoder.*            -> the encoder of the image route

Low-rank matrices end in `.lora_A.default.weight`, before peft 0.3 in `.lora_A.weight`; peft puts `base_model.model.`
after `lang_encoder.`, and DDP `module.` before every name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from chatbridge.models.adapters import ADAPTER
from chatbridge.models.component import State
from chatbridge.models.flamingo_names import block_name, resampler_name
from chatbridge.models.language._causal_lm_folder import is_buffer

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"  # below `language.lm.`
EXAMPLES = (
    "perceiver.latents",
    "lang_encoder.gated_cross_attn_layers.3.attn.to_q.weight",
    "lang_encoder.model.layers.3.gated_cross_attn_layer.attn.to_q.weight",
    "lang_encoder.base_model.model.model.layers.0.decoder_layer.self_attn.q_proj.lora_A.default.weight",
)
_WRAPPER = re.compile(r"^((module|_orig_mod)\.)+")
_ROOTS = ("lang_encoder.", "perceiver.")
_BLOCK = re.compile(r"(?:gated_cross_attn_layers\.(\d+)|model\.layers\.(\d+)\.gated_cross_attn_layer)\.(.+)")
_DECODER = re.compile(r"(?:old_decoder_blocks\.|model\.layers\.)(\d+)\.(?:decoder_layer\.)?(.+)")
_LORA = re.compile(r"(.+)\.(lora_[AB])\.(?:[^.]+\.)?weight$")


@dataclass
class Parts:
    """The tensors of a file by part.

    bridge    by the names of our resampler
    language  below `language.lm.`, with the embedding of all tokens
    blocks    below `fusion.layers.`
    adapters  A and B by full name of the layer and of the matrix
    vision    by the names of the file, without `vision_encoder.`
    dropped   names of buffers and of the tower of texts
    """

    bridge: State = field(default_factory=dict)
    language: State = field(default_factory=dict)
    blocks: State = field(default_factory=dict)
    adapters: State = field(default_factory=dict)
    vision: State = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)

    @property
    def block_layers(self) -> list[int]:
        """The decoder layers with a gated block before them, of weights and adapters."""
        adapted = (name.removeprefix("fusion.layers.") for name in self.adapters if name.startswith("fusion."))
        return sorted({int(name.partition(".")[0]) for name in (*self.blocks, *adapted)})


def is_flamingo(names: Iterable[str]) -> bool:
    """Whether the names of a file are those of OpenFlamingo or Multimodal-GPT, whatever wrapper they are in."""
    return any(_WRAPPER.sub("", name).startswith(_ROOTS) for name in names)


def parts_of(state: Mapping[str, Tensor]) -> Parts:
    """The tensors of a file, those with two names once.

    state    name -> tensor [...], of which only the shapes count on the meta device
    raises   ValueError for names that are not known, or two names of one tensor with different values
    """
    parts, sources, unknown = Parts(), dict[tuple[int, str], str](), []
    for name, value in state.items():
        found = _placed(parts, _WRAPPER.sub("", name))
        if found is None:
            unknown.append(name)
            continue
        group, ours = found
        if group is None:
            parts.dropped.append(name)
            continue
        if ours in group and not _is_equal(group[ours], value):
            both = f"{sources[id(group), ours]} and {name}"
            raise ValueError(f"{both} are two names of one tensor, and have different values; the file is damaged")
        group.setdefault(ours, value)
        sources.setdefault((id(group), ours), name)
    if unknown:
        raise ValueError(
            f"has {len(unknown)} unknown names: {', '.join(unknown[:5])}; known are names as {', '.join(EXAMPLES)}"
        )
    return parts


def resampler_of(name: str) -> str | None:
    """The name of our resampler's tensor for one of a file; None for a tensor of another part."""
    inner = _WRAPPER.sub("", name)
    return resampler_name(inner.removeprefix("perceiver.")) if inner.startswith("perceiver.") else None


def unmatched(names: Iterable[str]) -> str:
    """What to say about a file of which no name is known."""
    names = list(names)
    return (
        f"none of its {len(names)} names is one of OpenFlamingo or Multimodal-GPT; it has {', '.join(names[:3])}, "
        f"expected are names as {', '.join(EXAMPLES)}, all of them also with 'module.' before"
    )


def _placed(parts: Parts, name: str) -> tuple[State | None, str] | None:
    """The part that a tensor belongs to (None: it is dropped) and its name there; None for an unknown name."""
    root, _, inner = name.partition(".")
    if root == "perceiver":
        return parts.bridge, resampler_name(inner)
    if root == "vision_encoder":
        return parts.vision, inner
    if root != "lang_encoder":
        return None
    inner = inner.removeprefix("base_model.model.").replace(".base_layer.", ".")
    if is_buffer(inner):
        return None, inner
    if lora := _LORA.fullmatch(inner):
        layer = (_layer(f"{lora[1]}.weight") or "").removesuffix(".weight")
        return (parts.adapters, f"{layer}.{lora[2]}.{ADAPTER}.weight") if layer else None
    ours = _layer(inner)
    for prefix, group in (("fusion.layers.", parts.blocks), ("language.lm.", parts.language)):
        if ours is not None and ours.startswith(prefix):
            return group, ours.removeprefix(prefix)
    return None


def _layer(inner: str) -> str | None:
    """Our full name of a tensor of the language model or of a block, by its name after `lang_encoder.`."""
    if block := _BLOCK.fullmatch(inner):
        return f"fusion.layers.{block[1] or block[2]}.{block_name(block[3])}"
    if decoder := _DECODER.fullmatch(inner):
        return f"language.lm.model.layers.{decoder[1]}.{decoder[2]}"
    return f"language.lm.{inner}" if inner in (EMBEDDING, HEAD, "model.norm.weight") else None


def _is_equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors [...] have one shape, and one content where they have values; placeholders have none. Two
    values that are not numbers are equal: that they are none is reported for each tensor."""
    is_empty = any(tensor.is_meta or not any(tensor.stride()) for tensor in (one, other))
    return one.shape == other.shape and (is_empty or torch.allclose(one, other, 0.0, 0.0, equal_nan=True))
