"""Read the features of a set: content -> rows of the memory-mapped shards, each compared with its checksum."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chatbridge.common.errors import DataError
from chatbridge.common.types import Features
from chatbridge.datasets.feature_cache.command import repair_hint
from chatbridge.datasets.feature_cache.content import content_of, entry_key, file_state, path_key
from chatbridge.datasets.feature_cache.index import Entry, FeatureIndex
from chatbridge.datasets.feature_cache.record import FeatureRecord
from chatbridge.datasets.feature_cache.shards import ROWS, damage
from chatbridge.datasets.feature_cache.values import RowLayout
from chatbridge.processors.media_source import Ref

MOST_MAPS = 4096  # shards that a process keeps mapped; Linux allows 65,530 maps


class FeatureSet:
    """The features of one modality, for one encoder and one preprocessing. Pickled without its maps.

    folder   of the set
    """

    def __init__(self, folder: Path, record: FeatureRecord) -> None:
        self.folder, self.record = folder, record
        self.layout = RowLayout(record.tokens, record.width, record.values)
        self._index: FeatureIndex | None = None
        self._maps: dict[int, Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_index": None, "_maps": {}}

    @property
    def index(self) -> FeatureIndex:
        """Mapped at first use, in each process by itself. raises DataError when it is missing or damaged"""
        if self._index is None:
            self._index = FeatureIndex(self.folder, is_checked=False)
        return self._index

    def check(self) -> None:
        """raises DataError when the index is damaged, or a shard is missing, truncated or of another layout"""
        self._index, self._maps = FeatureIndex(self.folder), {}
        wrong = [damage(self.folder, name, rows, self.layout.row_bytes) for name, rows in self._index.shards]
        if found := [reason for reason in wrong if reason is not None]:
            more = [f"... and {len(found) - 5} more"] if len(found) > 5 else []
            raise DataError("\n    ".join(["the feature cache is damaged:", *found[:5], *more, repair_hint()]))

    def content(self, ref: Ref) -> bytes:
        """The hash of the content of a media item: of a file from the index while it is as it was at the build.

        raises   MediaError when there is nothing to read
        """
        if isinstance(ref, (str, Path)):
            known = self.index.content(path_key(ref), file_state(ref))
            if known is not None:
                return known
        return content_of(ref)

    def holds(self, content: bytes, count: int) -> bool:
        """Whether all pieces of an item are there, or the item is known as one that cannot be encoded."""
        if entry_key(content, 0, count) in self.index.failed:
            return True
        return all(self.index.find(entry_key(content, piece, count)) is not None for piece in range(count))

    def failed(self, content: bytes, count: int) -> tuple[str, str] | None:
        """Kind and reason when the item cannot be encoded; None when it can."""
        return self.index.failed.get(entry_key(content, 0, count))

    def item(self, content: bytes, count: int) -> Features | None:
        """The features of `count` pieces: x [T, N, W] as stored, without a copy where their rows are neighbours.

        returns  None when a piece is missing
        raises   DataError when a shard is damaged
        """
        found = [self.index.find(entry_key(content, piece, count)) for piece in range(count)]
        entries = [entry for entry in found if entry is not None]
        return self.layout.features(self._rows(entries)) if len(entries) == count else None

    def _rows(self, entries: Sequence[Entry]) -> Tensor:
        """uint8[T, row_bytes]"""
        shard, row = entries[0].shard, entries[0].row
        if all((one.shard, one.row) == (shard, row + at) for at, one in enumerate(entries)):
            rows = self._shard(shard)[row : row + len(entries)]
        else:
            rows = torch.stack([self._shard(one.shard)[one.row] for one in entries])
        for one, content in zip(entries, rows.numpy()):
            if zlib.crc32(content.data) != one.checksum:
                path = self.folder / f"{self.index.shards[one.shard][0]}{ROWS}"
                raise DataError(f"{path}: row {one.row} does not have its checksum; {repair_hint()}")
        return rows

    def _shard(self, number: int) -> Tensor:
        """uint8[rows, row_bytes], mapped; copy on write, since torch has no read-only tensors"""
        if number not in self._maps:
            if len(self._maps) >= MOST_MAPS:
                self._maps.clear()
            name, rows = self.index.shards[number]
            if (reason := damage(self.folder, name, rows, self.layout.row_bytes)) is not None:
                raise DataError(f"{reason}; {repair_hint()}")
            shape = (rows, self.layout.row_bytes)
            mapped = np.memmap(self.folder / f"{name}{ROWS}", dtype=np.uint8, mode="c", shape=shape)
            self._maps[number] = torch.from_numpy(np.asarray(mapped))
        return self._maps[number]
