"""Whether the tokenizer of a file writes only ids that its language model has, as a run checks before it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch

from chatbridge.common.errors import ConfigError, Problem
from chatbridge.config.constraints import Choice, PartOf
from chatbridge.config.schema import parse
from chatbridge.models.fusion import FUSIONS, Fusion
from chatbridge.models.language import LANGUAGES, LanguageModel
from chatbridge.models.model_without_files import ANY_WIDTH, with_known_files
from chatbridge.models.tokenizer_loading import ADDED, FUSION, SETTING, read_tokenizer, slot_ids


@dataclass(frozen=True, kw_only=True)
class _Language:
    language: Annotated[Choice[LanguageModel], PartOf(LANGUAGES)]


@dataclass(frozen=True, kw_only=True)
class _Fusion:
    fusion: Annotated[Choice[Fusion], PartOf(FUSIONS)]


def added_tokens(model: Mapping[str, Any]) -> tuple[str, ...]:
    """`added_tokens` of a `model` node, without what is no token, which parsing reports."""
    listed = model.get("added_tokens")
    return tuple(one for one in listed if isinstance(one, str)) if isinstance(listed, (list, tuple)) else ()


def slot_tokens(model: Mapping[str, Any]) -> dict[str, str]:
    """modality -> the token in the slots of an item, where the fusion of a `model` node names one."""
    routes = model.get("routes")
    if not isinstance(model.get("fusion"), Mapping) or not isinstance(routes, Mapping):
        return {}
    try:
        choice = parse(_Fusion, {"fusion": model["fusion"]}).fusion
        with torch.device("meta"):
            fusion = choice.part(choice.config, ANY_WIDTH)
    except ValueError:  # what a fusion finds wrong with its settings or its width, building the model reports
        return {}
    named = {str(modality): fusion.slot_token(str(modality)) for modality in routes}
    return {modality: token for modality, token in named.items() if token is not None}


def vocabulary_problems(model: Mapping[str, Any]) -> list[Problem]:
    """What a run would say about the tokens of a `model` node; nothing where files of its language model are not there
    or cannot be read, which other checks report."""
    language = model.get("language")
    built = _without_memory(language) if isinstance(language, Mapping) else None
    try:
        if built is not None:
            slot_ids(slot_tokens(model), read_tokenizer(built, added_tokens(model)))
    except ConfigError as error:
        return [problem for problem in error.problems if problem.path.startswith((SETTING, ADDED, FUSION))]
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
