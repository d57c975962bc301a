"""Which frames of a video, or slices of audio, to take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

Choices = list[tuple[int, list[int]]]  # (number of items there were, indices that were taken), in order of time
_watching: ContextVar[Choices | None] = ContextVar("watching", default=None)


@contextmanager
def watched() -> Iterator[Choices]:
    """Collects the choices made inside, so that a tool can show which frames a sample consists of."""
    choices: Choices = []
    token = _watching.set(choices)
    try:
        yield choices
    finally:
        _watching.reset(token)


def taken(length: int, picks: list[int]) -> list[int]:
    """`picks`, noted for `watched`."""
    choices = _watching.get()
    if choices is not None:
        choices.append((length, picks))
    return picks


def sample_frames(length: int, count: int, rng: np.random.Generator | None = None) -> list[int]:
    """One index from each of `count` consecutive groups of 0..length-1.

    Groups differ by one at most, longer ones first; a list that is too short repeats its last item. Training takes a
    random member of each group, evaluation (rng None) the lower middle one.
    Source: joez17/ChatBridge, training mappers; golden chatbridge_frame_sampling, split.
    """
    picks = []
    for first, size in groups(length, count):
        picks.append(first + ((size + 1) // 2 - 1 if rng is None else int(rng.integers(size))))
    return taken(length, picks)


def groups(length: int, count: int) -> list[tuple[int, int]]:
    """(first index, size) of each group.

    raises   ValueError when there is nothing to sample from
    """
    if length < 1 or count < 1:
        raise ValueError(f"cannot choose {count} of {length} items")
    if length < count:
        return [(min(i, length - 1), 1) for i in range(count)]
    size, larger = divmod(length, count)
    return [(i * size + min(i, larger), size + (i < larger)) for i in range(count)]


def uniform_frames(length: int, count: int) -> list[int]:
    """Evenly from 0: floor(i * length / n) for n = min(count, length) indices, fewer than `count` for a short video.

    Integer arithmetic; the reference stepped a float and returned one index too many for some pairs (7 of 17).
    Source: joez17/ChatBridge, demo and evaluation of mp4 files; golden chatbridge_frame_sampling, uniform.
    """
    if length < 1 or count < 1:
        raise ValueError(f"cannot choose {count} of {length} frames")
    count = min(count, length)
    return taken(length, [i * length // count for i in range(count)])
