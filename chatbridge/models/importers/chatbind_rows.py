"""Which rows of a released embedding belong to the language model, and which to added tokens.

ChatBind appends its tokens to LLaMA's 32,000 rows: `[PAD]` (unless padding is <unk>), <im_patch>, and mostly <im_start>
and <im_end>. A tokenizer beside the weights names their ids. Without one they follow from the number of rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatbridge.models.chat_model import ChatModel
from chatbridge.models.language._llava_folder import END, KNOWN, MEDIA, START, rows_in_folder

SAME = 0.005  # relative distance of two embeddings that differ by rounding alone: bf16 gives 0.0017, fp16 0.0002
_CHUNK = 4096  # rows per step of a comparison


def media_rows(model: ChatModel) -> tuple[str, ...]:
    """The tokens of ChatBind that the model adds."""
    return tuple(token for token in MEDIA if token in model.config.added_tokens)


def trained_rows(model: ChatModel, embedding: Tensor) -> dict[str, int]:
    """<im_start> and <im_end> -> row of the embedding float[R, D] in a projector's file: the last two, or all of two.

    raises   ValueError when the model does not add the tokens, or R is not what it would have
    """
    if lost := [token for token in (START, END) if token not in model.config.added_tokens]:
        raise ValueError(f"has trained rows of {START} and {END}; add to model.added_tokens: {', '.join(lost)}")
    rows, own = len(embedding), model.language.num_embeddings
    if rows != 2 and own is not None and not 2 <= rows - own <= 4:
        raise ValueError(
            f"its embedding has {rows} rows, expected 2, or 2 to 4 more than the {own} of language; it was trained "
            "with another language model, name that one in model.language.weights"
        )
    return {START: rows - 2, END: rows - 1}


def check_base(model: ChatModel, embedding: Tensor) -> None:
    """Compare the rows before the added ones with those of the language model, which stage 1 does not change.

    embedding  float[R, D]; one of two rows has none to compare
    raises     ValueError when they differ by more than rounding
    """
    own: Any = model.language.vocabulary_modules[0].weight
    num_rows = min(len(own), len(embedding) - len(MEDIA) - 1)
    if num_rows <= 0 or own.is_meta:
        return
    own = own.full_tensor() if hasattr(own, "full_tensor") else own
    distance = length = 0.0
    for start in range(0, num_rows, _CHUNK):
        ours = own[start : min(start + _CHUNK, num_rows)].detach().double().cpu()
        theirs = embedding[start : min(start + _CHUNK, num_rows)].double().cpu()
        distance += float((ours - theirs).square().sum())
        length += float(theirs.square().sum())
    if not distance <= SAME**2 * length:
        apart = f"{(distance / length) ** 0.5:.3f} of their length" if length else "they are zero"
        raise ValueError(
            f"the first {num_rows} rows of its embedding are not those of language (apart by {apart}): the projector "
            "was trained with another language model (ChatBind: Vicuna-7B v0); name that one in "
            "model.language.weights, or take the projector alone: chatbridge weights convert FILE OUT.safetensors "
            "--part linear, as model.bridges.projector.weights"
        )


def token_rows(model: ChatModel, num_rows: int, path: Path) -> dict[str, int]:
    """Added token -> its row in an embedding of `num_rows` rows, of all tokens that follow the base's rows.

    path     of the weights; a tokenizer in its folder has precedence
    raises   ValueError when the rows cannot be told, or there is none of a token of ChatBind that the model adds
    """
    own, added = model.language.num_embeddings, model.config.added_tokens
    rows = rows_in_folder(path if path.is_dir() else path.parent)
    where = "the tokenizer beside it"
    if not rows:
        names = added if own is not None and own + len(added) == num_rows else KNOWN.get(num_rows)
        if names is None:
            raise ValueError(
                f"its embedding has {num_rows} rows, language has {own} and {len(added)} added tokens; which rows are "
                f"those of {', '.join(MEDIA)} is not known: put the tokenizer of the release beside the weights"
            )
        rows = {token: num_rows - len(names) + number for number, token in enumerate(names)}
        where = f"{num_rows} rows"
    if beyond := [token for token, row in rows.items() if row >= num_rows]:
        raise ValueError(
            f"the tokenizer beside it gives {beyond[0]} the id {rows[beyond[0]]}, but it has {num_rows} rows"
        )
    if lost := [token for token in media_rows(model) if token not in rows]:
        raise ValueError(
            f"has no row of {', '.join(lost)} ({where}): it was trained without them; remove them from "
            "model.added_tokens"
        )
    return rows


def language_rows(model: ChatModel, value: Tensor, name: str, rows: Mapping[str, int]) -> tuple[Tensor, str | None]:
    """The rows float[V, D] of the language model's own vocabulary from a released tensor float[R, D], and a note.

    name   of the tensor in the model, whose rows are kept where the file has none; V may be smaller or larger than the
           number of rows before the added tokens, if a language model has a row for [PAD]
    """
    kept: Any = model.state_dict(keep_vars=True)[name] if name in model.state_dict() else None
    num_rows = model.language.num_embeddings or len(value)
    added = {row: token for token, row in rows.items()}
    first = min(added, default=len(value))
    while first < num_rows and first in added and added[first] not in model.config.added_tokens:
        first += 1  # rows that are added there and part of the language model here: [PAD]
    if first >= num_rows:
        unused = [token for token, row in rows.items() if row >= num_rows and token not in model.config.added_tokens]
        note = f"dropped: rows of {', '.join(unused)} (the model has no such token)" if unused else None
        return value[:num_rows], note
    if kept is None or hasattr(kept, "full_tensor"):
        raise ValueError(f"{name} has {num_rows} rows, and the file {first} before its added tokens")
    note = f"kept: rows {first} to {num_rows - 1} of language, which the file does not have"
    return torch.cat([value[:first].to(kept.device, kept.dtype), kept.detach()[first:]]), note
