"""Lengths of draws in memory that the loader's workers of all ranks of a machine share: each is measured about once.

A length is a pure function of its draw, so processes may write at the same time, and one that finds nothing measures by
itself: the table changes the cost, never a result. The unit is a chunk of draws that follow each other in the dealt
order, so that a rank looks up a step of 4,096 conversations as 256 entries.
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
from chatbridge.datasets.shared_ids import IDS_BYTES

CHUNK = 16  # draws of an entry
SLOTS = 1 << 15  # entries; a later chunk takes the slot of one that is long past
SLOT_WORDS = 2 + CHUNK // 2  # key, check, two lengths per word
LENGTHS_BYTES = SLOTS * SLOT_WORDS * 8
NUM_BYTES = LENGTHS_BYTES + IDS_BYTES
Words = NDArray[np.uint64]
WEIGHTS: Words = mix(np.arange(1, CHUNK // 2 + 1, dtype=np.uint64)) | np.uint64(1)


class LengthTable:
    """Memory of this process and those it forks. One that is started in another way measures for itself.

    memory   of a file that several processes have mapped; None: memory without a name
    words    the lengths, uint64[SLOTS, SLOT_WORDS]
    ids      the part for token ids (shared_ids.py)
    """

    def __init__(self, memory: mmap.mmap | None = None):
        memory = memory or mmap.mmap(-1, NUM_BYTES)
        self.words: Words | None = np.frombuffer(memory, np.uint64, SLOTS * SLOT_WORDS).reshape(SLOTS, SLOT_WORDS)
        self.ids: memoryview | None = memoryview(memory)[LENGTHS_BYTES:]

    def __getstate__(self) -> dict[str, Any]:
        return {"words": None, "ids": None}

    @classmethod
    def shared(cls, dist: Dist) -> LengthTable:
        """One table for all ranks of this machine. Every rank calls it; the file is gone when it returns."""
        own = _new_file() if dist.local_rank == 0 else None
        host = socket.gethostname()
        path = next((one for name, one in dist.gather((host, own)) if name == host and one is not None), None)
        try:
            with open(path or "", "r+b") as file:
                table = cls(mmap.mmap(file.fileno(), NUM_BYTES))
        except (OSError, ValueError):  # no space, or another machine with the same name: every rank measures for itself
            table = cls()
        dist.barrier()
        if own is not None:
            Path(own).unlink(missing_ok=True)
        return table


def _new_file() -> str | None:
    """A file of the table's size. Its space is reserved: a store to a page without any would kill the process."""
    number, path = tempfile.mkstemp(
        prefix="chatbridge_lengths_", dir=Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
    )
    try:
        os.posix_fallocate(number, 0, NUM_BYTES)
    except OSError:
        Path(path).unlink(missing_ok=True)
        return None
    finally:
        os.close(number)
    return path


class SharedLengths:
    """Draws -> their lengths, from the table or measured.

    measure   draws -> lengths, each below 2 ** 32
    names     of the sources, the same in every process
    rank, world   processes that need the same lengths at the same time begin with different ones
    """

    def __init__(self, measure: Lengths, names: Sequence[str], table: LengthTable, rank: int = 0, world: int = 1):
        self.measure, self.table, self.rank, self.world = measure, table, rank, world
        self.numbers = {name: number for number, name in enumerate(names)}

    def __call__(self, draws: Sequence[Draw]) -> list[int]:
        """draws   in the dealt order: two calls that share a chunk have the same draws in it"""
        table = self.table.words
        if table is None or not draws:
            return list(self.measure(draws))
        keys = self._keys(draws)
        lengths, is_known = _read(table, keys)  # [chunks, CHUNK], [chunks]
        missing = np.flatnonzero(~is_known).tolist()
        first = int(self._first * len(missing))
        for number in missing[first:] + missing[:first]:
            key = keys[number : number + 1]
            if table[key[0] % np.uint64(SLOTS), 0] == key[0]:  # another process has measured it meanwhile
                lengths[number], is_known[number] = (one[0] for one in _read(table, key))
            if not is_known[number]:
                own = self.measure(draws[number * CHUNK : (number + 1) * CHUNK])
                lengths[number, : len(own)] = own
                _write(table, key, lengths[number : number + 1])
        return lengths.ravel()[: len(draws)].tolist()

    def _keys(self, draws: Sequence[Draw]) -> Words:
        """uint64[chunks]: a hash of the first draw, the last one and the number of draws of each chunk."""
        numbers = self.numbers
        firsts = [(numbers[one.source] << 48) + one.drawn for one in draws[::CHUNK]]
        lasts = [(numbers[one.source] << 48) + one.drawn for one in draws[CHUNK - 1 :: CHUNK]]
        if rest := len(draws) % CHUNK:
            lasts.append(((numbers[draws[-1].source] << 48) + draws[-1].drawn) ^ rest << 40)
        return mix(mix(np.array(firsts, np.uint64) + np.uint64(1)) + np.array(lasts, np.uint64)) | np.uint64(1)

    @property
    def _first(self) -> float:
        """The share of the draws before the one with which this process begins, from 0 to below 1."""
        info = get_worker_info()
        own = info.id / info.num_workers if info is not None else 0.0
        return (self.rank + own) / self.world


def _read(table: Words, keys: Words) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
    """uint32[n, CHUNK] lengths, and whether the table has them: a slot that is being written has another check."""
    slots = table[keys % np.uint64(SLOTS)]  # a copy: all words are compared on it
    lengths = np.ascontiguousarray(slots[:, 2:])
    is_known = (slots[:, 0] == keys) & (slots[:, 1] == _check(keys, lengths))
    return np.where(is_known[:, None], lengths.view(np.uint32), np.uint32(0)), is_known


def _write(table: Words, keys: Words, lengths: NDArray[np.uint32]) -> None:
    slots, words = keys % np.uint64(SLOTS), lengths.view(np.uint64)
    table[slots, 2:] = words
    table[slots, 1] = _check(keys, words)
    table[slots, 0] = keys


def _check(keys: Words, lengths: Words) -> Words:
    """A hash of the key and the lengths, uint64[n], uint64[n, CHUNK // 2] -> uint64[n]."""
    return mix(keys + (lengths * WEIGHTS).sum(1, dtype=np.uint64))
