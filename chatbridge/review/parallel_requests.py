"""Makes many requests at once, each of which writes its result itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from threading import Event
from typing import TypeVar

from chatbridge.common.errors import DataError
from chatbridge.review.judge_client import NoReply

Item = TypeVar("Item")
CONTINUES = "the same command continues where this one stopped"
MOST_FAILURES = 5  # requests in a row that may fail before the command stops


def run_requests(
    items: Mapping[str, Item], one: Callable[[Item], None], num_threads: int = 1, stop: Event | None = None
) -> dict[str, str]:
    """Call `one` for each item. Returns name -> reason of the items that failed with NoReply.

    raises   JudgeUnusable when no request can succeed, DataError after several failures in a row or as `one` raises it;
             results that are complete are written
    """
    stop = stop or Event()

    def guarded(item: Item) -> None:
        if stop.is_set():
            return
        try:
            one(item)
        except DataError:  # no other request can succeed: this thread must not begin the next one
            stop.set()
            raise

    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="requests")
    try:
        futures = {pool.submit(guarded, item): name for name, item in items.items()}
        return _collect(futures, stop)
    except BaseException:
        stop.set()
        raise
    finally:  # pending replies are paid for: they are still written
        pool.shutdown(wait=True, cancel_futures=True)


def _collect(futures: Mapping[Future[None], str], stop: Event) -> dict[str, str]:
    """Name -> reason of the items that failed. raises DataError after several failures in a row"""
    failed: dict[str, str] = {}
    in_row = 0
    for future in as_completed(futures):
        try:
            future.result()
            in_row = 0
        except NoReply as error:
            if stop.is_set():
                continue
            failed[futures[future]] = str(error)
            in_row += 1
            if in_row == MOST_FAILURES:
                raise DataError(f"{in_row} requests in a row failed; the last one: {error}; {CONTINUES}") from None
    return failed
