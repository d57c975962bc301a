"""What each rank does now, where every rank can read it without waiting for another."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch.distributed as dist

from chatbridge.runners.watchers import Phase


@dataclass(frozen=True)
class Doing:
    """The phase of one rank.

    step     finished steps
    seconds  since the phase began, when this was written
    beat     grows with each writing, so readers need no common clock
    """

    phase: Phase
    step: int
    seconds: float
    beat: int


class Board(Protocol):
    """Texts by key. Each call is atomic, returns at once, and fails silently: a watchdog must not fail itself."""

    def put(self, key: str, text: str) -> None: ...
    def get(self, key: str) -> str | None: ...
    def claim(self, key: str, text: str) -> bool:
        """Put a text unless the key was claimed; returns whether it was put. One of all ranks succeeds."""
        ...


class StoreBoard:
    """A board in the store of the process group, through a connection of its own.

    The connection of the process group has a lock that a blocked collective may hold.
    """

    def __init__(self, store: Any) -> None:
        self.store = store

    @classmethod
    def of_process_group(cls) -> StoreBoard:
        """The board of all ranks; `torch.distributed` must be initialised."""
        from torch._C._distributed_c10d import PrefixStore
        from torch.distributed.distributed_c10d import _get_default_store

        store: Any = _get_default_store()
        return cls(PrefixStore("chatbridge/board", store.clone()))

    def put(self, key: str, text: str) -> None:
        self._quiet(lambda: self.store.set(key, text), None)

    def get(self, key: str) -> str | None:
        return self._quiet(lambda: self.store.get(key).decode() if self.store.check([key]) else None, None)

    def claim(self, key: str, text: str) -> bool:
        is_first = self._quiet(lambda: self.store.add(f"claims/{key}", 1) == 1, True)
        if is_first:
            self.put(key, text)
        return is_first

    def _quiet(self, call: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return call()
        except (RuntimeError, dist.DistError):  # its server is gone
            return otherwise


class Ranks:
    """The notes of all ranks on a board, and since when this process has seen them."""

    def __init__(self, board: Board, rank: int, world_size: int) -> None:
        self.board, self.rank, self.world_size = board, rank, world_size
        self._beat = 0
        self._seen: dict[int, tuple[Doing, float]] = {}  # rank -> its newest note, when it was first read

    def publish(self, phase: Phase, step: int, seconds: float) -> None:
        """Write the note of this rank."""
        self._beat += 1
        self.board.put(f"doing/{self.rank}", json.dumps(asdict(Doing(phase, step, seconds, self._beat))))

    def look(self) -> None:
        """Read the notes of the others; call it regularly."""
        for rank in range(self.world_size):
            text = None if rank == self.rank else self.board.get(f"doing/{rank}")
            if text is None:
                continue
            found = Doing(**json.loads(text))
            if rank not in self._seen or self._seen[rank][0].beat != found.beat:
                self._seen[rank] = found, time.monotonic()

    def others(self) -> dict[int, tuple[Doing, float]]:
        """Rank -> its newest note and how long ago it came, in seconds."""
        now = time.monotonic()
        return {rank: (note, now - at) for rank, (note, at) in self._seen.items()}
