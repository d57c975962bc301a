"""`### Image:`, `### Instruction:` and `### Response:`, Alpaca's sections with one for media: Multimodal-GPT."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Annotated, Literal

from chatbridge.config.constraints import Range
from chatbridge.conversation.messages import Conversation, Message
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.conversation.spans import Encode, MediaSpan, Span, SpanWriter, Specials, TextSpan
from chatbridge.conversation.templates.base import TEMPLATES, Template

ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request."


@TEMPLATES.register("mmgpt")
class MMGPT(Template):
    """Alpaca's sentence, then sections. The media of a turn are in sections of their own before its instruction, at any
    place in the turn; a conversation without media has none, which is the language-only form of the reference.

    A training sequence consists of rounds, an instruction and its answer. Each begins with the token `<s>`, later ones
    inside the sequence too, and ends with `</s>`. Supervised are the answers and their `</s>`. Line breaks beside media
    have no tokens: the slow tokenizer of transformers 4.28 removed them at added tokens.

    Prompts with earlier answers are one text without `<s>` and `</s>` between rounds, as in the released demo;
    `prompt: training` repeats the training form. An answer ends at `</s>`, and is the text after the last label of a
    response, if the model wrote one (`answer: last`, as released).

    Deviations from the reference, on purpose:
    - every image of a chat is passed with its own `<image>` token (the demo wrote one for each image and passed the
      last image alone);
    - a round whose instruction leaves no room for its answer is refused if no other round is supervised (the reference
      trained on it: its loss is NaN).
    Sources: open-mmlab/Multimodal-GPT, datasets and demo; golden flamingo_data.
    """

    config: Config
    writes_bos = True
    free_settings = ("prompt", "system", "answer", "max_round_tokens")

    @dataclass(frozen=True, kw_only=True)
    class Config(Template.Config):
        system: str = ALPACA  # before the first section, unless the conversation has a system text of its own
        gap: str = "\n\n"  # before every section
        media: str = "### {modality}:\n"  # before the media of a turn; {modality} is their noun, as in "Image"
        instruction: str = "### Instruction:\n"
        later_system: str = "### System:\n"  # before a system text after the first turn
        response: str = "### Response:\n"
        # Earlier rounds of a prompt. released: one text; training: each between <s> and </s>, as they were trained
        prompt: Literal["released", "training"] = "released"
        # An answer that contains the label of a response. last: the text after its last one; whole: all of it
        answer: Literal["last", "whole"] = "last"
        # Most tokens of one round in training, <s> and </s> included; a longer one is cut, and has no </s> then. null:
        # no limit of its own
        max_round_tokens: Annotated[int | None, Range(low=1)] = 512

    strips = True  # no tokens for line breaks beside media

    @property
    def stops(self) -> tuple[str, ...]:
        return ()

    def answer_text(self, text: str) -> str:
        label = self.config.response.strip()
        return text.rpartition(label)[2] if label and self.config.answer == "last" else text

    def write(self, conversation: Conversation, out: SpanWriter, reply: bool) -> None:
        config, turns = self.config, list(enumerate(conversation))
        is_one_text = reply and config.prompt == "released"
        system = config.system
        if turns and turns[0][1].role == "system" and not turns[0][1].media:
            system = turns.pop(0)[1].text
        out.special("bos")
        out.text(system)
        gap = config.gap if system else ""
        is_answered = False
        for turn, message in turns:
            out.turn = turn
            if is_answered and not is_one_text:
                out.special("bos")
            gap = self._media_sections(message, out, gap)
            is_answered = message.role == "assistant"
            self._section(message, out, gap, supervised=message.is_supervised and not reply)
            if is_answered and not is_one_text:
                out.special("eos", supervised=message.is_supervised and not reply)
            gap = config.gap
        if reply:
            if is_answered and not is_one_text:
                out.special("bos")
            out.text(gap + config.response)

    def _media_sections(self, message: Message, out: SpanWriter, gap: str) -> str:
        """A section for each run of media of one modality; returns the gap before the next section."""
        for name, items in groupby(message.media, key=lambda item: item.modality):
            noun = MODALITIES.noun(name)
            opening = gap + self.config.media.format(modality=noun[:1].upper() + noun[1:])
            out.text(opening.rstrip() if self.strips else opening)
            for item in items:
                out.media(item)
            gap = "" if self.strips and not self.config.gap.strip() else self.config.gap
        return gap

    def _section(self, message: Message, out: SpanWriter, gap: str, supervised: bool) -> None:
        """The label and text of a turn. A turn of media alone has no instruction."""
        config = self.config
        labels = {"user": config.instruction, "assistant": config.response, "system": config.later_system}
        text = message.text.strip() if message.media else message.text
        if message.role == "user" and message.media and not text:
            return
        out.text(gap + labels[message.role])
        out.joined(text, supervised)

    def spans(
        self,
        conversation: Conversation,
        encode: Encode,
        media_lengths: Mapping[str, int],
        reply: bool = False,
        specials: Specials | None = None,
    ) -> list[Span]:
        """raises   ValueError when `max_round_tokens` leaves no room for an answer"""
        spans = super().spans(conversation, encode, media_lengths, reply, specials)
        limit = self.config.max_round_tokens
        return spans if reply or limit is None else _with_short_rounds(spans, _rounds(conversation), limit)

    def render(self, conversation: Conversation, reply: bool = False, placeholder: str = "<query>") -> str:
        shown = copy.copy(self)
        shown.strips = False
        return Template.render(shown, conversation, reply, placeholder)


def _rounds(conversation: Conversation) -> list[int]:
    """The number of the round of each turn."""
    found = [0]
    for message in conversation:
        found.append(found[-1] + (message.role == "assistant"))
    return found[:-1] or [0]


def _with_short_rounds(spans: Sequence[Span], rounds: Sequence[int], limit: int) -> list[Span]:
    """The spans of each round up to `limit` positions.

    raises   ValueError when that removes media, or everything that is supervised
    """
    found: list[Span] = []
    for _, run in groupby(spans, key=lambda span: rounds[span.turn]):
        found += _cut(list(run), limit)
    if any(_is_supervised(span) for span in spans) and not any(_is_supervised(span) for span in found):
        first = next(at for at, span in enumerate(spans) if _is_supervised(span))
        size = sum(span.length for span in spans[:first])
        raise ValueError(
            f"{size} tokens precede the first answer and max_round_tokens is {limit}: no token of the answer fits; "
            "shorten the instruction, or raise model.language.template_settings.max_round_tokens"
        )
    return found


def _cut(spans: Sequence[Span], limit: int) -> list[Span]:
    """The first `limit` positions; the last span that is left counts the removed ones."""
    kept: list[Span] = []
    for span in spans:
        room = limit - sum(one.length for one in kept)
        if span.length <= room:
            kept.append(span)
        elif isinstance(span, MediaSpan):
            raise ValueError(
                f"the media of a turn begin after position {limit - room} and max_round_tokens is {limit}: they do not "
                "fit; shorten the system text, or raise model.language.template_settings.max_round_tokens"
            )
        elif isinstance(span, TextSpan) and room:
            kept.append(replace(span, ids=span.ids[:room]))
    removed = sum(span.length for span in spans) - sum(span.length for span in kept)
    last = kept[-1] if kept else None
    return [*kept[:-1], replace(last, cut=last.cut + removed)] if isinstance(last, TextSpan) and removed else kept


def _is_supervised(span: Span) -> bool:
    return isinstance(span, TextSpan) and span.supervised and bool(span.ids)
