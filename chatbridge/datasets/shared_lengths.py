"""Lengths of draws in memory that the loader's workers of all ranks of a machine share: each is measured about once.

A length is a pure function of its draw, so processes may write at the same time, and one that finds nothing measures by
itself: the table changes the cost, never a result.
"""

from __future__ import annotations

import mmap
import os
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from chatbridge.common.dist import Dist
from chatbridge.datasets.order.grouping import Lengths
from chatbridge.datasets.order.mixture import Draw
from chatbridge.datasets.order.permutation import mix

SLOTS = 1 << 18  # draws; a later draw takes the slot of one that is long past
NUM_BYTES = SLOTS * 16
CHUNK = 16  # draws measured between two looks at the table
LENGTH_BITS = 24
Words = NDArray[np.uint64]


class LengthTable:
    """Memory of this process and those it forks. One that is started in another way measures for itself.

    memory   of a file that several processes have mapped; None: memory without a name
    """

    def __init__(self, memory: mmap.mmap | None = None):
        self.words: Words | None = np.frombuffer(memory or mmap.mmap(-1, NUM_BYTES), np.uint64).reshape(SLOTS, 2)

    def __getstate__(self) -> dict[str, Any]:
        return {"words": None}

    @classmethod
    def shared(cls, dist: Dist) -> LengthTable:
        """One table for all ranks of this machine. Every rank calls it; the file is gone when it returns."""
        own, host = None, socket.gethostname()
        if dist.local_rank == 0:
            folder = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
            number, own = tempfile.mkstemp(prefix="chatbridge_lengths_", dir=folder)
            os.truncate(number, NUM_BYTES)
            os.close(number)
        path = next((one for name, one in dist.gather((host, own)) if name == host and one is not None), None)
        try:
            with open(path or "", "r+b") as file:
                table = cls(mmap.mmap(file.fileno(), NUM_BYTES))
        except (OSError, ValueError):  # another machine with the same name: every rank measures for itself
            table = cls()
        dist.barrier()
        if own is not None:
            Path(own).unlink(missing_ok=True)
        return table


class SharedLengths:
    """Draws -> their lengths, from the table or measured.

    measure   draws -> lengths, each below 2 ** 24
    names     of the sources, the same in every process
    rank, world   processes that need the same lengths at the same time begin with different ones
    """

    def __init__(self, measure: Lengths, names: Sequence[str], table: LengthTable, rank: int = 0, world: int = 1):
        self.measure, self.table, self.rank, self.world = measure, table, rank, world
        self.numbers = {name: number for number, name in enumerate(names)}

    def __call__(self, draws: Sequence[Draw]) -> list[int]:
        table = self.table.words
        if table is None or not draws:
            return list(self.measure(draws))
        keys = np.array([(self.numbers[draw.source] << 48) + draw.drawn for draw in draws], np.uint64)
        hashes = mix(keys + np.uint64(1))
        found = _known(table, keys, hashes)
        order = np.roll(np.flatnonzero(found < 0), -int(self._first * np.count_nonzero(found < 0)))
        for start in range(0, len(order), CHUNK):
            chunk = order[start : start + CHUNK]
            found[chunk] = _known(table, keys[chunk], hashes[chunk])  # others may have measured them meanwhile
            missing = chunk[found[chunk] < 0]
            if len(missing):
                found[missing] = self.measure([draws[number] for number in missing])
                _write(table, keys[missing], hashes[missing], found[missing])
        return found.tolist()

    @property
    def _first(self) -> float:
        """The share of the draws before the one with which this process begins, from 0 to below 1."""
        info = get_worker_info()
        own = info.id / info.num_workers if info is not None else 0.0
        return (self.rank + own) / self.world


def _known(table: Words, keys: Words, hashes: Words) -> NDArray[np.int64]:
    """int64[n] lengths, -1 where the table has another draw; a slot that is being written is another draw."""
    slots = table[hashes % np.uint64(SLOTS)]  # a copy: both words are compared on it
    check = hashes >> np.uint64(LENGTH_BITS)
    is_known = (slots[:, 0] == keys) & (slots[:, 1] >> np.uint64(LENGTH_BITS) == check)
    lengths = (slots[:, 1] & np.uint64((1 << LENGTH_BITS) - 1)).astype(np.int64)
    return np.where(is_known, lengths, -1)


def _write(table: Words, keys: Words, hashes: Words, lengths: NDArray[np.int64]) -> None:
    at = hashes % np.uint64(SLOTS)
    check = hashes >> np.uint64(LENGTH_BITS)
    table[at, 1] = (check << np.uint64(LENGTH_BITS)) | lengths.astype(np.uint64)
    table[at, 0] = keys
