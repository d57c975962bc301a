"""Remote tar shards by number, like local ones: downloaded into the cache when a sample of them is read.

The window shuffle announces the shards that are read now and next (`follow`); a thread of each reading process
downloads them ahead, one at a time, while samples are decoded. None of this changes the order: it depends neither on
the shards in the cache, nor on the number of workers, nor on which process downloads.
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
    """The shards that one process has open; a fork starts with none."""

    pid: int
    held: OrderedDict[int, HeldShard] = field(default_factory=OrderedDict)
    mutex: threading.Lock = field(default_factory=threading.Lock)
    thread: threading.Thread | None = None
    tried: set[int] = field(default_factory=set)  # shards that the thread tried since the window changed
    has_new_window: bool = False  # and no shard of it was opened yet


class RemoteShards:
    """The shards of one source.

    shards       in the order of their patterns
    is_nominal   the samples per shard are a nominal number from the configuration: an undamaged shard with fewer
                 repeats some, one with more has some that are never read
    most_open    shards that a process keeps open without `follow`
    forget       called with every file that may be removed from now on, to close it
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
        """A name that no other shard has: the file name, with folders if necessary."""
        return self.names.get(number) or self.shards[number].name

    def follow(self, now: list[int], after: list[int]) -> None:
        """Set the shards that are read now and next; downloads start when the next sample is read."""
        self._wanted = tuple(dict.fromkeys(now + after))
        self._own_state().has_new_window = True

    def open(self, number: int) -> TarIndex:
        """The index of a shard, downloaded if necessary.

        raises   MediaError if the download fails, DataError if the disk is full
        """
        state = self._own_state()
        if state.has_new_window:
            self._change_window(state)
        hold = state.held.get(number)
        if hold is None:
            with timer_paused():  # a download does not count as reading time of a sample
                hold = self.cache.hold(self.shards[number])
            assert hold is not None, "with wait=True, hold returns a shard"
            self._release(
                state, {*self._wanted, number} if self._wanted else set(list(state.held)[1 - self._most_open :])
            )
            with state.mutex:
                state.held[number] = hold
        return hold.index

    def row(self, number: int, row: int, index: TarIndex) -> int:
        """The index row of a sample; the shard may hold a different number of samples than expected."""
        if row < index.count:
            return row
        if index.damage != WHOLE:  # the rest of the shard is lost, whatever number was expected
            raise MediaError(f"the shard {self.name(number)} {index.fault}")
        if self._is_nominal and index.count:
            return row % index.count
        if not index.count:
            raise MediaError(f"the shard {self.name(number)} holds no samples")
        raise MediaError(
            f"the shard {self.name(number)} holds {index.count} samples, expected {self.shards[number].samples}; "
            f"write its manifest again and remove the counts.*.json in {self.cache.folder}"
        )

    def available(self) -> dict[int, TarIndex]:
        """The shards that are in the cache now."""
        here = ((number, self._available_index(shard)) for number, shard in enumerate(self.shards))
        return {number: index for number, index in here if index is not None}

    def _available_index(self, shard: RemoteShard) -> TarIndex | None:
        try:
            return self.cache.index(shard)
        except DataError:  # another process has just removed it
            return None

    def _change_window(self, state: _Process) -> None:
        """Release the shards of the last window and download those of the new one."""
        state.has_new_window = False
        self._release(state, set(self._wanted))
        with state.mutex:
            state.tried.clear()
        with state.mutex:  # the thread clears `state.thread` under the same lock
            if state.thread is None or not state.thread.is_alive():
                state.thread = threading.Thread(target=self._download_ahead, args=(state,), daemon=True)
                state.thread.start()

    def _release(self, state: _Process, wanted: set[int]) -> None:
        with state.mutex:
            idle = [state.held.pop(number) for number in list(state.held) if number not in wanted]
        for hold in idle:
            self._forget(hold.index.tar)
            self._forget(hold.index.file)
            hold.release()

    def _download_ahead(self, state: _Process) -> None:
        """Download in a thread. An error here occurs again, and is reported, when a sample of the shard is read."""
        while True:
            with state.mutex:
                todo = [number for number in self._wanted if number not in state.held and number not in state.tried]
                if not todo:
                    state.thread = None
                    return
                state.tried.add(todo[0])
            with suppress(Exception):
                hold = self.cache.hold(self.shards[todo[0]], wait=False)
                if hold is not None:
                    with state.mutex:
                        state.held.setdefault(todo[0], hold)

    def _own_state(self) -> _Process:
        if self._process.pid != os.getpid():
            self._process = _Process(os.getpid())
        return self._process

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_process"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _process=_Process(-1))


def _parts(shard: RemoteShard) -> list[str]:
    """The folders and the name of a shard in its address; of a command only the name."""
    return [shard.name] if shard.address.startswith(PIPE) else shown(shard.address).split("/")
