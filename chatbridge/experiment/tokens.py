"""Token ids as the run will have them; whole words where the tokenizer is not on the disk yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch

from chatbridge.common.errors import ConfigError, Problem
from chatbridge.config.constraints import Choice, PartOf
from chatbridge.config.origins import MISSING
from chatbridge.conversation.layout import Layout
from chatbridge.conversation.templates import TEMPLATES, build_template
from chatbridge.conversation.tokenizer import Tokenizer
from chatbridge.experiment.media_plan import MediaPlan, media_parts, slot_tokens
from chatbridge.experiment.opened import Opened, readable, with_known_files
from chatbridge.models.chat_template import READS_IT, chat_template_problems, template_settings_problems
from chatbridge.models.hf_folder import cached_folder
from chatbridge.models.language import LANGUAGES, LanguageModel
from chatbridge.models.tokenizer_loading import ADDED, FUSION, SETTING, read_tokenizer, slot_ids

LanguageChoice = Annotated[Choice[LanguageModel], PartOf(LANGUAGES)]
NO_TEMPLATE = "(none)"
MARKS = str.maketrans({"▁": "·", "Ġ": "·", "Ċ": "⏎", "ĉ": "⇥", "\n": "⏎", "\t": "⇥", " ": "·"})


class WordTokenizer:
    """A tokenizer before the real one is there: every word with the space before it is one id."""

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
    """The name of a special or added token: "<|im_start|>" for 151644."""
    inner: Any = getattr(tokenizer, "inner", None)
    if inner is not None and (added := tokenizer.token_name(number)) is not None:
        return added
    return str(tokenizer.decode([number]) if inner is None else inner.convert_ids_to_tokens(number))


@dataclass(frozen=True)
class Tokens:
    """How conversations of a file become token sequences.

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
        """The text of one id, with visible spaces and line breaks."""
        if self.layout is None:
            return str(number)
        tokenizer: Any = self.layout.tokenizer
        if isinstance(tokenizer, WordTokenizer):
            return tokenizer.decode([number]).translate(MARKS)
        inner = tokenizer.inner
        if (added := tokenizer.token_name(number)) is not None:
            return added
        raw = str(inner.convert_ids_to_tokens(number))
        text = inner.decode([number], skip_special_tokens=False)
        if raw.isascii() or not text or "\ufffd" in text:
            return raw.translate(MARKS)
        blank = "·" if raw[0] in "▁Ġ" and not text.startswith(" ") else ""
        return blank + text.translate(MARKS)


def read_tokens(opened: Opened[Any], media: MediaPlan, evaluation: bool = False) -> Tokens:
    """Template and tokenizer of a file, for its training sequences or for the questions of its evaluation."""
    template = _template(opened, evaluation)
    tokenizer, note = _tokenizer(opened)
    unit = "words" if note else "tokens"
    if template == NO_TEMPLATE:
        return Tokens(template, None, unit, f"{note}; no template: give data.template or a model".lstrip("; "))
    given = opened.node("data").get("max_tokens")
    max_tokens = given if isinstance(given, int) and not evaluation and not note else None
    try:
        context_length = None if note else _context_length(opened)
        slots = _slot_ids(media, tokenizer)
        made = build_template(template, **_strings(opened, template))
        layout = Layout(made, tokenizer, media.lengths, max_tokens, context_length, slots)
    except ConfigError as error:
        first = error.problems[0]
        where = first.path if first.path == FUSION else f"template {template!r}:"
        return Tokens(template, None, unit, f"{note}; {where} {first.message}".lstrip("; "))
    return Tokens(template, layout, unit, note)


def vocabulary_problems(opened: Opened[Any]) -> list[Problem]:
    """Tokens of a file that its language model does not have, as a run finds them before it starts; none where files of
    the language model are absent or cannot be read, which other checks report."""
    language = _planned_language(opened)
    if language is None:
        return []
    fusion = media_parts(opened, [])[0].fusion
    try:
        tokenizer = read_tokenizer(language, _added_tokens(opened))
        slot_ids(slot_tokens(fusion, map(str, opened.node("model", "routes"))), tokenizer)
        if (name := _template(opened, "data" not in opened.mapping)) in TEMPLATES.names():
            build_template(name, **_strings(opened, name)).bound(tokenizer)
    except ConfigError as error:
        return [problem for problem in error.problems if problem.path.startswith((SETTING, ADDED, FUSION))]
    return []


