"""Read the media items of a sample for the feature cache, in a worker process that a broken file may cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chatbridge.common.errors import DataError, MediaError
from chatbridge.conversation.messages import Media
from chatbridge.datasets.builders import Dataset
from chatbridge.datasets.feature_cache.content import content_of, entry_key, file_state, is_settled, path_key
from chatbridge.datasets.feature_cache.shards import Failed, KnownFile
from chatbridge.datasets.feature_cache.store import FeatureSet
from chatbridge.datasets.sample_reader import processors_for, sample_name
from chatbridge.datasets.workers.time_limit import OnPause, time_limit
from chatbridge.experiment.feature_cache.items import items_of
from chatbridge.processors.media_source import NoAudio, Ref


class NoDraws(np.random.Generator):
    """A generator that must not be used: a processor that draws gives other pieces in each pass over the data."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))
        object.__setattr__(self, "was_used", False)

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and name != "was_used":
            object.__setattr__(self, "was_used", True)
            raise RuntimeError(f"the processor calls rng.{name}")
        return super().__getattribute__(name)


@dataclass(frozen=True)
class ReadItem:
    """What a worker found out about a media item.

    content  hash of the content; None when it cannot be read
    count    pieces of the item
    pixels   the input of the encoder, [T, ...] or [...] for one piece; None: nothing to encode
    known    the state of the file to remember; None: not a file, or it changed just now
    failed   why it cannot be decoded
    draws    the processor drew at random: the features of this modality must not be cached
    error    what stops the build: an error that is not about the content of a file
    """

    modality: str
    source: str
    name: str
    content: bytes | None = None
    count: int = 1
    pixels: np.ndarray | None = None
    known: KnownFile | None = None
    failed: Failed | None = None
    draws: bool = False
    error: str | None = None

    @property
    def failure(self) -> dict[str, str]:
        """An entry of a quarantine list."""
        return {"source": self.source, "id": self.name, "reason": "" if self.failed is None else self.failed.reason}


@dataclass
class ItemReader:
    """(number of a source, index of a sample) -> its media items of the modalities that are cached.

    decoders  modality -> the processor of training
    stores    modality -> what is in the cache already
    limit_s   time limit of one sample
    """

    sources: Sequence[Dataset]
    decoders: Mapping[str, Any]
    stores: Mapping[str, FeatureSet]
    limit_s: float
    on_pause: OnPause | None = None

    def __call__(self, task: tuple[int, int]) -> list[ReadItem]:
        dataset, index = self.sources[task[0]], task[1]
        name = sample_name(dataset, index)
        try:
            with time_limit(self.limit_s, self.on_pause):
                items = items_of(dataset, index, tuple(self.decoders))
                decoders = processors_for(dataset, self.decoders)
                return [self._read(item, decoders[item.modality], dataset.name, name) for item in items]
        except (MediaError, DataError) as error:
            return [ReadItem("", dataset.name, name, failed=Failed(b"", type(error).__name__, str(error)))]
        except Exception as error:
            return [ReadItem("", dataset.name, name, error=f"{type(error).__name__}: {error}")]

    def content(self, task: tuple[int, int]) -> list[tuple[str, bytes, int]]:
        """Modality, content and count of the items of a sample, without decoding: for one that crashed a worker."""
        dataset = self.sources[task[0]]
        decoders = processors_for(dataset, self.decoders)
        try:
            items = items_of(dataset, task[1], tuple(self.decoders))
            return [(one.modality, content_of(one.ref), getattr(decoders[one.modality], "count", 1)) for one in items]
        except (MediaError, DataError):
            return []

    def _read(self, item: Media, decoder: Any, source: str, name: str) -> ReadItem:
        store, count = self.stores[item.modality], getattr(decoder, "count", 1)
        rng, content = NoDraws(), None
        try:
            content, known = _content(store, item.ref)
            if store.holds(content, count):
                return ReadItem(item.modality, source, name, content, count, known=known)
            made = decoder(item.ref, rng)
            return ReadItem(item.modality, source, name, content, count, _array(made), known)
        except MediaError as error:
            kind = NoAudio.__name__ if isinstance(error, NoAudio) else MediaError.__name__
            key = b"" if content is None else entry_key(content, 0, count)
            return ReadItem(item.modality, source, name, content, count, failed=Failed(key, kind, str(error)),
                            draws=rng.was_used)  # fmt: skip
        except RuntimeError:
            if not rng.was_used:
                raise
            return ReadItem(item.modality, source, name, content, count, draws=True)


def _content(store: FeatureSet, ref: Ref) -> tuple[bytes, KnownFile | None]:
    """The hash of an item, and the state of its file when that is worth remembering and new."""
    if not isinstance(ref, (str, Path)):
        return content_of(ref), None
    path, before = path_key(ref), file_state(ref)
    if (content := store.index.content(path, before)) is not None:
        return content, None
    is_old_enough = is_settled(ref)
    content = content_of(ref)
    if before is None or not is_old_enough or file_state(ref) != before:
        return content, None
    return content, KnownFile(path, before, content)


def _array(made: torch.Tensor) -> np.ndarray:
    """Features and pixels travel between processes as arrays, which need no file descriptor each."""
    return np.ascontiguousarray(made.detach().numpy())
