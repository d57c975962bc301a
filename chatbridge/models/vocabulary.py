"""Tokenizer and language model beside each other: every id that a text can become needs an embedding row."""

from __future__ import annotations

from pathlib import Path

from chatbridge.common.errors import ConfigError, Problem
from chatbridge.common.log import get_logger
from chatbridge.conversation.tokenizer import Tokenizer
from chatbridge.models.language import LanguageModel

log = get_logger(__name__)
SETTING = "model.language.tokenizer"
HINT = "resize the embeddings (resize_token_embeddings) and save both, or take the tokenizer of these weights"


def read_tokenizer(language: LanguageModel) -> Tokenizer:
    """The tokenizer of a language model; its padding is an id that has an embedding row.

    raises  ConfigError when there is none, or it writes ids that the model does not have
    """
    folder = language.tokenizer_folder
    if folder is None:
        hint = "name a Hugging Face model folder"
        raise ConfigError([Problem(SETTING, "is missing: no weights to take it from", hint=hint)])
    tokenizer = Tokenizer.from_pretrained(folder, language.num_embeddings)
    if fault := id_fault(tokenizer, folder):
        raise ConfigError([Problem(SETTING, fault, hint=HINT)])
    if note := padding_note(tokenizer):
        log.warning("%s", note)
    return tokenizer


def id_fault(tokenizer: Tokenizer, folder: Path) -> str | None:
    """What is wrong when a text, or the beginning or end of a sequence, can become an id beyond the embeddings."""
    rows = tokenizer.num_rows
    beyond = {name: number for name, number in tokenizer.written_ids().items() if rows is not None and number >= rows}
    if not beyond:
        return None
    shown = ", ".join(f"{name!r} = {number}" for name, number in sorted(beyond.items(), key=lambda one: one[1])[:5])
    return f"{folder} has {len(beyond)} ids beyond the {rows} embedding rows of the language model: {shown}"


def padding_note(tokenizer: Tokenizer) -> str | None:
    """That another id pads than the tokenizer's own, which no row is for."""
    own, rows = tokenizer.inner.pad_token_id, tokenizer.num_rows
    if own is None or rows is None or own < rows:
        return None
    return f"the tokenizer's padding id {own} has no embedding row (there are {rows}); {tokenizer.pad_id} pads instead"
