"""Load ChatBind's released weights: LLaMA with a projector and rows of added tokens, or projector and embedding alone.

    model.mm_projector.{weight,bias}   float[D, W], float[D]     -> bridges.<of the image route>.output
    model.layers.*, model.norm.weight  of LLaMA                  -> language.lm.model
    model.embed_tokens.weight          float[R, D]               -> language.lm and added_tokens.embedding
    lm_head.weight                     float[R, D]               -> language.lm and added_tokens.head

The published models are a delta to LLaMA-7B (`weights apply-delta`; R = 32,004) and the projector of stage 1, whose
file has the whole embedding, of which the rows of <im_start> and <im_end> were trained. Folders of the reference's
trainer (checkpoint-N) and a DeepSpeed file of one process have the same names, some below a wrapper's prefix. The
encoder is in none of them. Names are compared whole: by their last part, `embed_tokens.weight` and
`mm_projector.weight` are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from chatbridge.models.chat_model import ChatModel
from chatbridge.models.component import State
from chatbridge.models.importers.chatbind_names import (
    check_names,
    embedding_of,
    has_language,
    projection,
    released_names,
)
from chatbridge.models.importers.chatbind_rows import check_base, media_rows, token_rows, trained_rows
from chatbridge.models.importers.matched_file import MatchedFile, fill_from_matched
from chatbridge.models.importers.whole_language import whole_language
from chatbridge.models.language._causal_lm_folder import is_buffer


def fill_chatbind(model: ChatModel, state: State, path: Path) -> list[str]:
    """Load the projector, the rows of added tokens and, where the file has them, those of the language model.

    returns  lines for the log: what was loaded, and what was not with the reason
    raises   ValueError as `matched` does
    """
    return fill_from_matched(model, matched(model, state, path), path)


def matched(model: ChatModel, state: State, path: Path) -> MatchedFile:
    """The tensors of a file by our names; of meta tensors and placeholders only the names and shapes are compared.

    state    tensors [...] by released name
    path     of the file or folder; a tokenizer beside it gives the rows their tokens
    raises   ValueError when a tensor is unknown, missing or of another size; or when the embedding in a projector's
             file is not that of this language model
    """
    try:
        named = released_names(state)
        is_whole = has_language(named)
        buffers = [name for name in named if is_buffer(name)]
        named = {name: value for name, value in named.items() if name not in buffers}
        check_names(named, is_whole)
        name = projector_of(model)
        _check_projector(model, name, named)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    taken, lines = (_whole if is_whole else _trained)(model, named, path)
    if buffers:
        lines.append(f"dropped: {len(buffers)} tensors of the language model (buffers that follow from the sizes)")
    return MatchedFile(name, projection(named), taken, tuple(lines), only=("output.",))


def projector_of(model: ChatModel) -> str:
    """The name of the bridge with a linear output that the routes use; of several that of images.

    raises   ValueError when there is none
    """
    route = model.config.image_route
    bridge: Any = model.bridges[route.bridge]
    if "output.weight" not in bridge.state_dict():
        raise ValueError(f"holds a linear projector, but bridges.{route.bridge} ({type(bridge).__name__}) has none")
    return route.bridge


def _check_projector(model: ChatModel, name: str, named: Mapping[str, Tensor]) -> None:
    """raises ValueError for a projector, or an embedding beside it, of another width"""
    embedding = embedding_of(named)
    for what, value in (("projector", named["mm_projector.weight"]), ("embedding", embedding)):
        if value is not None and value.ndim != 2:
            raise ValueError(f"its {what} has shape {list(value.shape)}, expected a matrix")
    outputs, inputs = named["mm_projector.weight"].shape
    rows, columns = model.bridges[name].state_dict()["output.weight"].shape
    if (outputs, inputs) != (rows, columns):
        raise ValueError(
            f"its projector is {inputs} -> {outputs} channels, bridges.{name} is {columns} -> {rows}; the first number "
            "is the encoder's out_embed_dim (ImageBind-Huge: 1024), the second the language model's width (7B: 4096)"
        )
    if embedding is not None and embedding.shape[1] != model.language.width:
        raise ValueError(f"its embedding has {embedding.shape[1]} channels, language has {model.language.width}")


def _trained(model: ChatModel, named: State, path: Path) -> tuple[State, list[str]]:
    """Rows of <im_start> and <im_end> of a projector's file by our names, and lines for the log. raises ValueError"""
    embedding = embedding_of(named)
    media = media_rows(model)
    if embedding is None:
        return {}, [f"added_tokens: no embedding in the file; {', '.join(media) or 'none'} keep their initial values"]
    try:
        rows = trained_rows(model, embedding)
        check_base(model, embedding)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    lines = [f"added_tokens: rows of {' and '.join(rows)} from {path}; all others of its embedding are the base's"]
    return {f"added_tokens.embedding.{token}": embedding[row] for token, row in rows.items()}, lines


def _whole(model: ChatModel, named: State, path: Path) -> tuple[State, list[str]]:
    """Tensors of the language model and of added tokens by our names, and lines for the log. raises ValueError"""
    embedding = embedding_of(named)
    assert embedding is not None
    try:
        rows = token_rows(model, len(embedding), path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return whole_language(model, named, rows, path)
