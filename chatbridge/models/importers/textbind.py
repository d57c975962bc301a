"""Load TextBind's released weights: one flat dictionary of the parts that its stages trained, in fp32.

    query_tokens float[1, K, W], qformer.*   Q-Former      -> bridges.<of the image route>
    qformer_projection.{weight,bias}         projection    -> the same bridge, output
    language_model.*                         Llama-2       -> language.lm, and added_tokens of the last three rows

The file that stage 1 starts from (blip2_qformer.pt) has the first line, the result of stage 1 the first two, that of
stage 2 (second_stage_model.pt) all three. The vision transformer is in none of them. The reference loads them without
any check, so that a wrong prefix is silent; here each tensor must have its place, and a part must be complete.
Source: SihengLi99/TextBind: model and training code of 2023.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from chatbridge.models.bridges.qformer import QFormer
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.component import State
from chatbridge.models.importers.matched_file import MatchedFile, fill_from_matched
from chatbridge.models.importers.textbind_names import LM, QFORMER, TOKENS, language_names, parts_of
from chatbridge.models.importers.whole_language import whole_language
from chatbridge.models.language._causal_lm_folder import is_buffer


def fill_textbind(model: ChatModel, state: State, path: Path) -> list[str]:
    """Load the Q-Former with its projection and, where the file has it, the language model with three added tokens.

    returns  lines for the log: what was loaded, and what was not with the reason
    raises   ValueError as `matched` does
    """
    return fill_from_matched(model, matched(model, state, path), path)


def matched(model: ChatModel, state: State, path: Path) -> MatchedFile:
    """The tensors of a file by our names; of meta tensors and placeholders only the names and shapes are compared.

    state    tensors [...] by released name
    raises   ValueError when a tensor is unknown, missing or of another size, or the model lacks a part or a token
    """
    lines: list[str] = []
    try:
        parts = parts_of(state)
        name = bridge_of(model)
        own = parts.get(LM, {})
        buffers = [key for key in own if is_buffer(key)]
        named = language_names({key: value for key, value in own.items() if key not in buffers}) if own else {}
        rows = _rows(model, named) if named else {}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    taken: State = {}
    if named:
        taken, lines = whole_language(model, named, rows, path)
    if QFORMER[2] not in parts:
        lines.append(f"bridges.{name}: no {QFORMER[2]} in the file; the projection keeps its initial values")
    if buffers:
        lines.append(f"dropped: {len(buffers)} tensors of the language model (buffers that follow from the sizes)")
    qformer = {key: value for part in QFORMER for key, value in parts.get(part, {}).items()}
    return MatchedFile(name, qformer, taken, tuple(lines))


def bridge_of(model: ChatModel) -> str:
    """The name of the bridge of the image route. raises ValueError when it is not a Q-Former"""
    route = model.config.image_route
    bridge: Any = model.bridges[route.bridge]
    if not isinstance(bridge, QFormer):
        raise ValueError(
            f"bridges.{route.bridge} is {type(bridge).__name__}, expected a Q-Former; set name: qformer for it"
        )
    return route.bridge


def _rows(model: ChatModel, named: dict[str, Tensor]) -> dict[str, int]:
    """Added token -> its row: the last three of embedding and head.

    raises   ValueError when the model lacks one of the tokens, or its language model has another number of rows
    """
    if lost := [token for token in TOKENS if token not in model.config.added_tokens]:
        raise ValueError(f"has rows of {', '.join(TOKENS)}; add to model.added_tokens: {', '.join(lost)}")
    num_rows, own = len(named["embed_tokens.weight"]), model.language.num_embeddings
    if own is not None and num_rows != own + len(TOKENS):
        raise ValueError(
            f"its embedding has {num_rows} rows, expected {own + len(TOKENS)}: the {own} of language and those of "
            f"{', '.join(TOKENS)}; it was trained with another language model (the released one: Llama-2-7b-chat)"
        )
    return {token: num_rows - len(TOKENS) + number for number, token in enumerate(TOKENS)}
