"""One function applied to many files in several processes; a crash or hang of a decoder affects only its file."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from chatbridge.common.process_pool import LostTask, ProcessPool

AHEAD = 2  # items of a worker: the current one and the next, so that the worker never waits
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # errors of the output disk, which all further items would have
Item = TypeVar("Item")
Result = TypeVar("Result")


class Unusable(ValueError):
    """The reason why an item cannot be used, the same text for the same fault; `detail` is specific to the item."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class Done(Generic[Item, Result]):
    """The result of an item, or the reason why there is none."""

    item: Item
    result: Result | None = None
    reason: str | None = None  # the same text for the same fault
    detail: str = ""  # the message for this item


def spread(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int = 2, limit_s: float = 600
) -> Iterator[Done[Item, Result]]:
    """`function` of every item, in any order.

    workers   processes; 0 uses this one, without a time limit
    limit_s   longest time for an item, in seconds; then its worker is terminated
    raises    OSError for a full or read-only disk. An Unusable of `function` is the reason of its item; any other
              error has the reason "cannot be read" and its message as the detail
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
    """The result that a worker sends: that of the item, or an error of the output disk."""
    try:
        return _attempt(function, item)
    except OSError as error:
        return error


def _attempt(function: Callable[[Any], Any], item: Any) -> Done[Any, Any]:
    try:
        return Done(item, function(item))
    except MemoryError:
        return Done(item, reason="needs more memory than available")
    except Unusable as error:
        return Done(item, reason=str(error), detail=error.detail)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise OSError(error.errno, error.strerror, error.filename) from None  # errors of PyAV are not picklable
        message = " ".join(str(getattr(error, "strerror", None) or error).split())
        return Done(item, reason="cannot be read", detail=f"{type(error).__name__}: {message}")
