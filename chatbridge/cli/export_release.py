"""The tensors of a released layout, each computed when it is written; LLaMA with rows of added tokens among them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from chatbridge.cli.export_added_rows import token_rows
from chatbridge.cli.export_parts import LM
from chatbridge.cli.export_source import Source, language_tensors

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True)
class Release:
    """The tensors of a released layout by name, each computed when it is written.

    shapes   name -> shape and dtype, on the meta device [...], in the order of the file
    tensor   returns one
    tokens   of the vocabulary after the language model's own
    """

    shapes: dict[str, Tensor]
    tensor: Callable[[str], Tensor]
    tokens: tuple[str, ...]

    @property
    def num_bytes(self) -> int:
        """The size of all tensors."""
        return sum(self.size(name) for name in self.shapes)

    def size(self, name: str) -> int:
        """Bytes of one tensor."""
        return self.shapes[name].numel() * self.shapes[name].element_size()


def language_release(source: Source, tokens: tuple[str, ...], layout: str, copies_head: bool = False) -> Release:
    """The language model with rows of added tokens: embedding first, head last.

    layout       its name, for messages
    copies_head  the head of a model that has none beside the embedding (tied) is written as a copy of it
    raises       ValueError when it has no head otherwise, or its weights are not those of the training
    """
    model = source.model
    state, language = language_tensors(source)
    if model.added_tokens is not None:
        model.added_tokens.start(model.language)
    full = {name.removeprefix(f"{LM}."): name for name in state}
    if is_tied := HEAD not in full:
        full[HEAD] = full[EMBEDDING]
    if is_tied and not copies_head:
        raise ValueError(
            f"the layout of {layout} has an output head beside the embedding, as LLaMA has; the head of this language "
            "model is its embedding (tie_word_embeddings); export it with --layout chatbridge"
        )
    places = {EMBEDDING: "embedding", HEAD: "embedding" if is_tied else "head"}
    rows = {name: token_rows(source, part, tokens) for name, part in places.items()}
    shapes = {EMBEDDING: _taller(state[full[EMBEDDING]], len(tokens), source)}
    shapes |= {name: _meta(source.cast(state[own][:0]), state[own]) for name, own in full.items() if name not in rows}
    shapes[HEAD] = _taller(state[full[HEAD]], len(tokens), source)

    def tensor(name: str) -> Tensor:
        value = language(full[name])
        return torch.cat([value, *(row[None].to(value.dtype) for row in rows[name])]) if name in rows else value

    return Release(shapes, tensor, tokens)


def _taller(value: Tensor, more: int, source: Source) -> Tensor:
    cast = source.cast(value[:0])
    return torch.empty(value.shape[0] + more, *value.shape[1:], dtype=cast.dtype, device="meta")


def _meta(cast: Tensor, value: Tensor) -> Tensor:
    return torch.empty(value.shape, dtype=cast.dtype, device="meta")
