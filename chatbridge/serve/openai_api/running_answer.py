"""An answer that a thread generates and the event loop reads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import anyio.to_thread

from chatbridge.serve.answer import Answer

Ask = Callable[[Callable[[], bool]], Iterator[Answer]]  # is_stopped -> the answers


class StopSwitch:
    """Ends everything that a request runs: threads look at `is_on`, and so may any other part."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def turn_on(self) -> None:
        self._event.set()

    def is_on(self) -> bool:
        return self._event.is_set()


class RunningAnswer:
    """The newest state of one answer.

    The thread replaces it and never waits for the reader: each state holds the whole answer so far, so a client that
    reads slowly misses intermediate states, and no text.

    changed   set when there is something new; several answers may share one
    """

    def __init__(self, ask: Ask, stop: StopSwitch, changed: asyncio.Event) -> None:
        self._ask, self._stop, self._changed = ask, stop, changed
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._newest: Answer | None = None
        self._error: BaseException | None = None
        self._is_over = self._is_asked = False

    def run(self) -> None:
        """Generate the answer, in a thread of its own; errors are kept for `take`."""
        answers: Any = None
        try:
            answers = self._ask(self._stop.is_on)
            self._put(is_asked=True)
            for answer in answers:
                self._put(answer)
        except BaseException as error:
            self._put(error=error)
        finally:
            if hasattr(answers, "close"):
                answers.close()
            self._put(is_over=True)

    def take(self) -> Answer | None:
        """The newest state if it was not taken before; after the last one, raises the error that ended the answer,
        once."""
        with self._lock:
            newest, self._newest = self._newest, None
        if newest is None:
            self.raise_error()
        elif self.has_failed:
            self._changed.set()  # for the reader to come back
        return newest

    def raise_error(self) -> None:
        """Raise the error that ended the answer, once; without one, do nothing."""
        with self._lock:
            error, self._error = self._error, None
        if error is not None:
            raise error

    @property
    def has_failed(self) -> bool:
        """Whether an error ended it that was not raised yet."""
        with self._lock:
            return self._error is not None

    @property
    def is_asked(self) -> bool:
        """Whether the request was accepted; errors after it are of the model."""
        with self._lock:
            return self._is_asked

    @property
    def has_news(self) -> bool:
        """Whether `take` has something to return or to raise, or nothing more will come."""
        with self._lock:
            return self._newest is not None or self._error is not None or self._is_over

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        with self._lock:
            return self._is_over and self._newest is None and self._error is None

    def _put(
        self,
        answer: Answer | None = None,
        error: BaseException | None = None,
        is_asked: bool = False,
        is_over: bool = False,
    ) -> None:
        with self._lock:
            self._newest = answer or self._newest
            self._error = error or self._error
            self._is_asked, self._is_over = self._is_asked or is_asked, self._is_over or is_over
        try:
            self._loop.call_soon_threadsafe(self._changed.set)
        except RuntimeError:  # the server has ended, and its loop is closed
            self._stop.turn_on()


async def in_thread(call: Callable[[], Any]) -> Any:
    """The result of a blocking call, in a thread of its own: requests are limited elsewhere.

    A caller that is cancelled does not wait for the thread, which has to look at a StopSwitch.
    """
    return await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1))


__all__ = ["Ask", "RunningAnswer", "StopSwitch", "in_thread"]
