"""What ends an answer: ids, or words of its text however they were tokenised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

StopIds = Sequence[Sequence[int]]
ToText = Callable[[list[int]], str]
NEIGHBOURS = 4  # tokens before a stop string that are decoded with it: tokenizers treat the first of a text differently


class Stops:
    """Stop sequences and stop strings of one row.

    ids      sequences of ids; an answer that ends with one is over, and loses it
    strings  an answer whose text holds one is over, also when the string ends inside a token. Its ids keep the whole
             token: Layout.finish cuts the text
    to_text  ids -> text; needed for strings
    raises   ValueError for strings without to_text
    """

    def __init__(self, ids: StopIds = (), strings: Sequence[str] = (), to_text: ToText | None = None) -> None:
        self.ids = tuple(tuple(stop) for stop in ids if len(stop))
        self.strings = tuple(stop for stop in strings if stop)
        if self.strings and to_text is None:
            raise ValueError("stop strings need to_text, the tokenizer's way from ids to text")
        self._to_text: ToText = to_text or (lambda ids: "")
        self._num_tail = max((len(stop.encode()) for stop in self.strings), default=0) + NEIGHBOURS
        self._last_letters = {stop[-1] for stop in self.strings}
        self._may_end: dict[int, bool] = {}  # id -> whether a stop string may end in this token

    def end(self, ids: list[int]) -> int | None:
        """How many of the ids are the answer, if their last one ends it; None while it goes on."""
        for stop in self.ids:
            if tuple(ids[-len(stop) :]) == stop:
                return len(ids) - len(stop)
        return len(ids) if self.strings and self._ends_in_text(ids) else None

    def _ends_in_text(self, ids: list[int]) -> bool:
        if not self._may_end_with(ids[-1]) or not self._holds_one(ids[-self._num_tail :]):
            return False
        return len(ids) <= self._num_tail or self._holds_one(ids)

    def _holds_one(self, ids: list[int]) -> bool:
        text = self._to_text(ids)
        return any(stop in text for stop in self.strings)

    def _may_end_with(self, last: int) -> bool:
        found = self._may_end.get(last)
        if found is None:
            text = self._to_text([last])  # bytes of a letter alone become U+FFFD, blanks at the start may vanish
            found = self._may_end[last] = (
                not text.strip() or "\ufffd" in text or not self._last_letters.isdisjoint(text)
            )
        return found


RowStops: TypeAlias = "Stops | StopIds | Sequence[Stops]"  # of all rows, or one after the other


def stops_of_rows(stops: RowStops, num_rows: int) -> list[Stops]:
    """One for each row. raises ValueError for another number of them"""
    if isinstance(stops, Stops):
        return [stops] * num_rows
    of_rows = [one for one in stops if isinstance(one, Stops)]
    if not of_rows:
        return [Stops([tuple(one) for one in stops if not isinstance(one, Stops)])] * num_rows
    if len(of_rows) != num_rows or len(of_rows) != len(stops):
        raise ValueError(f"{len(stops)} stops for {num_rows} rows; give one Stops for all, or one for each row")
    return of_rows


__all__ = ["RowStops", "StopIds", "Stops", "ToText", "stops_of_rows"]
