"""The requests that have a place: they begin, get a token each per turn, and end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from chatbridge.common.log import get_logger
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.drawing.positions import Position
from chatbridge.models.language.cache import Cache
from chatbridge.serve.backend import Unavailable
from chatbridge.serve.scheduler.beginnings import Beginning, Beginnings, seeded
from chatbridge.serve.scheduler.lanes import BatchLane, Lane, SoloLane
from chatbridge.serve.scheduler.requests import CLOSED, End, Failed, Finished, Request
from chatbridge.serve.scheduler.waiting_requests import WaitingRequests

log = get_logger(__name__)
READ_AHEAD = 512  # positions of new prompts that are read between two steps of running requests


class RunningRequests:
    """Lanes, which are stepped in turn, and the request whose prompt is being read.

    One thread uses it; others may read `num` at any time, and call `resume` while they hold `waiting.changed`.
    """

    def __init__(self, model: ChatModel, beginnings: Beginnings, waiting: WaitingRequests, max_batch: int) -> None:
        """
        waiting    where requests come from, and where they go back to when they have to be repeated
        max_batch  requests that have a place at once
        """
        self._model, self._beginnings, self._counters, self._waiting = model, beginnings, beginnings.counters, waiting
        self._lanes: list[Lane] = []
        self._beginning: Beginning | None = None
        self._max_batch = self._num_places = max_batch  # places are fewer after memory was short
        self._num_fitted = 0  # answers since then
        self._searching: Lane | None = None  # the beam search within which others are stepped

    @property
    def num(self) -> int:
        """Requests that have a place."""
        return sum(len(lane.requests) for lane in tuple(self._lanes)) + (self._beginning is not None)

    @property
    def requests(self) -> list[Request]:
        """Those that have a place."""
        running = [one for lane in self._lanes for one in lane.requests]
        return running if self._beginning is None else [*running, self._beginning.request]

    def resume(self, request: Request) -> None:
        """Let a request go on whose image was rendered."""
        for lane in self._lanes:
            if isinstance(lane, SoloLane) and request in lane.requests:
                lane.is_parked = False

    def offer_all_places(self) -> None:
        """Offer as many places as at the start, also if memory was short meanwhile."""
        self._num_places = self._max_batch

    def turn(self) -> bool:
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
        for request in self._waiting.take_ended(now):
            self._cut(request, Finished(()))
        if (own := self._beginning) is not None and own.request.is_to_end(now):
            self._beginning = None
            self._cut(own.request, Finished(()))
        for lane in tuple(self._lanes):
            for request in lane.requests:
                if request.is_to_end(now) and lane is not self._searching:
                    self._end(lane, request)

    def _end(self, lane: Lane, request: Request) -> None:
        try:
            found = lane.end(request)
        except Exception as error:
            self._replace(lane, error)
            return
        self._cut(request, found)

    def _cut(self, request: Request, found: Finished) -> None:
        """Tell the caller that a request is over with the answer so far: it was cancelled, or its time is up."""
        self._over(request, "cancelled" if request.is_cancelled else "time", replace(found, end="time"))

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
        if (request := self._waiting.take_first(self._has_place)) is None:
            return False
        seeded(request)
        self._try_to(request, lambda: self._begin(request))
        return True

    def _has_place(self, request: Request) -> bool:
        running = self.requests
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
                self._beginnings.forget()
                self._waiting.put_first([request])
            else:
                self._over(request, "error", Failed(error))

    def _begin(self, request: Request) -> None:
        if request.options.num_beams > 1 or request.layout.template.drawing_ids is not None:
            self._lanes.append(self._beginnings.alone(request, self._keep, self._during))
        else:
            self._beginning = self._beginnings.begin(request)

    def _go_on(self, own: Beginning, most: int | None) -> None:
        """Read as much of a prompt as may be read now; once it is whole, its request joins a batch."""
        if most is not None and own.num_left > most and self._beginnings.can_be_read_in_pieces(own.cache):
            self._try_to(own.request, lambda: self._beginnings.read_some(own, most))
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
            self._replace(lane, error, is_joined=True)

    def _batch_of(self, cache: Cache) -> BatchLane:
        """The batch that a request joins: models that cannot mask padding have one for each."""
        for lane in self._lanes:
            if isinstance(lane, BatchLane) and (cache.store.paddable or not lane.requests):
                return lane
        lane = BatchLane(self._model, self._keep)
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
        self._counters.add("steps_total", steps=1, rows=num_rows)
        self._counters.add("seconds_total", stepping=time.monotonic() - began)
        for request, found in finished:
            if isinstance(lane, SoloLane) and lane.is_cut:
                self._cut(request, found)
            else:
                self._over(request, found.end or ("length" if found.is_full else "stop"), found)

    def _during(self, lane: SoloLane) -> bool:
        """Go on with the others before a pass of a beam search. True ends the search with what it has."""
        if self._waiting.is_closed:
            raise Unavailable(CLOSED)
        self.turn()
        request = lane.requests[0]
        lane.is_cut = request.is_to_end(time.monotonic())
        return lane.is_cut

    def _replace(self, lane: Lane, error: Exception, is_joined: bool = False) -> None:
        """After a step that failed: what was read is undefined. A request alone ends; of several, each is tried again
        by itself, since one of them may be the reason, and its caller notices nothing but the delay.

        is_joined   whether another request was about to join, and may be the reason
        """
        self._lanes.remove(lane)
        requests = lane.requests
        if isinstance(error, torch.OutOfMemoryError):
            self._num_places, self._num_fitted = max(len(requests) // 2, 1), 0
            self._beginnings.forget()
        is_alone = len(requests) == 1 and not is_joined and not _may_fit(requests[0], error)
        if is_alone or isinstance(lane, SoloLane):
            for request in requests:
                self._over(request, "error", Failed(error))
            return
        log.warning("a step of %d requests failed and is repeated for each: %s", len(requests), error)
        self._repeat(requests)

    def _repeat(self, requests: Sequence[Request]) -> None:
        """Let requests begin again, each alone, before those that wait."""
        for request in requests:
            request.is_repeated = True
        self._waiting.put_first(requests)

    def _keep(self, request: Request, cache: Cache, chosen: list[Position]) -> None:
        self._beginnings.prompt_cache.put(cache, request.batch, chosen, request.digests)

    def _over(self, request: Request, end: End, event: Finished | Failed) -> None:
        """Tell the caller that a request is over; its place is free already."""
        answering = time.monotonic() - request.asked_at
        self._counters.add("requests_total", **{end: 1})
        self._counters.add("seconds_total", answering=answering)
        if isinstance(event, Finished):
            self._counters.add("tokens_total", answer=len(event.ids))
            self._num_fitted += 1
            if self._num_fitted >= 2 * self._num_places < 2 * self._max_batch:
                self._num_places, self._num_fitted = self._num_places + 1, 0
        request.events.put(event)
        request.is_over.set()

    def fail(self, error: BaseException, waiting: Sequence[Request] = ()) -> None:
        """End all of them, and those that wait, without an answer."""
        lanes, self._lanes = self._lanes, []
        own, self._beginning = self._beginning, None
        requests = [*(one for lane in lanes for one in lane.requests), *([own.request] if own else []), *waiting]
        for request in requests:
            self._over(request, "error", Failed(error))


def _may_fit(request: Request, error: Exception) -> bool:
    """Whether memory was short that the caches, or other requests, had; once for each request."""
    is_new = isinstance(error, torch.OutOfMemoryError) and not request.was_short and not request.is_repeated
    request.was_short |= is_new
    return is_new


__all__ = ["RunningRequests"]
