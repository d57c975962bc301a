"""The tensors of a checkpoint that an export writes: trained ones, and those of its weights files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from chatbridge.common.errors import reported_at
from chatbridge.experiment.open import chat_from, plugins_of
from chatbridge.models.adapters import AdapterConfig
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.checkpoint_manifest import UnusableCheckpoint
from chatbridge.models.checkpoint_tensors import trained_tensors
from chatbridge.models.checkpoints import find_checkpoint, read_checked, refused
from chatbridge.models.component import Component
from chatbridge.models.component_tensors import unquantized
from chatbridge.models.fingerprints import fingerprint
from chatbridge.models.importers.flamingo import matched as matched_flamingo
from chatbridge.models.importers.released import base_tensors
from chatbridge.models.language._causal_lm_folder import read_causal_lm
from chatbridge.models.language.causal_lm import CausalLM
from chatbridge.models.loading import load_component
from chatbridge.models.merging import Update, merged, updates
from chatbridge.models.tensor_headers import read_tensors
from chatbridge.serve.moved_files import hint_moved_files

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Source:
    """What the parts of one checkpoint are made of: tensors by full name, of the checkpoint and of weights files."""

    model: ChatModel
    trained: Mapping[str, Tensor]
    adapted: Mapping[str, Update]
    manifest: Mapping[str, Any]
    dtype: torch.dtype | None

    def cast(self, value: Tensor) -> Tensor:
        """The tensor [...] in the dtype of the export."""
        return value.to(self.dtype) if self.dtype is not None and value.is_floating_point() else value


def open_source(path: Path, dtype: str = "keep", options: Sequence[str] = ()) -> Source:
    """The tensors of a run or checkpoint; arguments and errors as of `exported_parts`."""
    checkpoint = find_checkpoint(path)
    try:
        manifest, _ = read_checked(checkpoint)
    except UnusableCheckpoint as error:
        raise refused(checkpoint, error) from None
    mapping = {"model": manifest["model"], "evaluation": {"template": manifest["template"].get("name")}}
    with hint_moved_files(f"chatbridge export {path} ... --options {{}}"):
        config = chat_from(mapping, plugins_of(checkpoint), options).model
    with reported_at("model"):
        model = ChatModel(config)
    trained = trained_tensors(checkpoint)
    adapters: tuple[AdapterConfig, ...] = config.adapters
    return Source(model, trained, updates(model, adapters, trained), manifest, _DTYPES.get(dtype))


def language_tensors(source: Source) -> tuple[dict[str, Tensor], Callable[[str], Tensor]]:
    """The tensors [...] of the language model by full name before the training, and what returns one after it, with
    adapters merged. Its files stay memory-mapped.

    raises   ValueError when its weights cannot be read, or are not those of the training
    """
    language = source.model.language
    assert isinstance(language, CausalLM)
    if language.config.weights is not None:
        language.lm = read_causal_lm(language.config.weights, "auto", {})[0]
    _fill_from_model_weights(source, "language")
    state = _without_aliases(language, "language")
    _check_base(source, "language")

    def tensor(name: str) -> Tensor:
        base = state[name]
        value = source.trained.get(name, base).to(source.dtype or base.dtype)  # fp32 keeps what the training has
        return source.cast(merged(name, value, source.adapted)).contiguous()

    return state, tensor


def whole_tensors(source: Source, name: str) -> dict[str, Tensor]:
    """The tensors [...] of a component by our names within it: the trained ones, and those of its weights files.

    raises   ValueError when these files cannot be read, or are not those of the training
    """
    own = {key: value for key, value in source.trained.items() if key.startswith(f"{name}.")}
    module = source.model.get_submodule(name)
    if isinstance(module, Component) and len(own) < len(module.state_dict()):
        for path, only in module.files():
            load_component(module, path, only)
        module.load_folder()
    _fill_from_model_weights(source, name)
    state = {f"{name}.{key}": value for key, value in module.state_dict().items()}
    _check_base(source, name)
    state |= {key: value for key, value in own.items() if key in state}
    whole = {key: merged(key, value, source.adapted) for key, value in state.items()}
    return {key.removeprefix(f"{name}."): source.cast(value).clone() for key, value in whole.items()}


def _fill_from_model_weights(source: Source, name: str) -> None:
    """Put the tensors that model.weights has of a component into it, memory-mapped. raises ValueError"""
    path = source.model.config.weights
    if path is None:
        return
    found = matched_flamingo(source.model, base_tensors(path, read_tensors), path, is_base=True)
    for key, value in found.taken.items():
        if key.startswith(f"{name}."):
            owner = source.model.get_submodule(key.rpartition(".")[0])
            setattr(owner, key.rpartition(".")[2], nn.Parameter(value, requires_grad=False))


def _check_base(source: Source, name: str) -> None:
    """raises ValueError when the tensors that were frozen in training have other values now"""
    module = source.model.get_submodule(name)
    entry = source.manifest.get("components", {}).get(name, {}).get("frozen", {})
    named = {f"{name}.{key}": value for key, value in module.state_dict(keep_vars=True).items()}
    trained = {id(value) for key, value in named.items() if key in source.trained}  # tied tensors have two names
    frozen = {key: value.detach() for key, value in named.items() if id(value) not in trained}
    then = entry.get("fingerprint")
    if entry.get("bits"):  # the training had rounded values of the linear layers
        then, frozen = entry.get("unquantized"), unquantized(source.model, frozen)
    if then and (now := fingerprint(frozen)) != then:
        raise ValueError(
            f"{name}: its weights are not those of the training (fingerprint {then} then, {now} now); give the same "
            f"ones with --options model.{name}.weights=PATH. A part without a weights file, of which only some tensors "
            "were trained, had random values and cannot be exported"
        )


def _without_aliases(module: nn.Module, name: str) -> dict[str, Tensor]:
    """The state dict by full name, a tensor with two names (tied embeddings) by its first."""
    seen: set[int] = set()
    state = {}
    for key, value in module.state_dict(keep_vars=True).items():
        if id(value) not in seen:
            state[f"{name}.{key}"] = value.detach()
        seen.add(id(value))
    return state
