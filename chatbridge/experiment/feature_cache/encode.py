"""Encode the items of one modality in batches and write their features."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chatbridge.common.errors import DataError
from chatbridge.datasets.feature_cache.content import entry_key
from chatbridge.datasets.feature_cache.record import FeatureRecord
from chatbridge.datasets.feature_cache.shards import ShardWriter
from chatbridge.datasets.feature_cache.values import RowLayout, StorageError
from chatbridge.experiment.feature_cache.item_reader import ReadItem
from chatbridge.models.encoders import Encoder
from chatbridge.models.routes import encoded

MEASURED = 32  # first batches whose error of storage is measured, then every such batch


@dataclass
class FeatureWriter:
    """Collects items, encodes `batch` pieces at a time, and commits shards.

    dtype    in which the encoder computes
    """

    folder: Path
    record: FeatureRecord
    encoder: Encoder
    device: torch.device
    dtype: torch.dtype
    batch: int
    written: int = 0  # pieces
    failed: int = 0  # items
    _pending: list[tuple[bytes, int, Tensor]] = field(default_factory=list)
    _seen: set[bytes] = field(default_factory=set)
    _error: StorageError = field(default_factory=StorageError)
    _batches: int = 0

    def __post_init__(self) -> None:
        self.layout = RowLayout(self.record.tokens, self.record.width, self.record.values)
        self._shards = ShardWriter(self.folder, self.layout.row_bytes)

    def add(self, item: ReadItem) -> None:
        """Take what a worker read; the same content is encoded once. raises OSError, DataError"""
        if item.known is not None:
            self._shards.add_file(item.known)
        if item.content is None:
            self.failed += item.failed is not None
            return
        key = entry_key(item.content, 0, item.count)
        if key in self._seen:
            return
        if item.failed is not None:
            self.failed += 1
            self._seen.add(key)
            self._shards.add_failed(item.failed)
        elif item.pixels is not None:
            self._seen.add(key)
            self._pending.append((item.content, item.count, self._pieces(item.pixels)))
            if sum(count for _, count, _ in self._pending) >= self.batch:
                self._encode()

    def finish(self) -> None:
        """Encode and commit the rest."""
        self._encode()
        self._commit()

    def discard(self) -> None:
        """Leave no part of a shard behind after an error."""
        self._shards.discard()

    def _pieces(self, pixels: np.ndarray) -> Tensor:
        """The pieces of an item on one axis: [T, ...]"""
        x = torch.from_numpy(pixels)
        return x if x.ndim == self.encoder.axes(self.record.modality) else x[None]

    @torch.no_grad()
    def _encode(self) -> None:
        if not self._pending:
            return
        flat = torch.cat([pieces for _, _, pieces in self._pending]).to(self.device)  # [M, ...]
        keys = [entry_key(content, piece, count) for content, count, _ in self._pending for piece in range(count)]
        self._pending = []
        with self._precision():
            features = encoded(self.encoder, self.record.modality, flat)  # x [M, N, W]
        try:
            rows = self.layout.rows(features)  # [M, row_bytes]
        except ValueError as error:
            raise DataError(f"the features of {self.record.modality} cannot be stored: {error}") from None
        if self._batches < MEASURED or self._batches % MEASURED == 0:
            self._error.add(features.x, self.layout.features(rows))
        self._batches += 1
        self._shards.add(keys, rows.numpy())
        self.written += len(keys)
        self._shards.facts = {"error": asdict(self._error)}
        if self._shards.commit_if_due():
            self._error = StorageError()

    def _commit(self) -> None:
        self._shards.facts = {"error": asdict(self._error)}
        self._shards.commit()
        self._error = StorageError()

    def _precision(self) -> AbstractContextManager[Any]:
        is_fp32 = self.dtype == torch.float32
        return nullcontext() if is_fp32 else torch.autocast(self.device.type, self.dtype)
