"""A store for the ranks of this start, apart from those of starts before it.

torchrun keeps one TCPStore over all restarts (torch 2.11). A restarted rank would read the address of a process that
was killed, and fail or wait for it. TORCHELASTIC_RESTART_COUNT cannot tell starts apart: agents of several machines
count for themselves. So the ranks agree on a new prefix for their keys, which no rank of an earlier start can know.
"""

from __future__ import annotations

import os
import time
import uuid
from datetime import timedelta

from torch._C._distributed_c10d import PrefixStore, Store

POLL_S = 0.02


def is_restartable() -> bool:
    """Whether torchrun started this process, so that ranks of an earlier start may have used the same store."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def restart_count() -> int:
    """How often torchrun has restarted the ranks of this machine; 0 at the first start and without torchrun."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def fresh_store(store: Store, rank: int, world_size: int, timeout: timedelta) -> Store:
    """The store under a prefix that only the ranks of this start use. Every rank calls it.

    Rank r writes a greeting with a random word. Rank 0 answers each greeting, also a new one in place of an old one,
    with that word and the prefix, until every rank has confirmed this prefix. A rank takes only an answer to its own
    word, and rank 0 only a confirmation of its own prefix, so values of earlier starts have no effect.
    raises  TimeoutError when ranks are missing
    """
    mine, end = uuid.uuid4().hex, time.monotonic() + timeout.total_seconds()
    prefix = _lead(store, world_size, mine, end) if rank == 0 else _follow(store, rank, mine, end)
    return PrefixStore(f"start_{prefix}", store)


def _lead(store: Store, world_size: int, prefix: str, end: float) -> str:
    missing, greeted = set(range(1, world_size)), dict[int, str]()
    while missing:
        for rank in sorted(missing):
            word = _read(store, f"chatbridge/greeting/{rank}")
            if word is not None and greeted.get(rank) != word:
                greeted[rank] = word
                store.set(f"chatbridge/answer/{rank}", f"{word} {prefix}")
            if _read(store, f"chatbridge/confirmed/{rank}") == prefix:
                missing.discard(rank)
        if missing:
            _wait(end, f"ranks {sorted(missing)}")
    return prefix


def _follow(store: Store, rank: int, word: str, end: float) -> str:
    store.set(f"chatbridge/greeting/{rank}", word)
    while True:
        answered, _, prefix = (_read(store, f"chatbridge/answer/{rank}") or "").partition(" ")
        if answered == word:
            store.set(f"chatbridge/confirmed/{rank}", prefix)
            return prefix
        _wait(end, "rank 0")


def _read(store: Store, key: str) -> str | None:
    """The value of a key; None if there is none, without waiting for it."""
    return store.get(key).decode() if store.check([key]) else None


def _wait(end: float, whom: str) -> None:
    if time.monotonic() > end:
        raise TimeoutError(f"{whom} did not start; are all machines running the same command?")
    time.sleep(POLL_S)
