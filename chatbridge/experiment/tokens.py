"""Token ids as the run will have them; in words where the tokenizer is not on the disk yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from chatbridge.common.errors import ConfigError, Problem
from chatbridge.config.constraints import Choice, PartOf
from chatbridge.config.origins import MISSING
from chatbridge.config.schema import parse
from chatbridge.conversation.layout import Layout
from chatbridge.conversation.templates import build_template
from chatbridge.conversation.tokenizer import Tokenizer
from chatbridge.experiment.media_plan import Senses
from chatbridge.experiment.vocabulary import added_tokens, num_rows
from chatbridge.experiment.yaml_data import DataOfYaml
from chatbridge.models.chat_template import READS_IT, chat_template_problems
from chatbridge.models.hf_folder import cached_folder
from chatbridge.models.language import LANGUAGES, LanguageModel
from chatbridge.models.model_without_files import with_known_files
from chatbridge.models.tokenizer_loading import FUSION, slot_ids

NO_TEMPLATE = "(none)"
MARKS = str.maketrans({"▁": "·", "Ġ": "·", "Ċ": "⏎", "ĉ": "⇥", "\n": "⏎", "\t": "⇥", " ": "·"})


class Words:
    """Stands in for a tokenizer: every word with the blank before it is one id, and nothing else is known of it."""

    def __init__(self) -> None:
        self._words: list[str] = ["<pad>", "<s>", "</s>"]
        self._ids = {word: number for number, word in enumerate(self._words)}

    pad_id, bos_id, eos_id = 0, 1, 2

    def token_id(self, token: str) -> int:
        return self._id(token)

    def encode(self, text: str) -> list[int]:
        words, start = [], 0
        for at in range(1, len(text) + 1):
            if at == len(text) or (text[at].isspace() and not text[at - 1].isspace()):
                words.append(text[start:at])
                start = at
        return [self._id(word) for word in words]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self._words[number] for number in ids)

    def _id(self, word: str) -> int:
        if word not in self._ids:
            self._ids[word] = len(self._words)
            self._words.append(word)
        return self._ids[word]


def special_name(tokenizer: Any, number: int) -> str:
    """How a special token is called: "<|im_start|>" for 151644."""
    inner: Any = getattr(tokenizer, "inner", None)
    return str(tokenizer.decode([number]) if inner is None else inner.convert_ids_to_tokens(number))


@dataclass(frozen=True)
class Tokens:
    """How conversations of a file become rows.

    layout   None when the template cannot be used without its tokenizer; `note` says why
    unit     "tokens", or "words" when `note` says that there is no tokenizer
    """

    template: str
    layout: Layout | None
    unit: str
    note: str = ""

    @property
    def slot_ids(self) -> dict[str, int]:
        """modality -> the id in its slots, where it is not padding"""
        return {} if self.layout is None else self.layout.slot_ids

    def piece(self, number: int) -> str:
        """One id for people: blanks and line breaks become visible."""
        inner: Any = getattr(getattr(self.layout, "tokenizer", None), "inner", None)
        if inner is None:
            return self.layout.tokenizer.decode([number]).translate(MARKS) if self.layout is not None else str(number)
        if (added := self.layout.tokenizer.token_name(number)) is not None:
            return added
        raw = str(inner.convert_ids_to_tokens(number))
        text = inner.decode([number], skip_special_tokens=False)
        if raw.isascii() or not text or "\ufffd" in text:
            return raw.translate(MARKS)
        blank = "·" if raw[0] in "▁Ġ" and not text.startswith(" ") else ""
        return blank + text.translate(MARKS)


def read_tokens(found: DataOfYaml, senses: Senses, evaluation: bool = False) -> Tokens:
    """Template and tokenizer of a file, for its training rows or for the questions of its evaluation."""
    template = _template(found, evaluation)
    tokenizer, note = _tokenizer(found)
    unit = "words" if note else "tokens"
    if template == NO_TEMPLATE:
        return Tokens(template, None, unit, f"{note}; no template: give data.template or a model".lstrip("; "))
    max_tokens = found.data.max_tokens if found.data is not None and not evaluation and not note else None
    try:
        context_length = None if note else _context_length(found)
        slots = _slot_ids(senses, tokenizer)
        made = build_template(template, **_strings(found, template))
        layout = Layout(made, tokenizer, senses.lengths, max_tokens, context_length, slots)
    except ConfigError as error:
        first = error.problems[0]
        where = first.path if first.path == FUSION else f"template {template!r}:"
        return Tokens(template, None, unit, f"{note}; {where} {first.message}".lstrip("; "))
    return Tokens(template, layout, unit, note)


def _slot_ids(senses: Senses, tokenizer: Tokenizer | Words) -> dict[str, int]:
    if isinstance(tokenizer, Words):
        return {modality: tokenizer.token_id(token) for modality, token in senses.slot_tokens.items()}
    return slot_ids(senses.slot_tokens, tokenizer)


@dataclass(frozen=True, kw_only=True)
class _Language:
    language: Annotated[Choice[LanguageModel], PartOf(LANGUAGES)]


def _context_length(found: DataOfYaml) -> int | None:
    """Most tokens the language model takes; None when it does not say, or its files are not there yet."""
    node, _ = with_known_files({"language": found.node("model", "language")})
    try:
        return parse(_Language, node).language.config.context_length
    except ConfigError:
        return None


def _strings(found: DataOfYaml, template: str) -> dict[str, str]:
    """The chat template that the language model's settings give as a file.

    raises   ConfigError for a file that a training refuses: the tokenizer's own template is not what was asked for
    """
    path = found.node("model", "language").get("chat_template")
    if template != READS_IT or not isinstance(path, str):
        return {}
    if path == MISSING:
        raise ConfigError([Problem("model.language.chat_template", f"model.language.chat_template is {MISSING}")])
    if problem := next(chat_template_problems(Path(path), READS_IT), None):
        raise ConfigError([replace(problem, message=f"model.language.chat_template: {problem.message}")])
    return {"chat_template": Path(path).read_text(encoding="utf-8")}


def _template(found: DataOfYaml, evaluation: bool) -> str:
    """As Experiment and Evaluation choose it."""
    language = found.node("model", "language")
    named = found.node("evaluation").get("template") if evaluation else None
    own = language.get("template")
    if own is None and language.get("name") in LANGUAGES.names():
        part: Any = LANGUAGES.get(language["name"])
        own = getattr(part.Config, "template", None)  # the default of its field
    return str(named or found.node("data").get("template") or own or NO_TEMPLATE)


def _tokenizer(found: DataOfYaml) -> tuple[Tokenizer | Words, str]:
    language = found.node("model", "language")
    key = "tokenizer" if language.get("tokenizer") is not None else "weights"
    folder = language.get(key)
    if not isinstance(folder, str) or folder == MISSING:
        return Words(), f"no tokenizer: model.language.{key} is {MISSING if folder == MISSING else 'not given'}"
    added = added_tokens(found.node("model"))
    rows = num_rows(language) if added else None
    try:
        return Tokenizer.from_pretrained(cached_folder(Path(folder)) or folder, rows, added), ""
    except ConfigError as error:
        return Words(), f"no tokenizer: {error.problems[0].message}"
