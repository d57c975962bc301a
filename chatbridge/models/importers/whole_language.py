"""A whole LLaMA with rows of added tokens, in a released file of several parts: its tensors by our names.

layers.*, norm.weight    of LLaMA         -> language.lm.model
embed_tokens.weight      float[R, D]      -> language.lm and added_tokens.embedding
lm_head.weight           float[R, D]      -> language.lm and added_tokens.head
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatbridge.models.chat_model import ChatModel
from chatbridge.models.component import State
from chatbridge.models.component_tensors import stored_bits, trainable_parameters, under_base_names, under_own_names
from chatbridge.models.fingerprints import ADAPTERS
from chatbridge.models.importers.chatbind_names import HEAD, LANGUAGE, embedding_of
from chatbridge.models.importers.chatbind_rows import language_rows
from chatbridge.models.loading import mismatches
from chatbridge.models.tensor_headers import weights_in_folder

ROUNDING = 2**-7  # relative, of bf16 and a little more
_CHUNK = 4096  # rows per step of a comparison


def whole_language(model: ChatModel, named: State, rows: Mapping[str, int], path: Path) -> tuple[State, list[str]]:
    """Tensors of the language model and of added tokens by our names, and lines for the log.

    named    the tensors [...] by name without `model.`; embedding and head must be there
    rows     added token -> its row in embedding and head
    path     of the file or folder, for messages
    raises   ValueError when the tensors do not fit the language model, or it is stored in 8 or 4 bits and another one
    """
    embedding = embedding_of(named)
    assert embedding is not None
    taken, lines = dict(_added(model, embedding, named[HEAD], rows)), []
    if taken:
        used = [token for token in rows if f"added_tokens.embedding.{token}" in taken]
        lines.append(f"added_tokens: rows of {', '.join(used)} from {path}")
    if is_same_folder(model, path):
        return taken, [f"language: was read from the same folder, {path}", *lines]
    if (bits := _bits(model)) is not None:
        check_stored(model, embedding, rows, path)
        place = model.language.config.weights
        return taken, [f"language: in {bits} bits, read from {place}; its embedding is that of {path}", *lines]
    language = {f"language.lm.model.{name}": value for name, value in named.items() if name.startswith(LANGUAGE)}
    embed, head = (f"language.{name}" for name in _vocabulary_names(model))
    for name, value in ((embed, embedding), (head, named[HEAD])):
        language[name], note = language_rows(model, value, name, rows)
        lines += [note] if note and note not in lines else []
    language = under_own_names(model, language)
    if problems := mismatches(_language_tensors(model), language):
        raise ValueError("\n".join([f"{path} does not fit the language model:", *problems]))
    lines.insert(0, f"language: {len(language)} tensors from {path}")
    if path.is_dir() and not language.keys() & trainable_parameters(model).keys():
        lines.append(f"note: model.language.weights={path} reads them once, and keeps them out of every checkpoint")
    return taken | language, lines


def _bits(model: ChatModel) -> int | None:
    """Bits of a stored weight of the language model, 8 or 4; None for those of its dtype. Before it is read, those of
    its settings."""
    own: Any = model.language.vocabulary_modules[0].weight
    return getattr(model.language.config, "bits", None) if own.is_meta else stored_bits(model)


def check_stored(model: ChatModel, embedding: Tensor, rows: Mapping[str, int], path: Path) -> None:
    """Check that a language model in 8 or 4 bits, which a file cannot replace, was read from weights equal to it: bits
    are for linear layers, so its embedding is whole.

    embedding  float[R, D] of the file; rows of added tokens are not compared
    raises     ValueError for another embedding
    """
    own: Any = model.language.vocabulary_modules[0].weight
    own = own.full_tensor() if hasattr(own, "full_tensor") else own
    num_rows = min([len(own), *rows.values()])
    for start in range(0, 0 if own.is_meta else num_rows, _CHUNK):
        end = min(start + _CHUNK, num_rows)
        ours, theirs = own[start:end].detach().float().cpu(), embedding[start:end].float()
        if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=ROUNDING, atol=1e-6):
            raise ValueError(
                f"{path} contains a language model, which cannot replace one in 8 or 4 bits, and that of "
                f"{model.language.config.weights} is another one; {_next_step(path)}"
            )


def _next_step(path: Path) -> str:
    """What to do for a language model that is stored in 8 or 4 bits."""
    if path.is_dir():
        return f"set model.language.weights to {path}, which is read in that form"
    return (
        "leave quantization out, or set model.language.weights to a folder with it (of TextBind's file: "
        f"weights convert {path} FOLDER --part causal_lm --base LLAMA)"
    )


def _added(model: ChatModel, embedding: Tensor, head: Tensor, rows: Mapping[str, int]) -> Iterator[tuple[str, Tensor]]:
    """Name and float[D] of the added tokens that the file has a row of."""
    own = {} if model.added_tokens is None else model.added_tokens.state_dict()
    for token, row in rows.items():
        for part, values in (("embedding", embedding), ("head", head)):
            if f"{part}.{token}" in own:
                yield f"added_tokens.{part}.{token}", values[row]


def _vocabulary_names(model: ChatModel) -> list[str]:
    """The names of embedding and head within the language model."""
    modules: Any = model.language.vocabulary_modules
    found = {id(module): name for name, module in model.language.named_modules()}
    return [f"{found[id(module)]}.weight" for module in modules]


def _language_tensors(model: ChatModel) -> State:
    """The tensors of the language model without those of adapters."""
    named = {name: value for name, value in model.state_dict().items() if name.startswith("language.")}
    bases = dict(zip(named, under_base_names(model, named), strict=True))
    return {name: value for name, value in named.items() if not bases[name].startswith(f"{ADAPTERS}.")}


def is_same_folder(model: ChatModel, path: Path) -> bool:
    """Whether the language model was read from the folder of a released model, which `path` or its index names."""
    weights = model.language.config.weights
    if weights is None or not weights.is_dir():
        return False
    folder, other = weights.resolve(), path.resolve()
    return other == folder or (other.parent == folder and other == weights_in_folder(folder))
