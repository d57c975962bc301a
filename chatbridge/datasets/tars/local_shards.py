"""Local tar shards, addressed by number."""

from __future__ import annotations

from collections.abc import Sequence

from chatbridge.datasets.tars.index import TarIndex
from chatbridge.datasets.unique_names import UniqueNames


class LocalShards:
    """Indexed tars by number."""

    def __init__(self, indexes: Sequence[TarIndex]):
        self._indexes = list(indexes)
        self.counts = [index.count for index in indexes]
        self.names = shard_names([index.tar.parts for index in indexes])

    def name(self, number: int) -> str:
        """A name that no other shard has: the file name, with folders if necessary."""
        return self.names.get(number) or self._indexes[number].tar.name

    def open(self, number: int) -> TarIndex:
        """The index of a shard."""
        return self._indexes[number]

    def row(self, number: int, row: int, index: TarIndex) -> int:
        """The index row of a sample; the same number, as local shards are counted exactly."""
        return row

    def available(self) -> dict[int, TarIndex]:
        """All of them."""
        return dict(enumerate(self._indexes))


def shard_names(places: Sequence[Sequence[str]]) -> dict[int, str]:
    """Names of the shards whose file name is not unique: with as many folders as are needed to distinguish them.

    places   the parts of each path or address
    """
    alike: dict[str, list[int]] = {}
    for number, parts in enumerate(places):
        alike.setdefault(parts[-1], []).append(number)
    names: dict[int, str] = {}
    unique = UniqueNames()
    for numbers in alike.values():
        if len(numbers) == 1:
            continue
        depth, deepest = 2, max(len(places[number]) for number in numbers)
        while depth < deepest and len({tuple(places[number][-depth:]) for number in numbers}) < len(numbers):
            depth += 1
        names |= {number: unique("/".join(places[number][-depth:]).replace("//", "/")) for number in numbers}
    return names
