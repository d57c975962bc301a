"""The scheduler: one thread runs the model for all requests, a token for each of them per step."""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from chatbridge.common.log import get_logger
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.drawing.positions import Position
from chatbridge.models.language.cache import Cache
from chatbridge.processors.limits import ChatLimits
from chatbridge.serve.backend import Busy, Unavailable
from chatbridge.serve.scheduler.beginnings import Beginning, Beginnings, seeded
from chatbridge.serve.scheduler.counters import Stats
from chatbridge.serve.scheduler.lanes import BatchLane, Lane, SoloLane
from chatbridge.serve.scheduler.requests import End, Failed, Finished, Request

log = get_logger(__name__)
IDLE_S = 10.0  # without a request for so long, the thread ends; the next request starts another one
PARKED_S = 0.05  # between two looks while all requests wait for something beside the model
READ_AHEAD = 512  # positions of new prompts that are read between two steps of running requests
CLOSED = "the engine is closed; build another one to ask further questions"


class Scheduler:
    """Answers requests of any number of threads; see `Request`.

    A request waits until one of `limits.max_batch` places is free, in the order of asking. Requests that can share a
    batch do; the others take turns with it. What happens to one request does not change the answer of another.
    """

    def __init__(self, model: ChatModel, beginnings: Beginnings, limits: ChatLimits) -> None:
        self.model, self.beginnings, self.limits = model, beginnings, limits
        self.counters = beginnings.counters
        self._waiting: deque[Request] = deque()
        self._changed = threading.Condition()  # guards _waiting, _thread, _is_closed and the flags of requests
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self._lanes: list[Lane] = []  # of the scheduler's thread alone, as is all that follows
        self._beginning: Beginning | None = None
        self._num_places = limits.max_batch
        self._searching: Lane | None = None  # the beam search within which others are stepped
        _all.add(self)

    def submit(self, request: Request) -> None:
        """Let a request wait for its place. raises Busy when too many wait, Unavailable once it is closed"""
        with self._changed:
            if self._is_closed:
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
            for lane in self._lanes:
                if isinstance(lane, SoloLane) and request in lane.requests:
                    lane.is_parked = False
            self._changed.notify_all()

    def close(self, wait_s: float = 5.0) -> None:
        """End all requests; their callers get Unavailable. Later ones are refused."""
        with self._changed:
            self._is_closed = True
            thread = self._thread
            self._changed.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join(wait_s)

    @property
    def is_closed(self) -> bool:
        """Whether it refuses requests."""
        return self._is_closed

    @property
    def num_running(self) -> int:
        """Requests that have a place."""
        return sum(len(lane.requests) for lane in tuple(self._lanes)) + (self._beginning is not None)

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
            try:
                has_done = self._turn()
            except BaseException as error:  # a bug of the scheduler: nobody may wait for an answer in vain
                log.exception("the scheduler failed")
                self._fail_all(error)
                continue
            if not has_done:  # all wait for something beside the model
                with self._changed:
                    self._changed.wait(PARKED_S)

    def _has_work(self) -> bool:
        """Wait for a request; False when the thread has to end, because none came or the scheduler is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._is_busy, IDLE_S)
            if self._is_busy and not self._is_closed:
                return True
            self._thread = None
            self._num_places = self.limits.max_batch
            waiting, self._waiting = self._waiting, deque()
        self._fail_all(Unavailable(CLOSED), waiting)
        return False

    @property
    def _is_busy(self) -> bool:
        return bool(self._waiting or self._beginning or any(lane.requests for lane in self._lanes))

    def _turn(self) -> bool:
        """End what was cancelled or is late, let requests begin, and generate one more token of each; returns whether
        there was anything to do."""
        self._end_some()
        has_done = self._begin_some()
        for lane in tuple(self._lanes):
            if self._has_turn(lane):
                self._step(lane)
                has_done = True
        self._lanes = [lane for lane in self._lanes if lane.requests or lane is self._searching]
        return has_done

    def _has_turn(self, lane: Lane) -> bool:
        """Whether a lane can go on now; it may have gone meanwhile, and searches wait for each other."""
        is_held_up = self._searching is not None and isinstance(lane, SoloLane) and lane.is_search
        return lane in self._lanes and bool(lane.requests) and not lane.is_parked and not is_held_up

    def _end_some(self) -> None:
        now = time.monotonic()
        with self._changed:
            left = [one for one in self._waiting if one.is_cancelled or one.is_late(now)]
            for one in left:
                self._waiting.remove(one)
        for request in left:
            self._over(request, "cancelled" if request.is_cancelled else "time", Finished((), end="time"))
        if (own := self._beginning) is not None and (own.request.is_cancelled or own.request.is_late(now)):
            self._beginning = None
            self._over(own.request, "cancelled" if own.request.is_cancelled else "time", Finished((), end="time"))
        for lane in tuple(self._lanes):
            for request in lane.requests:
                if (request.is_cancelled or request.is_late(now)) and lane is not self._searching:
                    self._end(lane, request)

    def _end(self, lane: Lane, request: Request) -> None:
        try:
            found = lane.end(request)
        except Exception as error:
            self._replace(lane, error)
            return
        is_cancelled = request.is_cancelled
        finished = Finished(found.ids, found.logprobs, found.drawn, "time", found.is_full)
        self._over(request, "cancelled" if is_cancelled else "time", finished)

    def _begin_some(self) -> bool:
        """Let requests begin while there are places, as many positions per turn as `READ_AHEAD`; the first one of an
        idle model is read at once. Returns whether any has begun or gone on."""
        is_idle = not any(lane.requests for lane in self._lanes)
        left = READ_AHEAD
        while left > 0 and (self._beginning is not None or self._begin_next()):
            if (own := self._beginning) is None:  # it failed, or runs by itself
                left -= 1
                continue
            num_before = own.num_left
            self._go_on(own, None if is_idle else left)
            is_idle = False
            left -= max(num_before - (own.num_left if self._beginning is own else 0), 1)
        return left < READ_AHEAD

    def _begin_next(self) -> bool:
        """Begin the request that waits longest; False if there is none, or no place for it."""
        with self._changed:
            if not self._waiting or not self._has_place(self._waiting[0]):
                return False
            request = self._waiting.popleft()
        seeded(request)
        self._try_to(request, lambda: self._begin(request))
        return True

    def _has_place(self, request: Request) -> bool:
        running = [one for lane in self._lanes for one in lane.requests]
        if any(one.is_repeated for one in (request, *running)):  # alone, to find the one that fails
            return not running
        return len(running) < self._num_places

    def _try_to(self, request: Request, act: Callable[[], None]) -> None:
        """Do something for a request that begins; an error ends it alone. Where memory is short it begins once more
        without the caches."""
        try:
            act()
        except Exception as error:
            self._beginning = None
            if isinstance(error, torch.OutOfMemoryError) and not request.was_short:
                request.was_short = True
                self.beginnings.forget()
                with self._changed:
                    self._waiting.appendleft(request)
            else:
                self._over(request, "error", Failed(error))

    def _begin(self, request: Request) -> None:
        if request.options.num_beams > 1 or request.layout.template.drawing_ids is not None:
            self._lanes.append(self.beginnings.alone(request, self._keep, self._during))
        else:
            self._beginning = self.beginnings.begin(request)

    def _go_on(self, own: Beginning, most: int | None) -> None:
        """Read as much of a prompt as may be read now; once it is whole, its request joins a batch."""
        if most is not None and own.num_left > most and self.beginnings.can_be_read_in_pieces(own.cache):
            self._try_to(own.request, lambda: self.beginnings.read_some(own, most))
        else:
            self._beginning = None
            self._try_to(own.request, lambda: self._admit(own))

    def _admit(self, own: Beginning) -> None:
        """Let a request join its batch. An error of the others, which an admission may bring about, is not its own."""
        lane = self._batch_of(own.cache)
        try:
            lane.admit(own.request, own.rest, own.cache)
        except Exception as error:
            if not lane.is_torn:
                raise
            self._repeat([own.request])
            self._replace(lane, error)

    def _batch_of(self, cache: Cache) -> BatchLane:
        """The batch that a request joins: models that cannot mask padding have one for each."""
        for lane in self._lanes:
            if isinstance(lane, BatchLane) and (cache.store.paddable or not lane.requests):
                return lane
        lane = BatchLane(self.model, self._keep)
        self._lanes.append(lane)
        return lane

    def _step(self, lane: Lane) -> None:
        began, num_rows = time.monotonic(), len(lane.requests)
        if isinstance(lane, SoloLane) and lane.is_search:
            self._searching = lane
        try:
            finished = lane.step()
        except Exception as error:
            self._replace(lane, error)
            return
        finally:
            if lane is self._searching:
                self._searching = None
        self.counters.add("steps_total", steps=1, rows=num_rows)
        self.counters.add("seconds_total", stepping=time.monotonic() - began)
        for request, found in finished:
            if isinstance(lane, SoloLane) and lane.is_cut:
                found = replace(found, end="time")
                self._over(request, "cancelled" if request.is_cancelled else "time", found)
            else:
                self._over(request, found.end or ("length" if found.is_full else "stop"), found)

    def _during(self, lane: SoloLane) -> bool:
        """Go on with the others before a pass of a beam search. True ends the search with what it has."""
        if self._is_closed:
            raise Unavailable(CLOSED)
        self._turn()
        request = lane.requests[0]
        lane.is_cut = request.is_cancelled or request.is_late(time.monotonic())
        return lane.is_cut

    def _replace(self, lane: Lane, error: Exception) -> None:
        """After a step that failed: what was read is undefined. A request alone ends; of several, each is tried again
        by itself, since one of them may be the reason, and its caller notices nothing but the delay."""
        self._lanes.remove(lane)
        requests = lane.requests
        if isinstance(error, torch.OutOfMemoryError):
            self._num_places = max(len(requests) // 2, 1)
            self.beginnings.forget()
        if len(requests) == 1 or isinstance(lane, SoloLane):
            for request in requests:
                self._over(request, "error", Failed(error))
            return
        log.warning("a step of %d requests failed and is repeated for each: %s", len(requests), error)
        self._repeat(requests)

    def _repeat(self, requests: Sequence[Request]) -> None:
        """Let requests begin again, each alone, before those that wait."""
        with self._changed:
            for request in reversed(requests):
                request.is_repeated = True
                self._waiting.appendleft(request)

    def _keep(self, request: Request, cache: Cache, chosen: list[Position]) -> None:
        self.beginnings.prompt_cache.put(cache, request.batch, chosen, request.digests)

    def _over(self, request: Request, end: End, event: Finished | Failed) -> None:
        """Tell the caller that a request is over; its place is free already."""
        answering = time.monotonic() - request.asked_at
        self.counters.add("requests_total", **{end: 1})
        self.counters.add("seconds_total", answering=answering)
        if isinstance(event, Finished):
            self.counters.add("tokens_total", answer=len(event.ids))
        request.events.put(event)
        request.is_over.set()

    def _fail_all(self, error: BaseException, waiting: Sequence[Request] = ()) -> None:
        lanes, self._lanes = self._lanes, []
        own, self._beginning = self._beginning, None
        requests = [*(one for lane in lanes for one in lane.requests), *([own.request] if own else []), *waiting]
        for request in requests:
            self._over(request, "error", Failed(error))


_all: weakref.WeakSet[Scheduler] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """The interpreter must not end while a thread computes."""
    for scheduler in list(_all):
        scheduler.close()


__all__ = ["Scheduler"]
