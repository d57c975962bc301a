"""The scheduler: one thread runs the model for all requests, a token for each of them per step."""

from __future__ import annotations

import atexit
import threading
import weakref
from typing import Any

import torch

from chatbridge.common.forked import renew_in_children
from chatbridge.common.log import get_logger
from chatbridge.models.chat_model import ChatModel
from chatbridge.processors.limits import ChatLimits
from chatbridge.serve.backend import Busy, Unavailable
from chatbridge.serve.scheduler.beginnings import Beginnings
from chatbridge.serve.scheduler.counters import Stats
from chatbridge.serve.scheduler.pace import Pace
from chatbridge.serve.scheduler.requests import CLOSED, Request
from chatbridge.serve.scheduler.running_requests import RunningRequests
from chatbridge.serve.scheduler.waiting_requests import WaitingRequests

log = get_logger(__name__)
IDLE_S = 10.0  # without a request for so long, the thread ends; the next request starts another one
PARKED_S = 0.05  # between two looks while all requests wait for something beside the model


class Scheduler:
    """Answers requests of any number of threads; see `Request`.

    A request waits until one of `limits.max_batch` places is free, in the order of asking. Requests that can share a
    batch do; the others take turns with it. What happens to one request does not change the answer of another.
    """

    def __init__(self, model: ChatModel, beginnings: Beginnings, limits: ChatLimits) -> None:
        self.model, self.limits, self.counters = model, limits, beginnings.counters
        self._beginnings = beginnings
        self._begin_empty()
        self._of_parent: tuple[Any, ...] = ()
        _all.add(self)
        renew_in_children(self)

    def _begin_empty(self) -> None:
        self._waiting = WaitingRequests()
        self._running = RunningRequests(self.model, self._beginnings, self._waiting, self.limits.max_batch)
        self._changed = self._waiting.changed
        self._thread: threading.Thread | None = None  # guarded by _changed
        self._pace = Pace()

    def renew(self) -> None:
        """Begin without requests and without a thread, as a forked child has to: those of its parent stay there."""
        # not freed: a thread of the parent may have been within the allocator of the device
        self._of_parent = self._of_parent, self._running, self._waiting
        is_closed = self._waiting.is_closed
        self._begin_empty()
        self._waiting.is_closed = is_closed

    def submit(self, request: Request) -> None:
        """Let a request wait for its place. raises Busy when too many wait, Unavailable once it is closed"""
        with self._changed:
            if self._waiting.is_closed:
                raise Unavailable(CLOSED)
            most = self.limits.max_waiting + max(self.limits.max_batch - self.num_running, 0)
            if len(self._waiting) >= most:
                self.counters.add("requests_total", busy=1)
                raise Busy(
                    f"{len(self._waiting)} requests wait and {self.num_running} are being answered, more than "
                    "evaluation.chat.max_waiting allows; ask again in a moment",
                    retry_s=self._usual_wait(),
                )
            self._waiting.append(request)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def cancel(self, request: Request, wait_s: float = 0.0) -> None:
        """End a request before its next token; does nothing to one that is over.

        wait_s   wait so long for its place to be free and its cache to be kept
        """
        with self._changed:
            request.is_cancelled = True
            self._changed.notify_all()
        if wait_s and threading.current_thread() is not self._thread:
            request.is_over.wait(wait_s)

    def resume(self, request: Request) -> None:
        """Let a request go on whose image was rendered."""
        with self._changed:
            self._running.resume(request)
            self._changed.notify_all()

    def close(self, wait_s: float = 5.0) -> None:
        """End all requests; their callers get Unavailable. Later ones are refused."""
        with self._changed:
            self._waiting.is_closed = True
            thread = self._thread
            self._changed.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join(wait_s)

    @property
    def is_closed(self) -> bool:
        """Whether it refuses requests."""
        return self._waiting.is_closed

    @property
    def num_running(self) -> int:
        """Requests that have a place."""
        return self._running.num

    def stats(self) -> Stats:
        """Requests that run and wait now, and the sums since the start."""
        return {"running": self.num_running, "waiting": len(self._waiting), **self.counters.values()}

    def _usual_wait(self) -> float:
        """Seconds until a place may be free: the mean time of an answer, shared among the places."""
        sums = self.counters.values()
        seconds, requests = sums["seconds_total"], sums["requests_total"]
        assert isinstance(seconds, dict) and isinstance(requests, dict)
        num_answers = sum(requests[kind] for kind in ("stop", "length", "time", "cancelled"))
        return min(max(seconds["answering"] / max(num_answers, 1) / self.limits.max_batch, 1.0), 60.0)

    # ---- the thread that runs the model

    def _run(self) -> None:
        if self.model.device.type == "cuda":
            torch.cuda.set_device(self.model.device)  # each thread has its own
        while self._has_work():
            if self._pace.should_wait([*self._running.requests, *self._waiting.all()]):
                self._pace.wait()
                continue
            try:
                has_done = self._running.turn()
            except BaseException as error:  # a bug of the scheduler: nobody may wait for an answer in vain
                log.exception("the scheduler failed")
                self._running.fail(error)
                continue
            if not has_done:  # all wait for something beside the model
                with self._changed:
                    self._changed.wait(PARKED_S)

    def _has_work(self) -> bool:
        """Wait for a request; False when the thread has to end, because none came or the scheduler is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting.is_closed or self._is_busy, IDLE_S)
            if self._is_busy and not self._waiting.is_closed:
                return True
            self._thread = None
            self._running.offer_all_places()
            waiting = self._waiting.take_all()
        self._running.fail(Unavailable(CLOSED), waiting)
        return False

    @property
    def _is_busy(self) -> bool:
        return bool(self._waiting) or self._running.num > 0


_all: weakref.WeakSet[Scheduler] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """The interpreter must not end while a thread computes."""
    for scheduler in list(_all):
        scheduler.close()


__all__ = ["Scheduler"]