def _slot_ids(media: MediaPlan, tokenizer: Tokenizer | WordTokenizer) -> dict[str, int]:
    if isinstance(tokenizer, WordTokenizer):
        return {modality: tokenizer.token_id(token) for modality, token in media.slot_tokens.items()}
    return slot_ids(media.slot_tokens, tokenizer)


def _language(opened: Opened[Any]) -> tuple[Choice[LanguageModel] | None, list[str]]:
    """The settings of the language model, None where they cannot be understood, and its files that are absent."""
    node, absent = with_known_files(opened.node("model", "language"))
    return readable(LanguageChoice, node), absent


def _planned_language(opened: Opened[Any]) -> LanguageModel | None:
    """The language model on the meta device; None where its files are absent or cannot be read."""
    choice, absent = _language(opened)
    if choice is None or absent or choice.config.weights is None:
        return None
    try:
        with torch.device("meta"):
            return choice.part(choice.config)
    except (ValueError, OSError):
        return None


def _context_length(opened: Opened[Any]) -> int | None:
    """Most tokens the language model takes; None when its settings or its files do not tell."""
    choice, _ = _language(opened)
    return None if choice is None else choice.config.context_length


def _added_tokens(opened: Opened[Any]) -> tuple[str, ...]:
    """model.added_tokens without values that are not text, which the problems of the file list."""
    listed = opened.node("model").get("added_tokens")
    return tuple(one for one in listed if isinstance(one, str)) if isinstance(listed, (list, tuple)) else ()


def _strings(opened: Opened[Any], template: str) -> Mapping[str, Any]:
    """The settings of the language model's own template, and the chat template that is given as a file.

    raises   ConfigError for what a training refuses: settings that the template does not have, or a file
    """
    language = opened.node("model", "language")
    own, path = language.get("template_settings"), language.get("chat_template")
    own = dict(own) if isinstance(own, Mapping) and language.get("template") == template else {}
    if problem := next(template_settings_problems(own, template), None):
        raise ConfigError([replace(problem, message=f"model.language.{problem.path} {problem.message}")])
    if template != READS_IT or not isinstance(path, str):
        return own
    if path == MISSING:
        raise ConfigError([Problem("model.language.chat_template", f"model.language.chat_template is {MISSING}")])
    if problem := next(chat_template_problems(Path(path), READS_IT), None):
        raise ConfigError([replace(problem, message=f"model.language.chat_template: {problem.message}")])
    return {**own, "chat_template": Path(path).read_text(encoding="utf-8")}


def _template(opened: Opened[Any], evaluation: bool) -> str:
    """The template that Experiment and Evaluation choose."""
    language = opened.node("model", "language")
    named = opened.node("evaluation").get("template") if evaluation else None
    own = language.get("template")
    if own is None and language.get("name") in LANGUAGES.names():
        part: Any = LANGUAGES.get(language["name"])
        own = getattr(part.Config, "template", None)  # the default of its field
    return str(named or opened.node("data").get("template") or own or NO_TEMPLATE)


def _tokenizer(opened: Opened[Any]) -> tuple[Any, str]:
    """The tokenizer, or a stand-in and the reason."""
    language = opened.node("model", "language")
    key = "tokenizer" if language.get("tokenizer") is not None else "weights"
    folder = language.get(key)
    if not isinstance(folder, str) or folder == MISSING:
        reason = MISSING if folder == MISSING else "not given"
        return WordTokenizer(), f"no tokenizer: model.language.{key} is {reason}"
    added = _added_tokens(opened)
    planned = _planned_language(opened) if added else None
    rows = None if planned is None else planned.num_embeddings
    try:
        return Tokenizer.from_pretrained(cached_folder(Path(folder)) or folder, rows, added), ""
    except ConfigError as error:
        return WordTokenizer(), f"no tokenizer: {error.problems[0].message}"
