"""Text and media of a part of a format, stripped and divided into segments before it is written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from chatbridge.conversation.messages import Drawing, Media


@dataclass(frozen=True)
class Piece:
    """Text with its supervision, or a media item or drawing; `turn` is that of its message."""

    content: str | Media | Drawing
    supervised: bool = False
    turn: int = 0


class Pieces:
    """Collects pieces in order.

    strips   white space beside media items and drawings is left out, as a tokenizer does that strips added tokens
    """

    def __init__(self, strips: bool) -> None:
        self.turn = 0  # of the message that is being collected
        self._strips = strips
        self._runs: list[list[Piece]] = [[]]  # runs of text and single items, in turns: text, item, text, ...

    def text(self, words: str, supervised: bool = False) -> None:
        self._runs[-1].append(Piece(words, supervised, self.turn))

    def item(self, part: Media | Drawing) -> None:
        self._runs += [[Piece(part, False, self.turn)], []]

    def strip(self) -> None:
        """Remove the white space at both ends."""
        self._runs[0] = _stripped(self._runs[0], left=True)
        self._runs[-1] = _stripped(self._runs[-1], right=True)

    def enclose(self, before: str, after: str) -> None:
        """Put text at both ends."""
        first = next((run[0].turn for run in self._runs if run), self.turn)
        self._runs[0].insert(0, Piece(before, False, first))
        self._runs[-1].append(Piece(after, False, self.turn))

    def segments(self) -> Iterator[list[Piece]]:
        """Each item by itself, and the text between two of them; no empty text."""
        last = len(self._runs) - 1
        for number, run in enumerate(self._runs):
            if number % 2 == 0 and self._strips:
                run = _stripped(run, left=number > 0, right=number < last)
            kept = [piece for piece in run if piece.content]
            if kept:
                yield kept


def _stripped(run: list[Piece], left: bool = False, right: bool = False) -> list[Piece]:
    """A run of text without the white space at its ends."""
    kept = list(run)
    while left and kept and isinstance(kept[0].content, str):
        words = kept[0].content.lstrip()
        if words:
            kept[0] = replace(kept[0], content=words)
            break
        del kept[0]
    while right and kept and isinstance(kept[-1].content, str):
        words = kept[-1].content.rstrip()
        if words:
            kept[-1] = replace(kept[-1], content=words)
            break
        del kept[-1]
    return kept
