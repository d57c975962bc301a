"""A cache that is bounded in bytes: what was used longest ago goes first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor

from chatbridge.common.forked import renew_in_children
from chatbridge.processors.limits import MB

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True)
class CacheCounts:
    """What a cache holds now, and how often a look-up has found something, or nothing, since the start."""

    num_bytes: int
    num_entries: int
    hits: int
    misses: int


class BoundedCache(Generic[K, V]):
    """Values by key, of at most so many bytes together. Any number of threads may use it.

    A value that alone is larger than the limit is not kept.
    """

    def __init__(self, max_mb: float, size_of: Callable[[V], int]) -> None:
        """
        max_mb    limit in MB; 0: nothing is kept
        size_of   bytes of a value
        """
        self._most, self._size_of = int(max_mb * MB), size_of
        self._held: OrderedDict[K, tuple[V, int]] = OrderedDict()  # from the least recently used on
        self._num_bytes = self._hits = self._misses = 0
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """With a lock that nobody holds."""
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        """The value, which then counts as used last; None without one."""
        with self._lock:
            found = self._held.get(key)
            if found is None:
                self._misses += 1
                return None
            self._hits += 1
            self._held.move_to_end(key)
            return found[0]

    def put(self, key: K, value: V) -> None:
        """Keep a value in place of the one that the key had; the least recently used ones beyond the limit go."""
        size = self._size_of(value)
        with self._lock:
            self._drop(key)
            if size > self._most:
                return
            self._held[key] = value, size
            self._num_bytes += size
            while self._num_bytes > self._most:
                self._drop(next(iter(self._held)))

    def forget(self) -> None:
        """Drop everything; the counts of look-ups stay."""
        with self._lock:
            self._held.clear()
            self._num_bytes = 0

    def counts(self) -> CacheCounts:
        """What it holds now, and the look-ups since the start."""
        with self._lock:
            return CacheCounts(self._num_bytes, len(self._held), self._hits, self._misses)

    def _drop(self, key: K) -> None:
        if (held := self._held.pop(key, None)) is not None:
            self._num_bytes -= held[1]


def tensor_bytes(*roots: Any) -> int:
    """Bytes of the memory behind all tensors in some objects: each block once and whole, however little is seen."""
    blocks: dict[tuple[Any, int], int] = {}
    seen: set[int] = set()
    stack: list[Any] = list(roots)
    while stack:
        one = stack.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, Tensor):
            storage = one.untyped_storage()
            blocks[one.device, storage.data_ptr()] = storage.nbytes()
        elif isinstance(one, dict):
            stack.extend(one.values())
        elif isinstance(one, (list, tuple)):
            stack.extend(one)
        elif _may_hold_tensors(type(one)) and hasattr(one, "__dict__"):
            stack.extend(vars(one).values())
    return sum(blocks.values())


def _may_hold_tensors(kind: type) -> bool:
    is_known = kind.__module__.split(".")[0] in ("chatbridge", "transformers")
    return is_known and not kind.__name__.endswith("Config")


__all__ = ["BoundedCache", "CacheCounts", "tensor_bytes"]
