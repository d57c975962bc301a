"""Ranks that torchrun restarts meet apart from those that were killed, whose keys are still in the store."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch._C._distributed_c10d import TCPStore

from chatbridge.common.rendezvous import fresh_store

WAIT = timedelta(seconds=30)


@pytest.fixture
def server() -> TCPStore:
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=WAIT)


def client(server: TCPStore) -> TCPStore:
    return TCPStore("127.0.0.1", server.port, is_master=False, wait_for_workers=False, timeout=WAIT)


def test_every_start_has_its_own_keys(server: TCPStore) -> None:
    """Fails when ranks of one start disagree about the prefix, or see a key of an earlier start."""
    for start in range(6):
        with ThreadPoolExecutor(4) as pool:
            ranks = [pool.submit(fresh_store, client(server), rank, 4, WAIT) for rank in range(4)]
            stores = [one.result() for one in ranks]
        assert not stores[3].check(["address"])
        stores[2].set("address", f"of start {start}")
        assert {store.get("address") for store in stores} == {f"of start {start}".encode()}


def test_a_start_that_was_killed_half_way_is_forgotten(server: TCPStore) -> None:
    """Fails when rank 0 accepts the greeting of a killed rank, or a rank the answer of a killed rank 0."""
    for key, value in (("greeting/1", "old"), ("answer/1", "old stale"), ("confirmed/1", "stale")):
        server.set(f"chatbridge/{key}", value)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(fresh_store, client(server), 0, 2, WAIT)
        with pytest.raises(TimeoutError):  # the second rank has not started, though its old greeting is there
            first.result(timeout=0.3)
        second = pool.submit(fresh_store, client(server), 1, 2, WAIT)
        first.result().set("key", "value")
        assert second.result().get("key") == b"value"


def test_missing_ranks_are_named(server: TCPStore) -> None:
    """Fails when a rank waits for ever, or does not tell for whom."""
    with pytest.raises(TimeoutError, match=r"ranks \[1, 2\] did not start"):
        fresh_store(client(server), 0, 3, timedelta(seconds=0.1))
    with pytest.raises(TimeoutError, match="rank 0 did not start"):
        fresh_store(client(server), 1, 3, timedelta(seconds=0.1))
