"""The spans that a template writes: a flat list in reading order, each text segment as ids.

A span has the turn it belongs to, so a sequence that is too long can end at a turn, and whether it is supervised, so
labels never come from a search in a string.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chatbridge.common.errors import nearest
from chatbridge.conversation.messages import Drawing, Media

Encode = Callable[[str], Sequence[int]]  # text -> ids without special tokens, "" -> nothing
Specials = Mapping[str, int | None]  # "bos", "eos", an added token -> its id; None: it has none. Text never becomes one


@dataclass(frozen=True)
class TextSpan:
    """Ids of one text segment. `cut` counts the ids that a limit of the template removed after it."""

    ids: tuple[int, ...]
    supervised: bool
    turn: int = 0
    cut: int = 0

    @property
    def length(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class MediaSpan:
    """`length` positions for the k-th (`slot`) media item of the conversation in reading order. Never supervised."""

    modality: str
    slot: int
    length: int
    turn: int = 0


@dataclass(frozen=True)
class BranchSpan:
    """A side text, such as the caption of an image that the assistant draws.

    It starts at its anchor, which is where it is written: it sees the text before it and itself, its positions count on
    from there, and no token after it sees it. The tokens after it continue the text before it, as if it were absent.

    slot   the media item that it is the caption of, which follows it; None: it is not a caption
    kept   ids that a limit of the template left; None: all. Its first id is predicted even when none is left
    """

    ids: tuple[int, ...]
    supervised: bool
    turn: int = 0
    slot: int | None = None
    kept: int | None = None

    @property
    def length(self) -> int:
        return len(self.ids) if self.kept is None else self.kept


Span = TextSpan | MediaSpan | BranchSpan


class SpanWriter:
    """Collects the spans of a template.

    Text written with `text` is joined until a media item or an answer ends the segment: every segment is tokenised on
    its own, so the borders of segments are part of the format. `answer` is always a segment of its own, supervised or
    not, so that a past answer in a prompt has the ids it had in training. `joined` is for formats that tokenise an
    answer together with the text around it.
    """

    def __init__(self, encode: Encode, media_lengths: Mapping[str, int], specials: Specials | None = None):
        self.turn = 0  # index of the message being written
        self._encode = encode
        self._lengths = media_lengths
        self._specials = specials or {}
        self._open: list[tuple[str, bool, int]] = []  # words, whether they are supervised, turn
        self._spans: list[Span] = []
        self._num_media = 0

    def text(self, words: str) -> None:
        """Text of the open segment, never supervised."""
        self._open.append((words, False, self.turn))

    def joined(self, words: str, supervised: bool) -> None:
        """Text of the open segment, supervised or not, tokenised together with the text around it. A token with letters
        of two pieces belongs to the later one."""
        self._open.append((words, supervised, self.turn))

    def words(self, words: str, supervised: bool) -> None:
        """Text of the open segment, or a segment of its own if it is supervised."""
        if supervised:
            self.answer(words, supervised)
        else:
            self.text(words)

    def answer(self, words: str, supervised: bool, max_tokens: int | None = None, end: str = "") -> None:
        """One segment of its own with the special token `end` ("eos") after it, cut after `max_tokens` ids."""
        self._close()
        self._add(words, supervised, max_tokens, end)

    def special(self, name: str, supervised: bool = False) -> None:
        """A special token between texts ("bos", "eos", one of model.added_tokens); nothing where the tokenizer has
        none."""
        self._close()
        self._add("", supervised, end=name)

    def token(self, number: int, supervised: bool = False) -> None:
        """One special token; it ends the segment before it."""
        self._close()
        self._spans.append(TextSpan((number,), supervised, self.turn))

    def branch(self, words: str, supervised: bool, start: Sequence[int] = (), end: Sequence[int] = ()) -> None:
        """A side text anchored here (BranchSpan), between the special tokens `start` and `end`; nothing when empty."""
        self._close()
        ids = (*start, *(self._encode(words) if words else ()), *end)
        if ids:
            self._spans.append(BranchSpan(ids, supervised, self.turn))

    def drawing(self, part: Drawing, supervised: bool, start: Sequence[int], end: Sequence[int]) -> None:
        """An image that the assistant draws: its caption is a side text anchored here, between the special tokens
        `start` and `end`; the image follows in the base. A caption without an image is read as text."""
        self._close()
        ids = (*start, *(self._encode(part.caption) if part.caption else ()), *end)
        if part.image is None:
            self._spans.append(TextSpan(ids, supervised, self.turn))
            return
        if ids:
            self._spans.append(BranchSpan(ids, supervised, self.turn, self._num_media))
        self.media(part.image)

    def media(self, item: Media) -> None:
        """The slots of a media item. raises ValueError for a modality without a route"""
        if item.modality not in self._lengths:
            known = ", ".join(sorted(self._lengths)) or "none"
            meant = nearest(item.modality, self._lengths)
            advice = f"; did you mean {meant!r}?" if meant else ""
            message = f"the model has no route for {item.modality!r} in a conversation; its routes: {known}{advice}"
            raise ValueError(message)
        self._close()
        self._spans.append(MediaSpan(item.modality, self._num_media, self._lengths[item.modality], self.turn))
        self._num_media += 1

    def spans(self) -> list[Span]:
        """All spans so far; ends the open segment."""
        self._close()
        return self._spans

    def _close(self) -> None:
        pieces, self._open = self._open, []
        if any(supervised for _, supervised, _ in pieces):
            self._add_joined(pieces)
        else:
            self._add("".join(words for words, _, _ in pieces), supervised=False)

    def _add_joined(self, pieces: Sequence[tuple[str, bool, int]]) -> None:
        """One segment, as a span for each run of pieces of the same turn that are supervised alike."""
        runs: list[tuple[str, bool, int]] = []
        for words, supervised, turn in pieces:
            if runs and runs[-1][1:] == (supervised, turn):
                words = runs.pop()[0] + words
            runs.append((words, supervised, turn))
        ids: tuple[Any, ...] = tuple(self._encode("".join(words for words, _, _ in runs)))
        is_preview = any(isinstance(one, str) for one in ids)  # text in place of ids
        before, start = "", 0
        for number, (words, supervised, turn) in enumerate(runs, 1):
            before += words
            if is_preview:
                own: tuple[Any, ...] = (words,)
            else:
                end = len(ids) if number == len(runs) else max(start, _num_shared(self._encode(before), ids))
                own, start = ids[start:end], end
            self._spans.append(TextSpan(own, supervised, turn))

    def _add(self, words: str, supervised: bool, max_tokens: int | None = None, end: str = "") -> None:
        ids = tuple(self._encode(words)) if words else ()
        last = self._specials.get(end) if end else None
        ids = ids if last is None else (*ids, last)
        kept = ids if max_tokens is None else ids[:max_tokens]
        if ids:
            self._spans.append(TextSpan(kept, supervised, self.turn, len(ids) - len(kept)))


def _num_shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Number of ids that both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (mine, theirs) in pairs if mine != theirs), min(len(one), len(other)))
