"""Whether the tokenizer of a file writes only ids that its language model has, as a run checks before it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch

from chatbridge.common.errors import ConfigError, Problem
from chatbridge.common.markers import Choice, Part
from chatbridge.common.schema import parse
from chatbridge.models.language import LANGUAGES, LanguageModel
from chatbridge.models.planned import with_known_files
from chatbridge.models.vocabulary import SETTING, read_tokenizer


@dataclass(frozen=True, kw_only=True)
class _Language:
    language: Annotated[Choice[LanguageModel], Part(LANGUAGES)]


def vocabulary_problems(language: Mapping[str, Any]) -> list[Problem]:
    """What a run would say about the `model.language` node; nothing where its files are not there or cannot be read,
    which other checks report."""
    if not isinstance(language.get("weights"), str):
        return []
    node, absent = with_known_files({"language": language})
    if absent:
        return []
    try:
        choice = parse(_Language, node).language
        with torch.device("meta"):
            model = choice.part(choice.config)
        read_tokenizer(model)
    except ConfigError as error:
        return [problem for problem in error.problems if problem.path == SETTING]
    except (ValueError, OSError):
        return []
    return []
