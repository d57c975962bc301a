"""What the templates of ChatBind share: marks around media, prompts of the 17 formats, the switch for label masks."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from chatbridge.common.errors import ConfigError, Problem
from chatbridge.conversation.messages import Conversation, Message, media_parts
from chatbridge.conversation.spans import Encode, Span, SpanWriter, Specials, TextSpan
from chatbridge.conversation.templates._chatbind_formats import FORMATS, Format, FormatName
from chatbridge.conversation.templates._chatbind_fragments import END, EOS, START, Fragments, Ids, relabelled
from chatbridge.conversation.templates.base import Template

MPT_TOKENS = ("<|im_start|>", "<|im_end|>")
ENDINGS = {"audio": "_audio", "video": "_video"}  # of the formats for conversations about one modality
ADDED = ("<im_patch>", START, END)


class ChatbindTemplate(Template):
    """A format whose training text is tokenised as one string, and whose prompts are those of ChatBind's command line.

    Text and answers are tokenised together, as in the reference: `<im_start>`, `<im_end>` and `</s>` are tokens
    between them. Blanks and line breaks beside the marks are removed in training (the slow tokenizer of transformers
    4.28 did so) and kept in prompts (the command line used the fast one), unless `prompt_whitespace` says otherwise.
    """

    config: Config
    free_settings = ("prompt", "system", "prompt_whitespace", "media_after_text", "add_generation_prompt", "labels")
    automatic = "multimodal"  # the format of `prompt: auto`

    @dataclass(frozen=True, kw_only=True)
    class Config(Template.Config):
        # Which tokens of a training sequence are supervised. corrected: each answer and what ends it. released: what
        # the reference supervises, with its faults, for comparisons
        labels: Literal["corrected", "released"] = "corrected"
        start_end_tokens: bool = True  # <im_start> and <im_end> around every media item
        # Format of prompts. auto: that of the released command for the media of the conversation; training: the format
        # of training sequences; otherwise one of the reference's 17 formats
        prompt: Literal["auto", "training"] | FormatName = "auto"
        system: str | None = None  # system text of prompts; null: that of the format
        # Blanks and line breaks beside media in prompts. kept: as in the released command; stripped: as in training
        prompt_whitespace: Literal["kept", "stripped"] = "kept"
        media_after_text: bool = (
            True  # in prompts, media before the text of a turn follow it, as in the released command
        )
        add_generation_prompt: bool = (
            True  # prompts end with the label of the assistant; false: the model writes it (evaluation)
        )

    def __init__(self, config: Any):
        super().__init__(config)
        self._ids: Ids = {}  # special token -> its id, once bound
        self._unknown: int | None = None  # the id of unknown text
        self._has_prefix = False  # the tokenizer puts a blank before every text (SentencePiece)

    def bound(self, tokenizer: Any) -> ChatbindTemplate:
        """raises ConfigError when the tokenizer lacks the marks"""
        find = getattr(tokenizer, "token_id", lambda token: None)
        found = {name: find(name) for name in (START, END, *MPT_TOKENS)}
        if self.config.start_end_tokens and (lost := [name for name in (START, END) if found[name] is None]):
            message = f"puts {' and '.join(lost)} around media, which the tokenizer does not have"
            hint = f"set model.added_tokens: {list(ADDED)}, or template_settings.start_end_tokens: false"
            raise ConfigError([Problem("template", message, hint=hint)])
        ready = copy.copy(self)
        found[EOS] = tokenizer.eos_id
        ready._ids = {name: number for name, number in found.items() if number is not None}
        if (inner := getattr(tokenizer, "inner", None)) is not None:
            first = inner.convert_ids_to_tokens(list(tokenizer.encode("a"))[:1])
            ready._has_prefix = bool(first) and first[0].startswith("▁")
            ready._unknown = inner.unk_token_id
        return ready

    @property
    def stops(self) -> tuple[str, ...]:
        ends = self._format(()).after_reply
        return () if ends in self._ids or ends == EOS else (ends,)

    @property
    def stop_ids(self) -> tuple[tuple[int, ...], ...]:
        number = self._ids.get(self._format(()).after_reply)
        return () if number is None else ((number,),)

    @abstractmethod
    def _write_training(self, conversation: Conversation, fragments: Fragments, reply: bool) -> None:
        """Write a training sequence; with `reply`, its beginning up to the label of the assistant."""

    @abstractmethod
    def _released_flags(
        self, conversation: Conversation, spans: list[Span], encode: Encode, lengths: Mapping[str, int]
    ) -> list[bool]:
        """Whether the reference supervises each position. raises ValueError when it supervises none"""

    def write(self, conversation: Conversation, out: SpanWriter, reply: bool) -> None:
        fragments = self._fragments()
        is_training = not reply or self.config.prompt == "training"
        (self._write_training if is_training else self._write_prompt)(conversation, fragments, reply)
        fragments.write(out, is_training or self.config.prompt_whitespace == "stripped", self._has_prefix)

    def spans(
        self,
        conversation: Conversation,
        encode: Encode,
        media_lengths: Mapping[str, int],
        reply: bool = False,
        specials: Specials | None = None,
    ) -> list[Span]:
        spans = super().spans(conversation, encode, media_lengths, reply, specials)
        if reply or self.config.labels == "corrected" or _is_preview(spans):
            return spans
        return relabelled(spans, self._released_flags(conversation, spans, encode, media_lengths))

    def render(self, conversation: Conversation, reply: bool = False, placeholder: str = "<query>") -> str:
        shown = copy.copy(self)
        shown._ids = {name: name for name in (EOS, START, END, *MPT_TOKENS)}  # names instead of numbers
        return super(ChatbindTemplate, shown).render(conversation, reply, placeholder)

    def _fragments(self) -> Fragments:
        return Fragments(self._ids, self.config.start_end_tokens)

    def _format(self, conversation: Conversation) -> Format:
        """The format of a prompt: for audio or video alone, `auto` takes the one that names it."""
        name = self.config.prompt
        if name not in ("auto", "training"):
            return FORMATS[name]
        kinds = {item.modality for item in media_parts(conversation)}
        ending = ENDINGS.get(next(iter(kinds)), "") if len(kinds) == 1 else ""
        return FORMATS[self.automatic + ending]

    def _write_prompt(self, conversation: Conversation, fragments: Fragments, reply: bool) -> None:
        form = self._format(conversation)
        own, turns = split_system(conversation)
        self._write_system(form, self.config.system if own is None else own, fragments)
        for number, words in enumerate(form.seeds):
            user = number % 2 == 0
            label, end = (form.user, form.after_user) if user else (form.assistant, form.after_reply)
            fragments.strings(label + form.after_role + words + end)
        for turn, message in turns:
            fragments.turn = turn
            is_answer = message.role == "assistant"
            fragments.strings(form.role(message.role) + form.after_role)
            fragments.parts(message, False, self.config.media_after_text and not is_answer, gap="\n")
            fragments.strings(form.after_reply if is_answer else form.after_user)
        if self.config.add_generation_prompt:
            fragments.strings(form.opening)

    @staticmethod
    def _write_system(form: Format, own: str | None, fragments: Fragments) -> None:
        """The system text of the format, or one that replaces it."""
        fragments.strings(form.system_opening if own is not None else form.system)
        fragments.text(own or "")
        fragments.strings(form.after_user)


def split_system(conversation: Conversation) -> tuple[str | None, list[tuple[int, Message]]]:
    """The text of a leading system message, None without one; and the other messages with their numbers."""
    turns = list(enumerate(conversation))
    if turns and turns[0][1].role == "system" and not turns[0][1].media:
        return turns[0][1].text, turns[1:]
    return None, turns


def _is_preview(spans: list[Span]) -> bool:
    """Whether the spans have text in place of ids."""
    return any(isinstance(one, str) for span in spans if isinstance(span, TextSpan) for one in span.ids)
