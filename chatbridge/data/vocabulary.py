"""Whether the tokenizer of a file writes only ids that its language model has, as a run checks before it starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch

from chatbridge.common.errors import ConfigError, Problem
from chatbridge.common.markers import Choice, Part
from chatbridge.common.schema import parse
from chatbridge.models.language import LANGUAGES, LanguageModel
from chatbridge.models.planned import with_known_files
from chatbridge.models.vocabulary import ADDED, SETTING, read_tokenizer


@dataclass(frozen=True, kw_only=True)
class _Language:
    language: Annotated[Choice[LanguageModel], Part(LANGUAGES)]


def added_tokens(model: Mapping[str, Any]) -> tuple[str, ...]:
    """`added_tokens` of a `model` node, without what is no token, which parsing reports."""
    listed = model.get("added_tokens")
    return tuple(one for one in listed if isinstance(one, str)) if isinstance(listed, (list, tuple)) else ()


def vocabulary_problems(language: Mapping[str, Any], added: Sequence[str] = ()) -> list[Problem]:
    """What a run would say about the `model.language` node; nothing where its files are not there or cannot be read,
    which other checks report."""
    model = _without_memory(language)
    try:
        if model is not None:
            read_tokenizer(model, added)
    except ConfigError as error:
        return [problem for problem in error.problems if problem.path.startswith((SETTING, ADDED))]
    return []


def num_rows(language: Mapping[str, Any]) -> int | None:
    """Embedding rows of the language model; None where its files are not there or cannot be read."""
    model = _without_memory(language)
    return None if model is None else model.num_embeddings


def _without_memory(language: Mapping[str, Any]) -> LanguageModel | None:
    if not isinstance(language.get("weights"), str):
        return None
    node, absent = with_known_files({"language": language})
    if absent:
        return None
    try:
        choice = parse(_Language, node).language
        with torch.device("meta"):
            return choice.part(choice.config)
    except (ConfigError, ValueError, OSError):
        return None
