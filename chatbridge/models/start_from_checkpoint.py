"""Start a model from the trained tensors of another run, after checking that its frozen weights are the same.

A checkpoint holds the trainable tensors (model.safetensors) and a manifest with a fingerprint of each frozen component:
a bridge that was trained for one language model does not work with another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from chatbridge.conversation.tokenizer import TokenizerLike
from chatbridge.models.adapter_layers import restart_magnitudes
from chatbridge.models.checkpoint_manifest import UnusableCheckpoint
from chatbridge.models.checkpoint_tensors import trained_tensors
from chatbridge.models.checkpoints import find_checkpoint, read_checked, refused
from chatbridge.models.component_tensors import (
    by_component,
    carry,
    component_of,
    is_without_file,
    stored_bits,
    trainable_parameters,
    under_base_names,
    under_own_names,
    unquantized,
)
from chatbridge.models.fingerprints import fingerprint
from chatbridge.models.loading import copy_state, mismatches

_PROBE = "The quick brown fox, 12345 times: été, 音, <s> ###\n"  # its ids differ between tokenizers


@dataclass(frozen=True)
class CheckpointReport:
    """The tensors that a checkpoint gave a model; str() is for the log."""

    checkpoint: Path
    step: int
    taken: Mapping[str, tuple[int, int]]  # component -> tensors, parameters
    fresh: tuple[str, ...]  # trainable tensors that the checkpoint does not have
    notes: tuple[str, ...] = ()  # about the files of the checkpoint

    def __str__(self) -> str:
        lines = [f"trained tensors from {self.checkpoint} (step {self.step}):"]
        lines += [f"  {name}: {n} tensors, {size:,} parameters" for name, (n, size) in self.taken.items()]
        for name, tensors in _grouped(self.fresh).items():
            kept = "is not in it and keeps its" if len(tensors) == 1 else "are not in it and keep their"
            lines.append(f"  {name}: {len(tensors)} trainable tensor{'s' * (len(tensors) > 1)} {kept} initial values")
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


def start_from_checkpoint(
    model: nn.Module, path: Path | str, tokenizer: TokenizerLike | None = None
) -> CheckpointReport:
    """Copy the trained tensors of a checkpoint into `model`, matched by name; a layer that has an adapter only here
    takes its own tensors from the checkpoint, and the adapter starts as it was initialised.

    path       a checkpoint folder, or a run folder for its newest one
    tokenizer  if given, it must be the one of the checkpoint
    raises     ValueError when a file is damaged; with a table when the model lacks a tensor, a shape differs, or a
               component that was frozen in training has different weights now
    """
    checkpoint = find_checkpoint(path)
    try:
        manifest, notes = read_checked(checkpoint)
    except UnusableCheckpoint as error:
        raise refused(checkpoint, error) from None
    own = model.state_dict()
    state = under_own_names(model, trained_tensors(checkpoint))
    if problems := mismatches({name: own[name] for name in state if name in own}, state):
        raise ValueError("\n".join([f"{checkpoint} does not fit this model:", *problems, *_tokens_to_add(state, own)]))
    now = tokenizer_fingerprint(tokenizer) if tokenizer is not None else None
    if changed := changed_frozen_parts(model, manifest, state) + changed_tokenizer(now, manifest):
        raise ValueError(f"{checkpoint} was trained with different frozen weights:\n" + "\n".join(changed))
    copy_state(model, state)
    restart_magnitudes(model, state)
    trainable = trainable_parameters(model)
    carry(model, state.keys() - trainable.keys())
    taken = {name: (len(part), sum(t.numel() for t in part.values())) for name, part in by_component(state).items()}
    fresh = tuple(name for name in trainable if name not in state)
    return CheckpointReport(checkpoint, int(manifest["step"]), taken, fresh, notes)


def changed_frozen_parts(model: nn.Module, manifest: Mapping[str, Any], trained: Iterable[str]) -> list[str]:
    """Table lines of components whose frozen weights differ from those of the checkpoint.

    trained   names of the tensors in the checkpoint; everything else of a component was frozen. So a component that was
              frozen in stage 1 and is trainable in stage 2 is compared as well

    Components that only one side has are not compared. Of a language model that one side stores in 8 or 4 bits only
    the tensors that keep their values are compared: all but the linear layers.
    """
    named = model.state_dict(keep_vars=True)
    state = under_base_names(model, named)
    quantized = stored_bits(model) is not None
    every = {**state, **named}
    trained_then = {id(every[name]) for name in trained if name in every}  # tied embeddings have a second name
    still = {name: tensor for name, tensor in state.items() if id(tensor) not in trained_then}
    own = by_component(_without_new_tokens(still, manifest))
    lines = []
    for name, entry in manifest.get("components", {}).items():
        then, here = entry["frozen"].get("fingerprint"), own.get(name)
        if name == "language" and here and (quantized or "bits" in entry["frozen"]):
            then, here = entry["frozen"].get("unquantized"), unquantized(model, here)
        if then and here is not None and (now := fingerprint(here)) != then:
            lines.append(f"  {name}: fingerprint {then} then ({entry['frozen']['tensors']} tensors), {now} now")
            lines += _no_file(name) if is_without_file(model, name) else []
    return lines


def _no_file(name: str) -> list[str]:
    """Why a frozen component that no file fills differs, and the next step."""
    return [
        f"    model.{name} has no weights file here, so its values are random. If that run had one, set",
        f"    model.{name}.weights to it. Otherwise the values of that run are lost: train again with a weights",
        f"    file, or with {name}.* in model.trainable, which puts them into the checkpoints",
    ]


def _without_new_tokens(tensors: Mapping[str, Tensor], manifest: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors without those of added tokens that the checkpoint's model did not have."""
    then = manifest.get("model", {}).get("added_tokens", ())
    is_new = {name for name in tensors if component_of(name) == "added_tokens" and name.rpartition(".")[2] not in then}
    return {name: tensor for name, tensor in tensors.items() if name not in is_new}


def _tokens_to_add(state: Iterable[str], own: Mapping[str, Tensor]) -> list[str]:
    """The next step when the checkpoint has embeddings of added tokens that the model does not have."""
    lost = dict.fromkeys(
        name.rpartition(".")[2] for name in state if component_of(name) == "added_tokens" and name not in own
    )
    listed = ", ".join(map(repr, lost))
    return [f"add to model.added_tokens: {listed}; the checkpoint has trained rows of them"] if lost else []


def changed_tokenizer(now: str | None, manifest: Mapping[str, Any]) -> list[str]:
    """A table line when the tokenizer differs; `now` is the fingerprint of the current one."""
    then = manifest.get("tokenizer", {}).get("fingerprint")
    return [f"  tokenizer: fingerprint {then} then, {now} now"] if now and then and now != then else []


def tokenizer_fingerprint(tokenizer: TokenizerLike) -> str:
    """A short hash of a tokenizer: its special ids and the ids of a sample text."""
    seen = [tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, list(tokenizer.encode(_PROBE))]
    return hashlib.sha256(repr(seen).encode()).hexdigest()[:16]


def _grouped(names: Iterable[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(component_of(name), []).append(name)
    return groups
