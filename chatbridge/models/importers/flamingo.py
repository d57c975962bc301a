"""Load OpenFlamingo's released weights, and the low-rank matrices of Multimodal-GPT that belong beside them.

OpenFlamingo-9B's checkpoint.pt fills the resampler, the gated blocks of `cross_attention` and the whole embedding, with
rows of the added tokens; Multimodal-GPT's file only adapters, and what its `unfrozen` named. Set the first as
`model.weights` and the second as `run.init_from`. A file of the whole model is read too. The head's rows of added
tokens were random in every process of the reference and are in no file: they keep their initial values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from chatbridge.common.errors import some
from chatbridge.models.adapter_layers import restart_magnitudes
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.component import Component, State
from chatbridge.models.component_tensors import (
    carry,
    component_of,
    trainable_parameters,
    under_own_names,
    without_adapters,
)
from chatbridge.models.importers.flamingo_adapters import check_adapters
from chatbridge.models.importers.flamingo_names import EMBEDDING, HEAD, Parts, parts_of
from chatbridge.models.loading import check_numbers, copy_state, fitted, mismatches

TOKENS = ("<|endofchunk|>", "<image>", "<PAD>")  # in the order of their ids, after the rows of the language model
LLAMA_ROWS = 32000
BLOCKS, LM = "fusion.layers.", "language.lm."


@dataclass(frozen=True)
class Matched:
    """A released file by our names, before anything is copied.

    taken   tensors by full name in this model
    lines   for the log
    """

    taken: State
    lines: tuple[str, ...]

    @property
    def components(self) -> frozenset[str]:
        """The components that the file has tensors of, without adapters."""
        return frozenset(component_of(name) for name in self.taken if ".lora_" not in name)


def fill_flamingo(model: ChatModel, state: State, path: Path, is_base: bool = False) -> list[str]:
    """Load every tensor of a file.

    is_base   whether it is `model.weights`, which is read each time; otherwise frozen tensors go into the checkpoints
    returns   lines for the log
    raises    ValueError as `matched` does
    """
    found = matched(model, state, path, is_base)
    check_numbers(found.taken, path)
    copy_state(model, found.taken)
    restart_magnitudes(model, found.taken)
    if is_base:
        model.filled = found.components
        return list(found.lines)
    frozen = found.taken.keys() - trainable_parameters(model).keys()
    carry(model, frozen)
    notes = [f"note: {len(frozen)} frozen tensors of it go into every checkpoint; model.weights={path} reads them each "
             "time instead"] if frozen and len(frozen) == len(found.taken) else []  # fmt: skip
    return [*found.lines, *notes]


def matched(model: ChatModel, state: Mapping[str, Tensor], path: Path, is_base: bool = False) -> Matched:
    """The tensors of a file by our names; of meta tensors and placeholders only the names and shapes are compared.

    state    released name -> tensor [...]
    raises   ValueError when a name is not known, a tensor does not fit, a part is filled incompletely, two names of one
             tensor have different values, or adapters come without the weights they belong to
    """
    try:
        parts = parts_of(state)
        _check_place(model, parts, is_base)
        check_adapters(model, parts, path)
        wanted = without_adapters(model)
        taken = {f"{BLOCKS}{name}": value for name, value in parts.blocks.items()}
        taken |= _bridge(model, parts)
        taken |= _language(model, parts)
        vision, notes = _vision(model, parts)
        taken |= vision
        problems = _problems(wanted, taken, is_partial=bool(parts.adapters))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if problems:
        raise ValueError("\n".join([f"{path} does not fit this model:", *problems, *_other_blocks(model, parts)]))
    return Matched(under_own_names(model, taken) | parts.adapters, tuple(_lines(taken, parts, path)) + notes)


def _check_place(model: ChatModel, parts: Parts, is_base: bool) -> None:
    """raises ValueError when the model has no blocks for those of the file, or the file belongs in another setting"""
    has_blocks = any(name.startswith(BLOCKS) for name in model.state_dict())
    if parts.block_layers and not has_blocks:
        raise ValueError(
            f"holds gated cross-attention blocks before decoder layers {some(parts.block_layers)}; this model has "
            f"none: set model.fusion to {{name: cross_attention, every: {parts.block_layers[0] + 1}}} (it is "
            f"{type(model.fusion).__name__.lower()}), as in configs/models/mmgpt_llama7b.yaml"
        )
    if parts.adapters and not parts.blocks and has_blocks and (is_base or model.config.weights is None):
        here = "model.weights names it, which is the place of" if is_base else "model.weights is not set to"
        raise ValueError(
            f"holds {len(parts.adapters)} tensors of adapters without the cross-attention they belong to, and {here} "
            "OpenFlamingo's checkpoint.pt: set model.weights to that, and run.init_from to this file"
        )


def _bridge(model: ChatModel, parts: Parts) -> State:
    """The resampler's tensors [...] by full name. raises ValueError when the image route has another bridge"""
    if not parts.bridge:
        return {}
    name = model.config.image_route.bridge
    if "latents" not in model.bridges[name].state_dict():
        kind = type(model.bridges[name]).__name__
        raise ValueError(f"holds a resampler (perceiver.*), but bridges.{name} is {kind}; set its name to resampler")
    return {f"bridges.{name}.{key}": value for key, value in parts.bridge.items()}


