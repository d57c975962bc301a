"""Which sample of a source stands where: the draws of one source as arithmetic, without a list of them anywhere."""

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
    """The order of one source; a pure function of its arguments, so that a resume is an integer.

    Picklable. An arrangement may have a `note`, a few words for the plan of a run: "streams in windows of 4 shards".
    """

    def indices(self, drawn: NDArray) -> NDArray:
        """The samples of some draws: int64[n] running numbers of draws -> int64[n] in [0, samples)."""
        ...

    def replacement(self, drawn: int, index: int, attempt: int) -> int:
        """Another sample for a draw whose sample `index` cannot be read; attempt >= 1, each gives another one.

        raises   DataError when the source has no further sample
        """
        ...


@dataclass(frozen=True)
class FullShuffle:
    """The k-th draw of N samples is sample permutation(k mod N) of pass k // N.

    Every sample once per pass, every pass in another order, and no list of N numbers in memory.
    """

    source: str
    size: int
    seed: int
    description: str = field(default="", init=False)

    def indices(self, drawn: NDArray) -> NDArray[np.int64]:
        rounds, places = np.divmod(drawn, self.size)
        return permute(places, self.size, keyed(self._pass_key, rounds))

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
    """How a source wants its samples to come: its own `arrangement(seed)`, or shuffled as a whole."""
    own = getattr(source, "shuffle", None)
    return FullShuffle(name, size, seed) if own is None else own(seed)
