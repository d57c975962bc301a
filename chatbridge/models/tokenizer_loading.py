"""The tokenizer of a language model, checked against it: every id it can produce needs an embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from chatbridge.common.errors import ConfigError, Problem, nearest
from chatbridge.common.gguf_header import read_header
from chatbridge.common.gguf_kind import is_gguf_name
from chatbridge.common.log import get_logger
from chatbridge.conversation.gguf_tokenizer import differences
from chatbridge.conversation.tokenizer import Tokenizer
from chatbridge.models.language import LanguageModel

log = get_logger(__name__)
SETTING = "model.language.tokenizer"
ADDED = "model.added_tokens"
FUSION = "model.fusion"
HINT = "resize the embeddings (resize_token_embeddings) and save both, or take the tokenizer of these weights"


def read_tokenizer(language: LanguageModel, added: Sequence[str] = ()) -> Tokenizer:
    """The tokenizer of a language model; its padding id has an embedding.

    added   tokens of model.added_tokens
    raises  ConfigError when there is none, it produces ids without an embedding, or it has an added token already
    """
    folder = language.tokenizer_folder
    if folder is None:
        hint = "name a Hugging Face model folder"
        raise ConfigError([Problem(SETTING, "is missing: no weights to take it from", hint=hint)])
    tokenizer = Tokenizer.from_pretrained(folder, language.num_embeddings, added)
    if problems := other_than_file(tokenizer, language):
        raise ConfigError(problems)
    if fault := id_fault(tokenizer, folder):
        raise ConfigError([Problem(SETTING, fault, hint=HINT)])
    if problems := known_already(tokenizer, folder):
        raise ConfigError(problems)
    if note := padding_note(tokenizer):
        log.warning("%s", note)
    return tokenizer


def other_than_file(tokenizer: Tokenizer, language: LanguageModel) -> list[Problem]:
    """A problem when a tokenizer folder beside a GGUF file has other ids than the file."""
    weights, folder = getattr(language.config, "weights", None), language.tokenizer_folder
    if weights is None or folder is None or folder == weights or not is_gguf_name(weights):
        return []
    wrong = list(differences(read_header(weights), tokenizer.inner.get_vocab(), tokenizer.eos_id))
    if not wrong:
        return []
    more = f" and {len(wrong) - 3} more" if wrong[3:] else ""
    message = f"{folder} is not the tokenizer of {weights}: {'; '.join(wrong[:3])}{more}"
    return [
        Problem(SETTING, message, hint="leave `tokenizer` out: the file has its own, or name the one of this model")
    ]


def id_fault(tokenizer: Tokenizer, folder: Path) -> str | None:
    """A message when text, or the begin or end token, can become an id without an embedding; otherwise None."""
    rows = tokenizer.num_rows
    beyond = {name: number for name, number in tokenizer.written_ids().items() if rows is not None and number >= rows}
    if not beyond:
        return None
    shown = ", ".join(f"{name!r} = {number}" for name, number in sorted(beyond.items(), key=lambda one: one[1])[:5])
    return f"{folder} has {len(beyond)} ids beyond the {rows} embedding rows of the language model: {shown}"


def known_already(tokenizer: Tokenizer, folder: Path) -> list[Problem]:
    """A problem for each added token that the vocabulary has already with another id, so it would have two.

    The tokenizer of a multimodal release (ChatBind) has its tokens with the ids that they get here.
    """
    vocabulary, rows = tokenizer.inner.get_vocab(), tokenizer.num_rows
    problems = []
    for number, token in enumerate(tokenizer.added):
        own = vocabulary.get(token)
        if own is None or own == tokenizer.added_ids[token]:
            continue
        hint = f"remove it from {ADDED}: the language model has a row for it"
        if rows is not None and own >= rows:
            hint = f"that is beyond the {rows} embedding rows; name a tokenizer without it in {SETTING}"
        message = f"{token!r} is in the vocabulary of {folder} already, with the id {own}"
        problems.append(Problem(f"{ADDED}[{number}]", message, hint=hint))
    return problems


def slot_ids(slot_tokens: Mapping[str, str], tokenizer: Tokenizer) -> dict[str, int]:
    """Modality -> the id that fills the slots of an item, for the tokens a fusion names.

    raises  ConfigError for a token that neither the tokenizer nor model.added_tokens has, or that has no embedding
    """
    found = {modality: tokenizer.token_id(token) for modality, token in slot_tokens.items()}
    most = None if tokenizer.num_rows is None else tokenizer.num_rows + len(tokenizer.added)
    lost = {
        slot_tokens[modality] for modality, number in found.items() if number is None or number >= (most or number + 1)
    }
    problems = []
    for token in sorted(lost):
        message = f"puts {token!r} into the slots of media, a token that the language model does not have"
        known = tuple(tokenizer.added)
        hint = f"add it to {ADDED}: [{', '.join(map(repr, (*known, token)))}]"
        problems.append(Problem(FUSION, message, hint=hint, nearest=nearest(token, known)))
    if problems:
        raise ConfigError(problems)
    return {modality: number for modality, number in found.items() if number is not None}


def padding_note(tokenizer: Tokenizer) -> str | None:
    """A line for the log when the tokenizer's own padding id has no embedding and another id is used."""
    own, rows = tokenizer.inner.pad_token_id, tokenizer.num_rows
    if own is None or rows is None or own < rows:
        return None
    return f"the tokenizer's padding id {own} has no embedding row (there are {rows}); {tokenizer.pad_id} is used"