def _language(model: ChatModel, parts: Parts) -> State:
    """Tensors of language and added_tokens [...] by full name. raises ValueError for another number of rows"""
    own = {f"{LM}{name}": value for name, value in parts.language.items() if name not in (EMBEDDING, HEAD)}
    for part, name in (("embedding", EMBEDDING), ("head", HEAD)):
        if name in parts.language:
            own |= _rows(model, parts.language[name], part)
    return own


def _rows(model: ChatModel, value: Tensor, part: str) -> State:
    """A vocabulary float[R, D] as that of the language model, and a row per added token. raises ValueError"""
    modules: Any = model.language.vocabulary_modules
    module = modules[0 if part == "embedding" else 1]
    rows, num_added = len(module.weight), len(value) - len(module.weight)
    is_llama = len(value) in (LLAMA_ROWS + 2, LLAMA_ROWS + 3)
    if value.ndim != 2 or not 2 <= num_added <= len(TOKENS) or (is_llama and rows != LLAMA_ROWS):
        expected = LLAMA_ROWS if is_llama else f"{len(value) - 3} or {len(value) - 2}"
        raise ValueError(
            f"its {part} has {len(value)} rows, those of a language model with {expected} and of {', '.join(TOKENS)}; "
            f"this language model has {rows}; set model.language.weights to the one it was trained for (LLaMA-7B)"
        )
    name = next(key for key, one in model.language.named_modules() if one is module)
    found = {f"language.{name}.weight": value[:rows]}
    for token, row in zip(TOKENS, range(rows, len(value)), strict=False):
        if token in model.config.added_tokens:
            found[f"added_tokens.{part}.{token}"] = value[row]
    return found


def _vision(model: ChatModel, parts: Parts) -> tuple[State, tuple[str, ...]]:
    """The encoder's tensors [...] by full name, and a line on those that are not used. raises ValueError"""
    if not parts.vision:
        return {}, ()
    name = model.config.image_route.encoder
    state, notes = fitted(cast("Component", model.encoders[name]), parts.vision)
    counts = Counter(notes.dropped.values())
    lines = tuple(f"dropped: {count} tensors of CLIP ({reason})" for reason, count in counts.items())
    return {f"encoders.{name}.{key}": value for key, value in state.items()}, lines


def _problems(wanted: State, taken: State, is_partial: bool) -> list[str]:
    """Table lines for tensors that do not fit; a part of which the file has any tensor must be whole, except beside
    adapters, where only what was trained is in a file."""
    present = {_group(name) for name in taken}
    if "language" in present and not any(name.startswith(f"{LM}model.layers.") for name in taken):
        present -= {"language"}  # the embedding alone
    needed = {} if is_partial else {key: value for key, value in wanted.items() if _group(key) in present}
    both = {key: wanted[key] for key in taken if key in wanted}
    optional = [key for key in wanted if key.startswith("added_tokens.") or key == f"{LM}{HEAD}"]
    problems = mismatches(needed | both, taken, optional)
    if not is_partial and BLOCKS.rstrip(".") in present and not any(EMBEDDING in key for key in taken):
        problems.append(f"  missing: lang_encoder.{EMBEDDING}, which holds the rows of {', '.join(TOKENS)}")
    return problems


def _group(name: str) -> str:
    return BLOCKS.rstrip(".") if name.startswith(BLOCKS) else component_of(name)


def _other_blocks(model: ChatModel, parts: Parts) -> list[str]:
    """The next step when the blocks of the file are before other layers than those of the model."""
    own = {name.split(".")[2] for name in model.state_dict() if name.startswith(BLOCKS)}
    ours, theirs = sorted(map(int, own)), parts.block_layers
    if not theirs or ours == theirs:
        return []
    return [
        f"its blocks are before decoder layers {some(theirs, 8)}, those of this model before {some(ours, 8)}: set "
        f"model.fusion.every to {theirs[0] + 1}, and take a language model of as many layers"
    ]


def _lines(taken: State, parts: Parts, path: Path) -> list[str]:
    """Lines for the log: tensors by component."""
    groups = Counter(map(component_of, taken))
    lines = [f"{name}: {count} tensors from {path}" for name, count in groups.items()]
    if parts.adapters:
        lines.append(f"adapters: {len(parts.adapters)} tensors from {path}")
    if parts.dropped:
        what = "tensors of the language model (buffers that follow from the sizes)"
        lines.append(f"dropped: {len(parts.dropped)} {what}")
    return lines
