"""POST /v1/chat/completions: from the body of a request to its answer, whole or as events."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import anyio
from fastapi import Request
from fastapi.responses import Response

from chatbridge.conversation.messages import Conversation, Drawing
from chatbridge.serve.answer import Answer
from chatbridge.serve.backend import Backend, Unavailable
from chatbridge.serve.media_sources import MediaSources
from chatbridge.serve.openai_api.answer_json import Delta, Head, completion, notes_of, usage_json
from chatbridge.serve.openai_api.api_errors import CLIENT_GONE, error_of, json_bytes, json_response
from chatbridge.serve.openai_api.chat_request import ChatRequest, chat_request
from chatbridge.serve.openai_api.conversation import Stopped, conversation_of
from chatbridge.serve.openai_api.event_stream import ClientGone, EventStream, until_disconnect
from chatbridge.serve.openai_api.json_body import json_object
from chatbridge.serve.openai_api.metrics import Metrics
from chatbridge.serve.openai_api.request_body import BodyReader
from chatbridge.serve.openai_api.running_answer import RunningAnswer, StopSwitch, in_thread
from chatbridge.serve.openai_api.settings import ServerSettings

FIRST_NEWS_S = 10.0  # a stream begins after its first token, or after this time: an error before it has its status
HEARTBEAT_S = 15.0  # between two signs of life of a stream: proxies close connections that are silent
T = TypeVar("T")
CLOSING = "the server is shutting down; the answer is not complete"


@dataclass(frozen=True)
class Asked:
    """A request whose media are decoded."""

    request: ChatRequest
    conversation: Conversation
    notes: tuple[str, ...]


class ChatCompletions:
    """Answers the requests of one server.

    model_names  by which requests may name the model; answers have the first
    """

    def __init__(
        self,
        backend: Backend,
        settings: ServerSettings,
        sources: MediaSources,
        metrics: Metrics,
        model_names: tuple[str, ...],
    ) -> None:
        self.backend, self.settings, self.sources, self.metrics = backend, settings, sources, metrics
        self.model_names = model_names
        self.bodies = BodyReader(settings)
        self.fingerprint = "fp_" + hashlib.sha256("\n".join(backend.about).encode()).hexdigest()[:12]

    async def respond(self, request: Request, request_id: str) -> Response:
        """The response to a request; its switch is request.state.stop."""
        stop: StopSwitch = request.state.stop
        is_asked = False
        try:
            asked = await self._asked(request, stop)
            head = Head(self.model_names[0], self.fingerprint)
            changed = asyncio.Event()
            answers = [RunningAnswer(self._ask(asked, one), stop, changed) for one in asked.request.options]
            threads = [asyncio.ensure_future(in_thread(one.run)) for one in answers]  # noqa: F841 keeps them alive
            try:
                await until_disconnect(request.receive, _first_news(answers, changed))
            finally:
                is_asked = all(one.is_asked for one in answers)
            if asked.request.is_streamed:
                events = self._events(head, asked, answers, changed, request_id, stop)
                return EventStream(events, partial(self._end, request, stop))
            whole = await until_disconnect(request.receive, _complete(answers, changed))
            self.metrics.count(whole)
            return json_response(await _encoded(whole[0], partial(completion, head, whole, asked.notes)))
        except (ClientGone, Stopped, asyncio.CancelledError) as error:
            stop.turn_on()
            request.state.is_gone = True
            if isinstance(error, asyncio.CancelledError):
                raise
            return Response(status_code=CLIENT_GONE)
        except Exception as error:
            stop.turn_on()
            return error_of(error, request_id, is_of_request=not is_asked).response

    async def _asked(self, request: Request, stop: StopSwitch) -> Asked:
        """Reads, checks and decodes a request. Its body is let go then."""
        async with self.bodies.read(request) as body:
            return await until_disconnect(request.receive, in_thread(partial(self._read, body, stop)))

    def _read(self, body: bytes, stop: StopSwitch) -> Asked:
        asked = chat_request(json_object(body), self.settings, self.backend.generation, self.model_names)
        conversation, notes = conversation_of(asked.messages, self.backend, self.sources, stop.is_on)
        return Asked(_without_messages(asked), conversation, notes)

    def _ask(self, asked: Asked, options: Any) -> Callable[[Callable[[], bool]], Any]:
        settings = replace(asked.request.settings, is_whole=not asked.request.is_streamed)
        return lambda is_stopped: self.backend.stream(asked.conversation, options, is_stopped, settings)

    async def _events(
        self,
        head: Head,
        asked: Asked,
        answers: Sequence[RunningAnswer],
        changed: asyncio.Event,
        request_id: str,
        stop: StopSwitch,
    ) -> AsyncIterator[bytes]:
        """The events of all choices, then the tokens if they were asked for, then [DONE]; an error ends them."""
        deltas = [Delta(at) for at in range(len(answers))]
        newest: list[Answer | None] = [None] * len(answers)
        with_usage = {"usage": None} if asked.request.with_usage else {}
        try:
            while True:
                changed.clear()
                for at, one in enumerate(answers):
                    if (found := one.take()) is not None:
                        newest[at] = found
                        for choice in await _encoded(found, partial(list, deltas[at].choices(found))):
                            yield _event(head.of("chat.completion.chunk", choices=[choice], **with_usage))
                if all(one.is_over for one in answers):
                    break
                if not await _is_set(changed, HEARTBEAT_S):
                    yield b": waiting\n\n"
            whole = _all_done(newest)
            self.metrics.count(whole)
            notes = notes_of(whole, asked.notes)
            if asked.request.with_usage or notes:
                last = {"usage": usage_json([one.usage for one in whole])} if asked.request.with_usage else {}
                last |= {"notes": notes} if notes else {}
                yield _event(head.of("chat.completion.chunk", choices=[], **last))
            yield b"data: [DONE]\n\n"
        except Exception as error:
            stop.turn_on()
            yield _event(error_of(error, request_id).content)

    def _end(self, request: Request, stop: StopSwitch, is_complete: bool) -> None:
        request.state.is_gone = not is_complete
        stop.turn_on()


def _without_messages(asked: ChatRequest) -> ChatRequest:
    """The request without its media, which may be large; the conversation has them."""
    return replace(asked, messages=())


async def _encoded(answer: Answer, make: Callable[[], T]) -> T:
    """What `make` returns; in a thread where images have to be compressed, since others are answered meanwhile."""
    has_image = any(isinstance(part, Drawing) and part.ref is not None for part in answer.parts)
    return await in_thread(make) if has_image else make()


def _event(content: Any) -> bytes:
    return b"data: " + json_bytes(content) + b"\n\n"


async def _is_set(changed: asyncio.Event, limit_s: float) -> bool:
    """Whether it is set within limit_s. Not asyncio.wait_for: that of Python 3.11 loses a cancellation which comes
    together with the event, and a stream would go on for a client that is gone."""
    with anyio.move_on_after(limit_s):
        await changed.wait()
        return True
    return False


async def _first_news(answers: Sequence[RunningAnswer], changed: asyncio.Event) -> None:
    """Wait until every answer has begun, one failed, or FIRST_NEWS_S passed."""
    end = asyncio.get_running_loop().time() + FIRST_NEWS_S
    while not all(one.has_news for one in answers) and not any(one.has_failed for one in answers):
        changed.clear()
        if not await _is_set(changed, max(0.0, end - asyncio.get_running_loop().time())):
            return
    for one in answers:
        one.raise_error()


async def _complete(answers: Sequence[RunningAnswer], changed: asyncio.Event) -> list[Answer]:
    """The complete answers. raises the error of one, or Unavailable where one was ended"""
    newest: list[Answer | None] = [None] * len(answers)
    while True:
        changed.clear()
        for at, one in enumerate(answers):
            newest[at] = one.take() or newest[at]
        if all(one.is_over for one in answers):
            return _all_done(newest)
        await changed.wait()


def _all_done(newest: Sequence[Answer | None]) -> list[Answer]:
    whole = [one for one in newest if one is not None and one.is_done]
    if len(whole) < len(newest):  # they were ended from outside
        raise Unavailable(CLOSING)
    return whole


__all__ = ["ChatCompletions"]
