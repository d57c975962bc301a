"""The answer to a request as an iterator, for the thread that asked."""

from __future__ import annotations

import queue
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from dataclasses import replace

from chatbridge.conversation.messages import Part
from chatbridge.serve.answer import Answer, are_same
from chatbridge.serve.growing_answer import GrowingAnswer
from chatbridge.serve.rendering import progress_of
from chatbridge.serve.scheduler import Request, Scheduler
from chatbridge.serve.scheduler.requests import Begun, Event, Failed, Finished, Grown, Rendering

POLL_S = 0.05  # between two looks at `is_stopped` while no token comes
MOST_BEHIND = 16  # tokens; a caller that is further behind gets them at once
RELEASE_S = 2.0  # longest wait until the place of an answer that was stopped is free

IsStopped = Callable[[], bool]


class AnswerStream(Iterator[Answer]):
    """Answers of growing length, the last one complete; see `ChatEngine.stream`.

    Closing it, or dropping it, ends the request before its next token.
    """

    def __init__(self, scheduler: Scheduler, request: Request, growing: GrowingAnswer, is_stopped: IsStopped) -> None:
        """The request waits for its answer from now on. raises Busy or Unavailable"""
        self._scheduler, self._request = scheduler, request
        self._answers = _answers(scheduler, request, growing, is_stopped)
        scheduler.submit(request)

    def __next__(self) -> Answer:
        return next(self._answers)

    def close(self) -> None:
        """End the request; returns when its place is free."""
        self._answers.close()
        self._scheduler.cancel(self._request, RELEASE_S)

    def is_over(self, wait_s: float = 0.0) -> bool:
        """Whether its place is free, within so many seconds."""
        return self._request.is_over.wait(wait_s)

    def __del__(self) -> None:
        with suppress(Exception):  # the interpreter may be ending
            self._scheduler.cancel(self._request)


def _answers(
    scheduler: Scheduler, request: Request, growing: GrowingAnswer, is_stopped: IsStopped
) -> Generator[Answer]:
    parts: tuple[Part, ...] = ()
    try:
        while (event := _next_event(request, is_stopped)) is not None:
            if isinstance(event, Finished):
                yield growing.complete(event)
                return
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Begun):
                growing.begin(event)
            elif isinstance(event, Grown):
                growing.grow(event)
                if request.events.qsize() < MOST_BEHIND and not are_same(grown := growing.parts, parts):
                    parts = grown
                    yield growing.now(parts)
            else:
                yield from _rendered(request, event, growing.now(parts, event.caption), is_stopped)
                scheduler.resume(request)
    finally:
        scheduler.cancel(request, RELEASE_S)


def _next_event(request: Request, is_stopped: IsStopped) -> Event | None:
    """What the scheduler tells next; None once the caller wants no more."""
    while not is_stopped():
        with suppress(queue.Empty):
            return request.events.get(timeout=POLL_S)
    return None


def _rendered(request: Request, event: Rendering, now: Answer, is_stopped: IsStopped) -> Iterator[Answer]:
    """The answer while an image is rendered."""
    yield now
    with closing(progress_of(event.render, lambda: is_stopped() or request.is_over.is_set())) as shares:
        yield from (replace(now, rendered=share) for share in shares)


__all__ = ["AnswerStream"]
