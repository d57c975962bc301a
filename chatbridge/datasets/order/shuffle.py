"""The order of the samples of one source, as arithmetic: no list of samples exists anywhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from chatbridge.common import seeds
from chatbridge.common.errors import DataError
from chatbridge.datasets.order.permutation import keyed, permute


class Shuffle(Protocol):
    """The order of one source; a pure function of its arguments, so a resume is an integer. Picklable.

    A shuffle may have a `description` for the plan of a run: "streams in windows of 4 shards".
    """

    def indices(self, drawn: NDArray) -> NDArray:
        """The samples of some draws: int64[n] numbers of draws since step 0 -> int64[n] in [0, samples)."""
        ...

    def replacement(self, drawn: int, index: int, attempt: int) -> int:
        """The sample that replaces the unreadable sample `index`; attempt >= 1, each gives a different sample.

        raises   DataError when the source has no further sample
        """
        ...


@dataclass(frozen=True)
class FullShuffle:
    """The k-th draw of N samples is sample permutation(k mod N) of pass k // N.

    Every pass has every sample once, in a different order; no list of N numbers is in memory.
    """

    source: str
    size: int
    seed: int
    description: str = field(default="", init=False)

    def indices(self, drawn: NDArray) -> NDArray[np.int64]:
        passes, positions = np.divmod(drawn, self.size)
        return permute(positions, self.size, keyed(self._pass_key, passes))

    def replacement(self, drawn: int, index: int, attempt: int) -> int:
        if attempt >= self.size:
            raise DataError(f"source {self.source!r} has {self.size} samples, there is no replacement number {attempt}")
        key = seeds.number(self.seed, f"replacement/{self.source}", drawn)
        offset = int(permute(np.array([attempt - 1]), self.size - 1, key)[0])
        return (index + 1 + offset) % self.size

    @cached_property
    def _pass_key(self) -> int:
        return seeds.number(self.seed, f"pass/{self.source}")


def shuffle_of(source: object, name: str, size: int, seed: int) -> Shuffle:
    """The shuffle of a source: its own `shuffle(seed)` if it has one, or a shuffle of the whole source."""
    own = getattr(source, "shuffle", None)
    return FullShuffle(name, size, seed) if own is None else own(seed)
