"""What a chat template requires of the model, checked before anything is built."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chatbridge.common.errors import Problem, nearest
from chatbridge.config.schema import parse
from chatbridge.conversation.templates import TEMPLATES
from chatbridge.conversation.tokenizer import TOKENIZER_FILES
from chatbridge.models.chat_template import template_strings
from chatbridge.models.config import ModelConfig
from chatbridge.models.tokenizer_loading import ADDED

MORE_FILES = ("added_tokens.json", "special_tokens_map.json")  # of a tokenizer with tokens of its own


def token_problems(names: tuple[str, ...], model: ModelConfig) -> Iterator[Problem]:
    """A problem for each template of these that writes tokens which the model does not have."""
    for name in dict.fromkeys(names):
        if name in TEMPLATES.names():
            yield from _missing_tokens(name, model)


def _missing_tokens(name: str, model: ModelConfig) -> Iterator[Problem]:
    kind: Any = TEMPLATES.get(name)
    needed: tuple[str, ...] = kind.needed_tokens(parse(kind.Config, template_strings(model, name)))
    known = _tokens_of_tokenizer(model, needed)
    lost = [token for token in needed if token not in (*model.added_tokens, *known)]
    if lost:
        listed = [*model.added_tokens, *lost]
        message = f"lacks {', '.join(lost)}, with which the template {name} marks images and captions"
        hint = f"set {ADDED}: {json.dumps(listed)}; released weights need the order {json.dumps(list(needed))}"
        yield Problem(ADDED, message, hint=hint, nearest=nearest(lost[0], model.added_tokens))


def _tokens_of_tokenizer(model: ModelConfig, tokens: tuple[str, ...]) -> set[str]:
    """Those of the tokens that occur in the files of the language model's tokenizer; none where it is absent."""
    config: Any = model.language.config
    folder = getattr(config, "tokenizer", None) or getattr(config, "weights", None)
    if folder is None or not tokens:
        return set()
    paths = (Path(folder) / name for name in (*TOKENIZER_FILES, *MORE_FILES) if name.endswith(".json"))
    text = "".join(path.read_text(encoding="utf-8", errors="replace") for path in paths if path.is_file())
    return {token for token in tokens if json.dumps(token) in text or json.dumps(token, ensure_ascii=False) in text}
