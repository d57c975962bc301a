"""The processor of a modality whose features are cached: it reads features where another one decodes media."""

from __future__ import annotations

import copy
from typing import Any, Self

import numpy as np

from chatbridge.common.errors import DataError, MediaError
from chatbridge.common.types import Features
from chatbridge.datasets.feature_cache.command import cache_command
from chatbridge.datasets.feature_cache.store import FeatureSet
from chatbridge.processors.limits import Limits
from chatbridge.processors.media_processor import taking
from chatbridge.processors.media_source import NoAudio, Ref, name_of


class StoredFeatures:
    """Features of items from the cache.

    decoder   the processor whose output was encoded: its limits and number of pieces apply
    """

    def __init__(self, store: FeatureSet, decoder: Any) -> None:
        self.store, self.decoder = store, decoder

    @property
    def limits(self) -> Limits:
        return getattr(self.decoder, "limits", Limits())

    @property
    def count(self) -> int:
        return getattr(self.decoder, "count", 1)

    @property
    def reads_pairs(self) -> bool:
        return getattr(self.decoder, "reads_pairs", False)

    def taking(self, count: int) -> Self:
        """A copy that reads so many frames or clips."""
        other = copy.copy(self)
        other.decoder = taking(self.decoder, count)
        return other

    def __call__(self, ref: Ref, rng: np.random.Generator | None = None) -> Features:
        """x [T, N, W] as stored, scale float[T, N, 1] or None, mask bool[T, N] or None

        raises   MediaError or NoAudio with the reason of the build when the item could not be decoded then;
                 DataError when it is not in the cache, or a shard is damaged
        """
        if hasattr(self.decoder, "check_file"):
            self.decoder.check_file(ref)
        content = self.store.content(ref)
        found = self.store.item(content, self.count)
        if found is not None:
            return found
        if (failed := self.store.failed(content, self.count)) is not None:
            kind, reason = failed
            raise (NoAudio if kind == NoAudio.__name__ else MediaError)(reason)
        pieces = f" with {self.count} pieces" if self.count > 1 else ""
        raise DataError(
            f"{name_of(ref)}: its features{pieces} are not in {self.store.folder}: it is new, or its content changed "
            f"after the build; `{cache_command()}` builds what is missing"
        )
