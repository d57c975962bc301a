"""A bounded shuffle: shards in random order, samples in random order inside windows of a few shards.

Reading a source in this order needs only the shards of one window on disk. Like the shuffle of a whole source it is
arithmetic over (seed, pass, position) and the samples per shard, so nothing is stored and a seek is immediate.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chatbridge.common import seeds
from chatbridge.common.errors import DataError
from chatbridge.datasets.order.permutation import permute

logger = logging.getLogger(__name__)

RESUME_LOG_FROM = 64  # an earlier draw may be the first one of a rarely drawn source, not a resume

Follower = Callable[[list[int], list[int]], None]  # shards of the windows now read, shards of the window after them


@dataclass(frozen=True)
class _Pass:
    """One pass: its shards in order, the end of each among the samples, the start and end of each window."""

    order: NDArray[np.int64]
    shard_ends: NDArray[np.int64]
    window_starts: NDArray[np.int64]
    window_ends: NDArray[np.int64]


class WindowShuffle:
    """The shuffle of a source of shards.

    counts   samples of each shard
    window   shards per window; the last window of a pass may have fewer
    follow   called with the shards that are read now and next whenever they change
    """

    def __init__(self, source: str, counts: Sequence[int], window: int, seed: int, follow: Follower | None = None):
        self.source, self.window, self.seed = source, window, seed
        self.counts = np.array(counts, dtype=np.int64)
        self.size = int(self.counts.sum())
        self._starts = np.cumsum(self.counts) - self.counts
        self._follow = follow
        self._passes: dict[int, _Pass] = {}
        self._now: tuple[Any, ...] = ()
        self._process = -1

    @property
    def description(self) -> str:
        return f"streams in windows of {self.window} shards"

    def indices(self, drawn: NDArray) -> NDArray[np.int64]:
        """The samples of some draws, int64[n] -> int64[n]; also announces their windows to `follow`."""
        passes, positions = np.divmod(drawn, self.size)
        found = np.empty_like(positions)
        windows: list[tuple[int, int]] = []
        for number in np.unique(passes).tolist():
            here = passes == number
            which = np.searchsorted(self._pass(number).window_ends, positions[here], side="right")
            windows += [(number, window) for window in np.unique(which).tolist()]
            found[here] = self._samples(number, which, positions[here])
        self._announce(windows, int(drawn.min()) if drawn.size else 0)
        return found

    def replacement(self, drawn: int, index: int, attempt: int) -> int:
        """A sample of the same window, whose shards are on disk. raises DataError when it has no further one"""
        number, position = divmod(drawn, self.size)
        ordered = self._pass(number)
        window = int(np.searchsorted(ordered.window_ends, position, side="right"))
        start, end = int(ordered.window_starts[window]), int(ordered.window_ends[window])
        if attempt >= end - start:
            raise DataError(
                f"source {self.source!r}: a window of {self.window} shards has {end - start} samples, there is no "
                f"replacement number {attempt}; increase window_shards"
            )
        key = seeds.number(self.seed, f"replacement/{self.source}", drawn)
        offset = int(permute(np.array([attempt - 1]), end - start - 1, key)[0])
        position = self._position_of(ordered, index)
        return self._at(ordered, np.array([start + (position - start + 1 + offset) % (end - start)]))[0].item()

    def resume_text(self, drawn: int) -> str:
        """The position of the drawn-th draw, for the log of a run that resumes there."""
        number, position = divmod(drawn, self.size)
        ordered = self._pass(number)
        window = int(np.searchsorted(ordered.window_ends, position, side="right"))
        before = position - int(ordered.window_starts[window])
        size = int(ordered.window_ends[window] - ordered.window_starts[window])
        return (
            f"resumes in pass {number + 1}, window {window + 1} of {len(ordered.window_ends)}: "
            f"{before:,} of its {size:,} samples were drawn before and are skipped"
        )

    def _samples(self, number: int, windows: NDArray, positions: NDArray) -> NDArray[np.int64]:
        ordered = self._pass(number)
        moved = np.empty_like(positions)
        for window in np.unique(windows).tolist():
            here = windows == window
            start, end = int(ordered.window_starts[window]), int(ordered.window_ends[window])
            key = seeds.number(self.seed, f"window/{self.source}", number, window)
            moved[here] = start + permute(positions[here] - start, end - start, key)
        return self._at(ordered, moved)

    def _at(self, ordered: _Pass, positions: NDArray) -> NDArray[np.int64]:
        """The samples at some positions of a pass, its shards one after another: int64[n] -> int64[n]."""
        which = np.searchsorted(ordered.shard_ends, positions, side="right")
        shards = ordered.order[which]
        return self._starts[shards] + positions - (ordered.shard_ends[which] - self.counts[shards])

    def _position_of(self, ordered: _Pass, index: int) -> int:
        """The inverse of `_at` for one sample: its position in a pass."""
        shard = int(np.searchsorted(self._starts + self.counts, index, side="right"))
        which = int(np.flatnonzero(ordered.order == shard)[0])
        return int(ordered.shard_ends[which] - self.counts[shard] + index - self._starts[shard])

    def _pass(self, number: int) -> _Pass:
        if number not in self._passes:
            key = seeds.number(self.seed, f"shards/{self.source}", number)
            order = permute(np.arange(len(self.counts)), len(self.counts), key)
            ends = np.cumsum(self.counts[order])
            last = np.minimum(np.arange(self.window, len(ends) + self.window, self.window), len(ends)) - 1
            window_ends = ends[last]
            starts = np.concatenate([[0], window_ends[:-1]])
            self._passes = {key: self._passes[key] for key in list(self._passes)[-1:]}
            self._passes[number] = _Pass(order, ends, starts, window_ends)
        return self._passes[number]

    def _announce(self, windows: list[tuple[int, int]], drawn: int) -> None:
        if self._process != os.getpid():
            self._process, self._now = os.getpid(), ()
            if drawn >= RESUME_LOG_FROM and _is_first_worker():
                logger.info("source %s %s", self.source, self.resume_text(drawn))
        if self._follow is None or not windows or tuple(windows) == self._now:
            return
        self._now = tuple(windows)
        number, window = max(windows)
        if window + 1 < len(self._pass(number).window_ends):
            after = self._shards(number, window + 1)
        else:
            after = self._shards(number + 1, 0)
        self._follow([shard for window in windows for shard in self._shards(*window)], after)

    def _shards(self, number: int, window: int) -> list[int]:
        return self._pass(number).order[window * self.window : (window + 1) * self.window].tolist()


def _is_first_worker() -> bool:
    """Whether this process reports for the run: the first worker of the first rank."""
    data = sys.modules.get("torch.utils.data")  # without it there are no workers
    worker = data.get_worker_info() if data else None
    return os.environ.get("RANK", "0") == "0" and (worker is None or worker.id == 0)
