"""`<s>[INST] ... [/INST] ... </s>`, Llama-2's chat: both sides show images, and the assistant draws (TextBind)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, Literal

from chatbridge.common.errors import ConfigError, Problem, nearest
from chatbridge.conversation.fitting import Limit
from chatbridge.conversation.messages import Conversation, Drawing, Media, Message, Text
from chatbridge.conversation.spans import Encode, Span, SpanWriter, Specials
from chatbridge.conversation.templates._text_pieces import Pieces
from chatbridge.conversation.templates._textbind_cut import cut_as_released
from chatbridge.conversation.templates.base import TEMPLATES, SideTexts, Template

ADDED = "model.added_tokens"


@TEMPLATES.register("textbind")
class TextBind(Template):
    """Rounds of Llama-2's chat format; each begins with `<s>`, and an answer ends with a blank and `</s>`.

    An image has the token `<image>` in all of its slots, in turns of both sides. An image that the assistant draws is
    in the base like any other; its caption is a side text that starts at the first slot: `<start>` caption `<end>`. The
    token before the image learns to write `<start>`, the last slot to write the text that follows.

    A system turn is written inside the next turn of the user, with its media; several of them share one block. A turn
    of the user that follows another one continues it on a new line. A drawing without an image in a prompt is `<start>`
    caption `<end>` in the base, as it was generated.

    Text that reads like a token of the format ("<start>", "</s>", "[INST]") stays text.

    Deviation from the reference, on purpose: answers of the history do not keep the `</s>` of their generation, which
    the reference repeated (`</s></s>`).
    Sources: SihengLi99/TextBind, data_utils.py and model; goldens textbind_*; arXiv 2309.08637.
    """

    config: Config
    can_draw = True
    writes_bos = True
    free_settings = ("system", "side_texts", "truncation")  # the other two only change training

    @dataclass(frozen=True, kw_only=True)
    class Config(Template.Config):
        image: str = "<image>"  # token in the slots of an image; one of model.added_tokens, or of the tokenizer
        start: str = "<start>"  # token before the caption of a drawing
        end: str = "<end>"  # token after it
        system: str = ""  # system text of conversations that have none of their own; empty: none
        # White space (line breaks too) beside these three tokens. stripped: left out, as the released weights were
        # trained (slow tokenizer of transformers 4.31); kept: tokenized, as by later versions
        token_space: Literal["stripped", "kept"] = "stripped"

        # What a caption sees of the captions before it. isolated: nothing, as when an answer is generated;
        # cumulative: all of them, as the released weights were trained
        side_texts: SideTexts = "isolated"

        # A training sequence that is too long. whole: turns are dropped from its end, and an image is kept with its
        # caption or not at all; released: it is cut at the limit, captions count as its end, and an image that begins
        # before the limit or at it is completed beyond it, as the released weights were trained
        truncation: Literal["whole", "released"] = "whole"

        def problems(self) -> list[Problem]:
            names = [self.image, self.start, self.end]
            if len(set(names)) == len(names):
                return []
            return [Problem("end", f"image, start and end need three different tokens, got {', '.join(names)}")]

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.marks: Any = (config.start, config.end)  # as text until a tokenizer gives their ids
        self.image_id: int | None = None

    @classmethod
    def needed_tokens(cls, config: Any) -> tuple[str, ...]:
        return (config.image, config.start, config.end)

    @property
    def stops(self) -> tuple[str, ...]:
        return ()

    @property
    def side_texts(self) -> SideTexts:
        return self.config.side_texts

    @property
    def may_exceed_limit(self) -> bool:
        return self.config.truncation == "released"

    def fit(self, spans: Sequence[Span], limit: Limit) -> Sequence[Span]:
        return cut_as_released(spans, limit) if self.config.truncation == "released" else super().fit(spans, limit)

    @property
    def drawing_ids(self) -> tuple[int, int]:
        return self.marks

    @property
    def slot_ids(self) -> Mapping[str, int]:
        return {} if self.image_id is None else {"image": self.image_id}

    def bound(self, tokenizer: Any) -> Template:
        """raises   ConfigError for a token that the tokenizer lacks, or that a text can become"""
        found = copy(self)
        found.image_id, *marks = token_ids(tokenizer, self.needed_tokens(self.config))
        found.marks = tuple(marks)
        return found

    def spans(
        self,
        conversation: Conversation,
        encode: Encode,
        media_lengths: Mapping[str, int],
        reply: bool = False,
        specials: Specials | None = None,
    ) -> list[Span]:
        """raises   ValueError for a drawing of the user, or one without a caption in training"""
        for number, message in enumerate(conversation):
            _check_drawings(number, message, in_training=not reply)
        return super().spans(conversation, encode, media_lengths, reply, specials)

    def write(self, conversation: Conversation, out: SpanWriter, reply: bool) -> None:
        turns = list(enumerate(conversation))
        if self.config.system and not any(message.role == "system" for message in conversation):
            turns.insert(0, (0, Message("system", (Text(self.config.system),))))
        asked: list[tuple[int, Message]] = []  # system turns and turns of the user since the last answer
        for turn, message in turns:
            if message.role != "assistant":
                asked.append((turn, message))
                continue
            if asked:
                self._question(asked, out)
            out.turn = turn
            if not asked:
                out.special("bos")
            asked = []
            self._answer(message, out)
        if asked or reply:
            self._question(asked, out)

    def _question(self, asked: Sequence[tuple[int, Message]], out: SpanWriter) -> None:
        """`<s>[INST] ... [/INST]` of system turns and turns of the user."""
        pieces, before = Pieces(self.config.token_space == "stripped"), "start"
        for turn, message in asked:
            pieces.turn = turn
            pieces.text(BETWEEN[before, message.role])
            for part in message.parts:
                if isinstance(part, Text):
                    pieces.text(part.text, message.is_supervised)
                else:
                    pieces.item(part)
            before = message.role
        pieces.text(BETWEEN[before, "end"])
        pieces.strip()
        pieces.enclose("[INST] ", " [/INST]")
        out.turn = asked[0][0] if asked else out.turn + 1
        out.special("bos")
        for segment in pieces.segments():
            for part in segment:
                out.turn = part.turn
                if isinstance(part.content, Media):
                    out.media(part.content)
                elif isinstance(part.content, str):
                    out.joined(part.content, part.supervised)

    def _answer(self, message: Message, out: SpanWriter) -> None:
        """The parts of an answer, then a blank and `</s>`."""
        pieces, supervised = Pieces(self.config.token_space == "stripped"), message.is_supervised
        for part in message.parts:
            if isinstance(part, Text):
                pieces.text(part.text, supervised)
            else:
                pieces.item(part)
        pieces.strip()
        pieces.enclose("", " ")
        for segment in pieces.segments():
            content = segment[0].content
            if isinstance(content, Drawing):
                drawn = replace(content, caption=content.caption.strip())
                out.drawing(drawn, supervised, self.marks[:1], self.marks[1:])
            elif isinstance(content, Media):
                out.media(content)
            else:
                out.answer("".join(str(piece.content) for piece in segment), supervised)
        out.special("eos", supervised)


BETWEEN = {
    ("start", "system"): "<<SYS>>\n",
    ("start", "user"): "",
    ("start", "end"): "",
    ("system", "system"): "\n",
    ("system", "user"): "\n<</SYS>>\n\n",
    ("system", "end"): "\n<</SYS>>\n\n",
    ("user", "system"): "\n<<SYS>>\n",
    ("user", "user"): "\n",
    ("user", "end"): "",
}  # the text between two turns before an answer


def token_ids(tokenizer: Any, names: Sequence[str]) -> list[int]:
    """The ids of the tokens of the format.

    raises   ConfigError for those that the tokenizer lacks, or that a text can become
    """
    ids = [tokenizer.token_id(name) for name in names]
    written = set(tokenizer.written_ids().values()) if hasattr(tokenizer, "written_ids") else set()
    lost = [name for name, number in zip(names, ids, strict=True) if number is None or number in written]
    if not lost:
        return ids
    added = tuple(getattr(tokenizer, "added", ()))
    listed = ", ".join([*added, *(name for name in lost if name not in added)])
    message = f"lacks {', '.join(lost)}: the template textbind writes images and captions with these tokens"
    hint = f"set {ADDED}: [{listed}], in this order for released weights"
    raise ConfigError([Problem(ADDED, message, hint=hint, nearest=nearest(lost[0], added))])


def _check_drawings(number: int, message: Message, in_training: bool) -> None:
    """raises ValueError for a drawing outside an answer, or without a caption where it is supervised"""
    for part in message.parts:
        if not isinstance(part, Drawing):
            continue
        if message.role != "assistant":
            raise ValueError(
                f"message {number}: the drawing {part.caption!r} is in a turn of the {message.role}, and only the "
                "assistant draws; give its image as an image"
            )
        if in_training and not part.caption.strip():
            raise ValueError(
                f"message {number}: a drawing has no caption, which training supervises; give the text that the image "
                "is drawn from, or give the image without a drawing"
            )
