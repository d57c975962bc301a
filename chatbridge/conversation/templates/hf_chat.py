"""The chat template of a tokenizer (jinja): Llama 3, Qwen, Gemma, Mistral and others."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from chatbridge.common.errors import ConfigError, Problem
from chatbridge.conversation.answer_parts import trimmed
from chatbridge.conversation.messages import Conversation, Media, Message, Part, Text
from chatbridge.conversation.spans import SpanWriter
from chatbridge.conversation.templates.base import TEMPLATES, Template

MARK = "\ue000{}\ue001"  # replaces the text of message {} while the template runs
MARKED = re.compile("\ue000(\\d+)\ue001")
Roles = tuple[str, ...]


@dataclass(frozen=True)
class TemplateStrings:
    """The strings of a template around messages with given roles.

    texts    the strings between the texts of messages: texts[k] precedes that of message k
    trimmed  per message: whether the template drops blanks at both ends of its text
    """

    texts: tuple[str, ...]
    trimmed: tuple[bool, ...]


@TEMPLATES.register("hf_chat")
class HFChat(Template):
    """Roles and strings of the tokenizer's own template, text and media of the conversation.

    The template runs on marks, never on the text of messages, which is then inserted between the strings around the
    marks: text that reads like "<|im_end|>" stays text, and supervision follows from the role alone: the text of an
    answer and the token (or string) that ends it. Special tokens in the template's strings become their ids. Media keep
    their position within the message text.

    A system message is put before the first question where the template accepts none (Gemma). A thought
    ("<think> ... </think>") inside an earlier answer stays there: the template never sees it.
    """

    config: Config
    writes_bos = True

    @dataclass(frozen=True, kw_only=True)
    class Config(Template.Config):
        chat_template: str | None = None  # jinja; null: the one of the tokenizer

    def __init__(self, config: HFChat.Config):
        super().__init__(config)
        self._tokenizer: Any = None  # this and the following are known once it is bound
        self._ids: dict[str, Any] = {}  # special token -> id
        self._special = re.compile("(?!)")  # finds them in strings of the template
        self._end = ""  # the string that ends an answer
        self._blank = ""  # a blank of the template before an answer, as it is supervised
        self._is_prefixed = False  # the tokenizer puts a blank before every segment
        self._moves_blank = False  # that blank is part of the answer, because no prompt ends with it

    def bound(self, tokenizer: Any) -> HFChat:
        """raises ConfigError when the tokenizer has no chat template, or one that cannot be followed"""
        inner = getattr(tokenizer, "inner", tokenizer)
        if not (self.config.chat_template or getattr(inner, "chat_template", None)):
            hint = "choose another template, or add chat_template.jinja to the tokenizer's folder"
            raise ConfigError([Problem("template", "is hf_chat, but the tokenizer has no chat template", hint=hint)])
        ready = copy.copy(self)
        ready._tokenizer = inner
        ready._ids = _special_ids(inner)
        ready._special = re.compile("|".join(map(re.escape, sorted(ready._ids, key=len, reverse=True))) or "(?!)")
        try:
            ready._find_ends(tokenizer)
        except ValueError as error:
            raise ConfigError(
                [Problem("template", f"the tokenizer's chat template cannot be followed: {error}")]
            ) from None
        return ready

    def _find_ends(self, tokenizer: Any) -> None:
        """What ends an answer: the template's string after it, up to and including its first special token."""
        after = self.strings_around(("user", "assistant"), False).texts[-1]
        found = self._special.search(after)
        self._end = after[: found.end()] if found else after.rstrip() or after
        opening = self.strings_around(("user",), True).texts[-1]
        glued = not opening.endswith(" ")  # then the blank before an answer is the first token of the model
        first = self._tokenizer.convert_ids_to_tokens(list(tokenizer.encode("a"))[:1])
        prefixed = bool(first) and first[0].startswith("▁")  # SentencePiece puts this blank there by itself
        self._is_prefixed = prefixed
        self._blank = "" if not glued or prefixed else " "
        self._moves_blank = glued

    @property
    def stops(self) -> tuple[str, ...]:
        """Empty where a special token ends the answer: see stop_ids."""
        words = self._special.sub("", self._end).strip()
        return () if self._special.search(self._end) or not words else (words,)

    @property
    def stop_ids(self) -> tuple[tuple[int, ...], ...]:
        found = self._special.search(self._end)
        return ((self._ids[found.group()],),) if found else ()

    def write(self, conversation: Conversation, out: SpanWriter, reply: bool) -> None:
        strings = self.strings_around(tuple(message.role for message in conversation), reply)
        end = ""  # of the answer before
        for turn, message in enumerate(conversation):
            out.turn = turn
            opening = strings.texts[turn].removeprefix(end)
            parts = trimmed(message.parts) if strings.trimmed[turn] else message.parts
            end = ""
            if message.role != "assistant":
                self._write_strings(opening, out)
                self._write_words(parts, message, out)
                continue
            before = self._blank if self._moves_blank and opening.endswith(" ") else ""
            self._write_strings(opening.removesuffix(" ") if self._moves_blank else opening, out)
            self._write_answer(parts, before, message, out)
            if strings.texts[turn + 1].startswith(self._end):
                end = self._end
                self._write_strings(end, out, message.is_supervised)
        rest = strings.texts[-1].removeprefix(end)
        self._write_strings(rest if reply else "", out)  # text after the last answer is never supervised

    def _write_strings(self, strings: str, out: SpanWriter, supervised: bool = False) -> None:
        """Strings of the template, its special tokens as ids."""
        start = 0
        for found in self._special.finditer(strings):
            out.words(strings[start : found.start()], supervised)
            out.token(self._ids[found.group()], supervised)
            start = found.end()
        out.words(strings[start:], supervised)

    def _write_words(self, parts: Sequence[Part], message: Message, out: SpanWriter) -> None:
        """Texts on both sides of media keep a blank between them, where the tokenizer does not add one itself."""
        before, after_media = "", False
        for part in parts:
            if isinstance(part, Media):
                out.media(part)
                after_media = True
            elif isinstance(part, Text) and part.text:
                is_glued = after_media and before[-1:].isalnum() and part.text[0].isalnum()
                out.words(f" {part.text}" if is_glued and not self._is_prefixed else part.text, message.is_supervised)
                before, after_media = part.text, False

    def _write_answer(self, parts: Sequence[Part], before: str, message: Message, out: SpanWriter) -> None:
        message = Message(message.role, tuple(parts), message.supervised)
        self.write_answer(message, out, before=before)

    def strings_around(self, roles: Roles, reply: bool) -> TemplateStrings:
        """The strings around messages of these roles.

        raises   ValueError with the template's own reason for roles that it does not accept
        """
        if self._tokenizer is None:
            raise ValueError("hf_chat has no tokenizer yet; a Layout binds one, or call bound(tokenizer)")
        return _strings_around(_ChatTemplate(self._tokenizer, self.config.chat_template), roles, reply)

    def render(self, conversation: Conversation, reply: bool = False, placeholder: str = "<query>") -> str:
        shown = copy.copy(self)
        shown._ids = {token: token for token in self._ids}  # names instead of numbers
        return Template.render(shown, conversation, reply, placeholder)


