"""One request while a vLLM server answers it."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import suppress

from chatbridge.conversation.messages import Part
from chatbridge.serve.answer import Answer, are_same
from chatbridge.serve.growing_answer import GrowingAnswer
from chatbridge.serve.scheduler.requests import Begun, Request
from chatbridge.serve.vllm.answer_ids import AnswerIds
from chatbridge.serve.vllm.http_streams import End, EventStream, HttpFailure
from chatbridge.serve.vllm.wire import WireError, tokens_of

LOOK_S = 0.1  # between two looks at is_stopped while nothing arrives
USAGE_S = 0.05  # to wait for vLLM's own count after the last token
TOO_SLOW = "did not answer in time"


class RunningRequest:
    """Reads the stream of a server and says what there is of the answer.

    num_prompt, num_cached   positions of the prompt, and of these what vLLM did not compute again
    """

    def __init__(self, request: Request, growing: GrowingAnswer, collected: AnswerIds, num_encoded: int) -> None:
        self.request, self.growing, self.collected = request, growing, collected
        self.num_prompt, self.num_cached, self._num_encoded = request.num_prompt, 0, num_encoded
        self._begin_s = time.monotonic() - request.asked_at
        self._tell()

    @property
    def num_tokens(self) -> int:
        """Of the answer so far."""
        return len(self.collected.ids)

    def answers(
        self, stream: EventStream, is_stopped: Callable[[], bool], silent_s: float
    ) -> Generator[Answer, None, HttpFailure | None]:
        """The answer as the server sends it; the generator's value is why it broke off, None if it did not.

        silent_s   most time without an event
        """
        parts: tuple[Part, ...] = ()
        last_at = time.monotonic()
        while self.collected.end is None and not is_stopped():
            if self._seconds_left <= 0:
                self.collected.end = "time"
                break
            item = stream.next(min(LOOK_S, self._seconds_left))
            if item is None:
                if time.monotonic() - last_at > silent_s:
                    return HttpFailure(None, TOO_SLOW)
                continue
            last_at = time.monotonic()
            if (failure := self._taken(item)) is not None:
                return failure
            if self.collected.end is None and not are_same(grown := self.growing.parts, parts):
                parts = grown
                yield self.growing.now(parts)
        if self.collected.end is not None:
            self._read_usage(stream)
            yield self.growing.complete(self.collected.finished)
        return None

    def _taken(self, item: object) -> HttpFailure | None:
        """Take an item of the stream; what is wrong with it."""
        if isinstance(item, HttpFailure):
            return item
        if isinstance(item, End):
            return HttpFailure(502, "ended the stream before the answer was complete")
        try:
            tokens = tokens_of(item, self.request.settings.top_logprobs)
            grown = self.collected.add(tokens)
        except WireError as error:
            return HttpFailure(502, f"sent an event that cannot be read: {error}")
        if grown.ids:
            self.growing.grow(grown)
        return None

    def _read_usage(self, stream: EventStream) -> None:
        """Take the last event, with vLLM's own count, if it comes at once."""
        item = stream.next(USAGE_S) if self.collected.end != "time" else None
        if isinstance(item, dict):
            with suppress(WireError):
                self.num_cached = tokens_of(item).cached or 0
                self._tell()

    def _tell(self) -> None:
        self.growing.begin(Begun(self._begin_s, self.num_cached, self._num_encoded))

    @property
    def _seconds_left(self) -> float:
        """Until the time limit of the request."""
        limit = self.request.settings.time_limit_s
        return float("inf") if limit is None else self.request.asked_at + limit - time.monotonic()


__all__ = ["TOO_SLOW", "RunningRequest"]
