"""One function over many files in several processes; a file that crashes or hangs its decoder costs itself alone."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from chatbridge.common.process_pool import LostTask, ProcessPool

AHEAD = 2  # files a worker holds: one more than it works on, so that it need not wait for the next
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # of where results go: no fault of the item, and the next one's too
Item = TypeVar("Item")
Result = TypeVar("Result")


class Unusable(ValueError):
    """Why an item cannot be used, in the same few words for the same fault; `detail` is this one's own."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class Done(Generic[Item, Result]):
    """What became of an item: a result, or the reason why there is none."""

    item: Item
    result: Result | None = None
    reason: str | None = None  # a few words, the same for the same fault
    detail: str = ""  # what this item's decoder said


def spread(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int = 2, limit_s: float = 600
) -> Iterator[Done[Item, Result]]:
    """`function` of every item, in any order.

    workers   processes; 0 works in this one, without a time limit
    limit_s   seconds an item may take before its worker is ended
    An Unusable that `function` raises is the reason; any other error is "cannot be read" with the error's own words as
    the detail. A disk that is full or read-only is raised.
    """
    items = list(items)
    if not items or workers == 0:
        yield from (_attempt(function, item) for item in items)
        return
    pool: ProcessPool[Item, Any] = ProcessPool(partial(_answer, function), min(workers, len(items)), limit_s, AHEAD)
    for item, answer in pool.results(items):
        if isinstance(answer, OSError):
            raise answer
        yield Done(item, reason=answer.reason, detail=answer.detail) if isinstance(answer, LostTask) else answer


def _answer(function: Callable[[Any], Any], item: Any) -> Done[Any, Any] | OSError:
    """What travels from a worker: what became of the item, or why no other would fare better."""
    try:
        return _attempt(function, item)
    except OSError as error:
        return error


def _attempt(function: Callable[[Any], Any], item: Any) -> Done[Any, Any]:
    try:
        return Done(item, function(item))
    except MemoryError:
        return Done(item, reason="needs more memory than there is")
    except Unusable as error:
        return Done(item, reason=str(error), detail=error.detail)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise OSError(error.errno, error.strerror, error.filename) from None  # PyAV's own do not travel
        words = " ".join(str(getattr(error, "strerror", None) or error).split())
        return Done(item, reason="cannot be read", detail=f"{type(error).__name__}: {words}")