@dataclass(frozen=True, eq=False)
class _ChatTemplate:
    """A tokenizer's template. Equal when the template text is equal, so results are cached."""

    tokenizer: Any
    chat_template: str | None

    @property
    def _key(self) -> tuple[Any, ...]:
        return str(self.chat_template or self.tokenizer.chat_template), id(self.tokenizer)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ChatTemplate) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __call__(self, messages: list[dict[str, str]], reply: bool) -> str:
        """raises ValueError with the reason of the template"""
        from jinja2 import TemplateError

        extra = {"chat_template": self.chat_template} if self.chat_template else {}
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=reply, **extra)
        except TemplateError as error:
            raise ValueError(f"the chat template refuses the messages: {error}") from None


@lru_cache(maxsize=4096)
def _strings_around(template: _ChatTemplate, roles: Roles, reply: bool) -> TemplateStrings:
    padded = [f" {MARK.format(turn)} " for turn in range(len(roles))]
    text = _rendered(template, roles, padded, reply)
    marks = [int(found.group(1)) for found in MARKED.finditer(text)]
    if marks != list(range(len(roles))):
        raise ValueError(f"the chat template leaves messages out, repeats or reorders them (roles {', '.join(roles)})")
    kept = tuple(f" {MARK.format(turn)} " in text for turn in range(len(roles)))
    for turn, is_kept in enumerate(kept):
        if is_kept:
            text = text.replace(padded[turn], MARK.format(turn))
    return TemplateStrings(tuple(MARKED.split(text)[::2]), tuple(not one for one in kept))


def _rendered(template: _ChatTemplate, roles: Roles, texts: Sequence[str], reply: bool) -> str:
    """The whole text. A system message is joined with the first question where the template accepts none."""
    messages = [{"role": role, "content": content} for role, content in zip(roles, texts, strict=True)]
    try:
        return template(messages, reply)
    except ValueError:
        if roles[:2] != ("system", "user"):
            raise
    both = {"role": "user", "content": f"{texts[0].strip()}\n\n{texts[1].strip()}"}
    return template([both, *messages[2:]], reply)


def _special_ids(tokenizer: Any) -> dict[str, Any]:
    """Every added or special token by its text."""
    ids = dict(tokenizer.get_added_vocab())
    named: Iterator[str] = (token for token in tokenizer.all_special_tokens if token not in ids)
    return ids | {token: tokenizer.convert_tokens_to_ids(token) for token in named}
