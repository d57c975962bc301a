"""Remote tar shards, addressed by number like local ones: fetched into the cache when a sample of them is asked for.

The arrangement says which shards are read now and next (`follow`); a thread of each process that reads fetches them
ahead, one at a time, while samples are decoded. Nothing here decides which sample comes: what is at hand, how many
workers there are and who fetches cannot change the order.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatbridge.common.errors import DataError, MediaError
from chatbridge.datasets.remote_shards.addresses import PIPE, RemoteShard, shown
from chatbridge.datasets.remote_shards.cache import ShardCache
from chatbridge.datasets.remote_shards.locks import HeldShard
from chatbridge.datasets.tars.index import TarIndex
from chatbridge.datasets.tars.local_shards import shard_names
from chatbridge.datasets.tars.scan import WHOLE
from chatbridge.datasets.workers.time_limit import timer_paused


@dataclass
class _Process:
    """What one process has open; made anew after a fork."""

    pid: int
    holds: OrderedDict[int, HeldShard] = field(default_factory=OrderedDict)
    mutex: threading.Lock = field(default_factory=threading.Lock)
    thread: threading.Thread | None = None
    tried: set[int] = field(default_factory=set)  # shards that the thread had a try at since the window moved
    is_moved: bool = False  # the window moved on, and nobody acted on it yet


class RemoteShards:
    """The shards of one source.

    shards       in the order of their patterns
    is_nominal   the samples per shard are a round number from the configuration: rows wrap around in a sound shard that
                 has fewer, and are left out in one that has more
    most_open    shards that a process keeps when nobody says which are needed
    forget       called with every file that may be removed from now on, so that nobody keeps it open
    """

    def __init__(
        self,
        shards: Sequence[RemoteShard],
        cache: ShardCache,
        is_nominal: bool,
        most_open: int,
        forget: Callable[[Path], None],
    ):
        self.shards, self.cache = tuple(shards), cache
        self.counts = [shard.samples for shard in shards]
        self.names = shard_names([_parts(shard) for shard in shards])
        self._is_nominal, self._most_open, self._forget = is_nominal, most_open, forget
        self._wanted: tuple[int, ...] = ()  # what is read now, then what comes next
        self._process = _Process(-1)

    def name(self, number: int) -> str:
        return self.names.get(number) or self.shards[number].name

    def follow(self, now: list[int], after: list[int]) -> None:
        """Take note of the shards that are read now and next; fetching begins with the next sample that is read."""
        self._wanted = tuple(dict.fromkeys(now + after))
        self._mine().is_moved = True

    def open(self, number: int) -> TarIndex:
        """A shard to read from. raises MediaError when it cannot be fetched, DataError when the disk is full"""
        mine = self._mine()
        if mine.is_moved:
            self._move_on(mine)
        hold = mine.holds.get(number)
        if hold is None:
            with timer_paused():  # a download is no fault of the sample that waits for it
                hold = self.cache.hold(self.shards[number])
            assert hold is not None, "hold waits unless it is told not to"
            self._let_go(
                mine, {*self._wanted, number} if self._wanted else set(list(mine.holds)[1 - self._most_open :])
            )
            with mine.mutex:
                mine.holds[number] = hold
        return hold.index

    def row(self, number: int, row: int, index: TarIndex) -> int:
        """Which row of the shard a sample means; the shard may hold another number of samples than was said."""
        if row < index.count:
            return row
        if index.damage != WHOLE:  # what is missing here is a loss, whatever number was said
            raise MediaError(f"the shard {self.name(number)} {index.fault}")
        if self._is_nominal and index.count:
            return row % index.count
        if not index.count:
            raise MediaError(f"the shard {self.name(number)} holds no samples")
        raise MediaError(
            f"the shard {self.name(number)} holds {index.count} samples, {self.shards[number].samples} were expected; "
            f"write its manifest anew and remove the counts.*.json in {self.cache.folder}"
        )

    def at_hand(self) -> dict[int, TarIndex]:
        """The shards that lie in the cache."""
        here = ((number, self._index_at_hand(shard)) for number, shard in enumerate(self.shards))
        return {number: index for number, index in here if index is not None}

    def _index_at_hand(self, shard: RemoteShard) -> TarIndex | None:
        try:
            return self.cache.index(shard)
        except DataError:  # another process has just made room
            return None

    def _move_on(self, mine: _Process) -> None:
        """Let go of the shards of the last window, and fetch those of the next."""
        mine.is_moved = False
        self._let_go(mine, set(self._wanted))
        with mine.mutex:
            mine.tried.clear()
        with mine.mutex:  # a thread that finds nothing left to do says so in the same breath
            if mine.thread is None or not mine.thread.is_alive():
                mine.thread = threading.Thread(target=self._fetch_wanted, args=(mine,), daemon=True)
                mine.thread.start()

    def _let_go(self, mine: _Process, wanted: set[int]) -> None:
        with mine.mutex:
            idle = [mine.holds.pop(number) for number in list(mine.holds) if number not in wanted]
        for hold in idle:
            self._forget(hold.index.tar)
            self._forget(hold.index.file)
            hold.release()

    def _fetch_wanted(self, mine: _Process) -> None:
        """Runs in a thread. Whatever fails here fails again, and is told, when a sample asks for the shard."""
        while True:
            with mine.mutex:
                todo = [number for number in self._wanted if number not in mine.holds and number not in mine.tried]
                if not todo:
                    mine.thread = None
                    return
                mine.tried.add(todo[0])
            with suppress(Exception):
                hold = self.cache.hold(self.shards[todo[0]], wait=False)
                if hold is not None:
                    with mine.mutex:
                        mine.holds.setdefault(todo[0], hold)

    def _mine(self) -> _Process:
        if self._process.pid != os.getpid():
            self._process = _Process(os.getpid())
        return self._process

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_process"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _process=_Process(-1))


def _parts(shard: RemoteShard) -> list[str]:
    """The folders and the name of a shard in its address; of a command the name alone."""
    return [shard.name] if shard.address.startswith(PIPE) else shown(shard.address).split("/")
