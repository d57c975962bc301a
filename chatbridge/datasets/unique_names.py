"""Unique names: a repeated name gets a number, `x`, `x#2`, `x#3`, so that each names one sample of its source."""

from __future__ import annotations


class UniqueNames:
    """Numbers repeated names in the order in which they come."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self.repeated = 0  # names that came before
        self.first: str | None = None  # the first of them

    def number(self, name: str) -> int:
        """1 for a new name, else the number that makes it unique."""
        number = self._counts.get(name, 0) + 1
        while number > 1 and numbered(name, number) in self._counts:
            number += 1
        self._counts[name] = number
        if number > 1:
            self._counts[numbered(name, number)] = 1
            self.repeated += 1
            self.first = self.first or name
        return number

    def __call__(self, name: str) -> str:
        """The name, with a number when it is repeated."""
        return numbered(name, self.number(name))


def numbered(name: str, number: int) -> str:
    """`x` for number 1, else `x#2`, `x#3`, ..."""
    return name if number == 1 else f"{name}#{number}"
