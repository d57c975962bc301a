"""What ends an answer: ids, or strings in its text, whatever their tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

StopIds = Sequence[Sequence[int]]
ToText = Callable[[list[int]], str]
NEIGHBOURS = 4  # tokens before a stop string that are decoded with it: tokenizers treat the first of a text differently


class Stops:
    """Stop sequences and stop strings of one answer.

    ids      sequences of ids; an answer ends before one of them
    strings  an answer ends when its text contains one, also when the string ends inside a token. Its ids keep the whole
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
        """Number of ids that belong to the answer, if the last id ends it; None while it continues."""
        for stop in self.ids:
            if tuple(ids[-len(stop) :]) == stop:
                return len(ids) - len(stop)
        return len(ids) if self.strings and self._ends_in_text(ids) else None

    def _ends_in_text(self, ids: list[int]) -> bool:
        if not self._may_end_with(ids[-1]) or not self._contains_one(ids[-self._num_tail :]):
            return False
        return len(ids) <= self._num_tail or self._contains_one(ids)

    def _contains_one(self, ids: list[int]) -> bool:
        text = self._to_text(ids)
        return any(stop in text for stop in self.strings)

    def _may_end_with(self, last: int) -> bool:
        found = self._may_end.get(last)
        if found is None:
            text = self._to_text([last])  # single bytes of a character become U+FFFD, leading blanks may vanish
            found = self._may_end[last] = (
                not text.strip() or "\ufffd" in text or not self._last_letters.isdisjoint(text)
            )
        return found


BatchStops: TypeAlias = "Stops | StopIds | Sequence[Stops]"  # for all sequences, or one for each


def stops_per_sequence(stops: BatchStops, num_sequences: int) -> list[Stops]:
    """One for each sequence of a batch. raises ValueError for another number of them"""
    if isinstance(stops, Stops):
        return [stops] * num_sequences
    given = [one for one in stops if isinstance(one, Stops)]
    if not given:
        return [Stops([tuple(one) for one in stops if not isinstance(one, Stops)])] * num_sequences
    if len(given) != num_sequences or len(given) != len(stops):
        raise ValueError(
            f"{len(stops)} stops for {num_sequences} sequences; give one Stops for all, or one for each sequence"
        )
    return given


__all__ = ["BatchStops", "StopIds", "Stops", "ToText", "stops_per_sequence"]
