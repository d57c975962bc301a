"""The text, tokens and media of a ChatBind sequence in order, with the blanks its slow tokenizer removed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from chatbridge.conversation.messages import Media, Message, Text
from chatbridge.conversation.spans import Span, SpanWriter, TextSpan
from chatbridge.conversation.templates._chatbind_formats import EOS

START, END = "<im_start>", "<im_end>"
Ids = Mapping[str, Any]  # name of a special token -> its id; in previews its name


@dataclass(frozen=True)
class Fragment:
    """Text, a media item, or a special token by its name."""

    words: str = ""
    supervised: bool = False
    turn: int = 0
    media: Media | None = None
    token: str | None = None

    @property
    def is_text(self) -> bool:
        return self.media is None and self.token is None

    @property
    def strips(self) -> bool:
        """Whether the slow tokenizer of transformers 4.28 removed blanks and line breaks beside it: it did so at added
        tokens, and not at `</s>`."""
        return self.media is not None or self.token in (START, END)


class Fragments:
    """Collects fragments; `write` gives them to a SpanWriter.

    ids         special tokens; one that is not among them is written as text
    has_marks   media are between <im_start> and <im_end>
    """

    def __init__(self, ids: Ids, has_marks: bool) -> None:
        self.turn = 0
        self._ids = ids
        self._has_marks = has_marks
        self._fragments: list[Fragment] = []

    def text(self, words: str, supervised: bool = False) -> None:
        """Text as it is, special tokens in it too: for the text of messages."""
        if words:
            self._fragments.append(Fragment(words, supervised, self.turn))

    def strings(self, words: str, supervised: bool = False) -> None:
        """Text of the format, in which the names of special tokens are these tokens."""
        name = next((name for name in self._ids if name in words), None)
        if name is None:
            self.text(words, supervised)
            return
        before, _, after = words.partition(name)
        self.strings(before, supervised)
        self._fragments.append(Fragment(name, supervised, self.turn, token=name))
        self.strings(after, supervised)

    def media(self, item: Media) -> None:
        marks = (Fragment(START, turn=self.turn, token=START), Fragment(END, turn=self.turn, token=END))
        inside = Fragment(turn=self.turn, media=item)
        self._fragments += [marks[0], inside, marks[1]] if self._has_marks else [inside]

    def parts(self, message: Message, supervised: bool, after_text: bool = False, gap: str = "") -> None:
        """The text and media of a message in their order.

        after_text   media before the first text follow the last one
        gap          between text that does not end with it and media, and between media and text without a blank there
        """
        parts = [part for part in message.parts if isinstance(part, (Text, Media))]
        first = next((at for at, part in enumerate(parts) if isinstance(part, Text) and part.text), 0)
        if after_text and all(isinstance(part, Text) for part in parts[first:]):
            parts = [*parts[first:], *parts[:first]]
        before: Text | Media | None = None
        for part in parts:
            if isinstance(part, Media):
                if isinstance(before, Text) and not before.text.endswith(gap):
                    self.text(gap)
                self.media(part)
            elif part.text:
                if isinstance(before, Media) and not part.text[0].isspace():
                    self.text(gap)
                self.text(part.text, supervised)
            before = part if isinstance(part, Media) or part.text else before

    def write(self, out: SpanWriter, strips: bool, has_prefix: bool = False) -> None:
        """strips       remove blanks and line breaks beside marks and media
        has_prefix   the tokenizer puts a blank before every text, which is the first one of the text where it has some
        """
        for fragment in _stripped(self._fragments) if strips else _without_prefix(self._fragments, has_prefix):
            out.turn = fragment.turn
            if fragment.media is not None:
                out.media(fragment.media)
            elif fragment.token is not None and (number := self._ids.get(fragment.token)) is not None:
                out.token(number, fragment.supervised)
            else:
                out.joined(fragment.words, fragment.supervised)


def _stripped(fragments: Sequence[Fragment]) -> list[Fragment]:
    """The fragments without blanks beside those that strip."""
    found = list(fragments)
    for at, fragment in enumerate(found):
        if fragment.strips:
            _strip(found, range(at - 1, -1, -1), str.rstrip)
            _strip(found, range(at + 1, len(found)), str.lstrip)
    return [fragment for fragment in found if fragment.words or not fragment.is_text]


def _without_prefix(fragments: Sequence[Fragment], has_prefix: bool) -> list[Fragment]:
    """The fragments without the blank that begins a text after a token or media, if the tokenizer writes it."""
    starts = (not before.is_text for before in fragments)
    return [fragments[0]] * bool(fragments) + [
        replace(fragment, words=fragment.words.removeprefix(" ")) if is_start and has_prefix else fragment
        for is_start, fragment in zip(starts, fragments[1:], strict=False)
    ]


def _strip(fragments: list[Fragment], indices: range, strip: Callable[[str], str]) -> None:
    """Strip the texts at `indices` until one is left or other fragments begin."""
    for at in indices:
        if not fragments[at].is_text:
            return
        fragments[at] = replace(fragments[at], words=strip(fragments[at].words))
        if fragments[at].words:
            return


def size_of(fragments: Fragments, out: SpanWriter) -> int:
    """Number of positions of fragments by themselves."""
    fragments.write(out, strips=True)
    return sum(span.length for span in out.spans())


def relabelled(spans: Sequence[Span], flags: Sequence[bool]) -> list[Span]:
    """The spans with the supervision of `flags`, one for each position; media are never supervised."""
    found: list[Span] = []
    start = 0
    for span in spans:
        own = flags[start : start + span.length]
        start += span.length
        if not isinstance(span, TextSpan) or not span.ids:
            found.append(span)
            continue
        first = 0
        for at in range(1, len(own) + 1):
            if at == len(own) or own[at] != own[first]:
                found.append(replace(span, ids=span.ids[first:at], supervised=own[first]))
                first = at
    return found


__all__ = ["END", "EOS", "START", "Ids", "Fragments", "relabelled", "size_of"]
