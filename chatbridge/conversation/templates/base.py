"""The contract of a template."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from chatbridge.config.registry import Registry
from chatbridge.conversation.fitting import Limit, fit
from chatbridge.conversation.messages import Conversation, Drawing, Media, Message, Text, media_parts
from chatbridge.conversation.spans import Encode, MediaSpan, Span, SpanWriter, Specials

SideTexts = Literal["isolated", "cumulative"]


class Template(ABC):
    """Writes a conversation as spans, from roles and typed parts, never from markers inside a string.

    A template accepts any number of typed parts in any turn: system messages, turns of media only, empty text. User
    text that happens to read "<query>", "<image>" or "###" is text.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The strings of the format."""

    can_draw = False  # writes a Drawing (SpanWriter.drawing), with side texts; it then has `drawing_ids` too
    writes_side_texts = False  # BranchSpan: the language model must be able to keep them apart from the base
    free_settings: tuple[str, ...] = ()  # may differ from those of the training: an evaluation's own choice counts
    writes_bos = False  # its spans begin with the beginning-of-sequence token, if there is one; else the layout adds it

    def __init__(self, config: Any):
        self.config = config

    @classmethod
    def needed_tokens(cls, config: Any) -> tuple[str, ...]:
        """Tokens that the format writes beside those of texts; the model or its tokenizer must have them."""
        return ()

    @property
    @abstractmethod
    def stops(self) -> tuple[str, ...]:
        """Strings that end a generated answer."""

    @property
    def stop_ids(self) -> tuple[tuple[int, ...], ...]:
        """Ids that end a generated answer, beside those of the stop strings."""
        return ()

    @property
    def drawing_ids(self) -> tuple[int, int] | None:
        """Tokens that open and close the caption of a drawing in an answer; None for a template that cannot draw."""
        return None

    @property
    def slot_ids(self) -> Mapping[str, int]:
        """Modality -> the id in its slots, for a template that is bound to a tokenizer and has a token for them."""
        return {}

    @property
    def side_texts(self) -> SideTexts:
        """What a side text sees of those before it. isolated: nothing; cumulative: all of them."""
        return "isolated"

    @property
    def may_exceed_limit(self) -> bool:
        """Whether `fit` may leave more positions than the limit."""
        return False

    def fit(self, spans: Sequence[Span], limit: Limit) -> Sequence[Span]:
        """The spans of a training sequence that is cut to a limit. raises ValueError when nothing supervised fits"""
        return fit(spans, limit)

    def answer_text(self, text: str) -> str:
        """The answer in generated text: all of it, unless what precedes a label of the format does not count."""
        return text

    def bound(self, tokenizer: Any) -> Template:
        """This template for one tokenizer; only templates whose strings come from the tokenizer differ."""
        return self

    @abstractmethod
    def write(self, conversation: Conversation, out: SpanWriter, reply: bool) -> None:
        """Write every message in order; with `reply`, open the assistant's turn at the end."""

    def spans(
        self,
        conversation: Conversation,
        encode: Encode,
        media_lengths: Mapping[str, int],
        reply: bool = False,
        specials: Specials | None = None,
    ) -> list[Span]:
        """The spans of a conversation, in order.

        raises   ValueError for media without a route, or a drawing that this template cannot write
        """
        if not self.can_draw and any(isinstance(part, Drawing) for message in conversation for part in message.parts):
            raise ValueError(f"the template {type(self).__name__} cannot write a drawing; choose one that can draw")
        out = SpanWriter(encode, media_lengths, specials)
        self.write(conversation, out, reply)
        return out.spans()

    def render(self, conversation: Conversation, reply: bool = False, placeholder: str = "<query>") -> str:
        """The whole text with a mark for each media item: for previews, reports and goldens, never for models."""
        lengths = {item.modality: 1 for item in media_parts(conversation)}
        specials: Any = {"bos": "<s>", "eos": "</s>"}
        spans = self.spans(conversation, _one_word, lengths, reply, specials)
        return "".join(placeholder if isinstance(span, MediaSpan) else "".join(map(str, span.ids)) for span in spans)

    def write_answer(
        self,
        message: Message,
        out: SpanWriter,
        before: str = "",
        after: str = "",
        max_tokens: int | None = None,
        end: str = "",
    ) -> None:
        """The text of one message as segments of their own, divided only by media items."""
        words = before
        for part in message.parts:
            if isinstance(part, Media):
                out.answer(words, message.is_supervised, max_tokens)
                out.media(part)
                words = ""
            elif isinstance(part, Text):
                words += part.text
        out.answer(words + after, message.is_supervised, max_tokens, end)


TEMPLATES: Registry[Template] = Registry("template", "chatbridge.conversation.templates")


def build_template(name: str, **options: Any) -> Template:
    """The registered template of that name; `options` replace strings of its Config."""
    kind: Any = TEMPLATES.get(name)
    return kind(kind.Config(**options))


def _one_word(words: str) -> list[Any]:
    return [words]
