"""How many requests are answered at once, and how the last ones end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from chatbridge.conversation.messages import Text
from chatbridge.serve.answer import Answer
from chatbridge.serve.backend import Backend
from chatbridge.serve.openai_api.running_answer import RunningAnswer, StopSwitch, in_thread
from tests.helpers.api_server import InProcess, RunningServer, running, wait_until
from tests.helpers.scripted_backend import ScriptedBackend

openai = pytest.importorskip("openai")
WORDS = Text(" ".join(["word"] * 12))


def ask(server: RunningServer, stream: bool = False):
    messages = [{"role": "user", "content": "go"}]
    return server.client().chat.completions.create(model="tiny", messages=messages, stream=stream)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_ends_when_its_client_leaves(stream):
    """Fails when the model goes on for a client that closed its connection, or longer than a second."""
    backend = ScriptedBackend(Text(" ".join(["word"] * 2000)), pause_s=0.01)
    with running(backend) as server:
        client = server.client(timeout=0.1)
        messages = [{"role": "user", "content": "go"}]
        if stream:
            found = client.chat.completions.create(model="tiny", messages=messages, stream=True)
            next(iter(found))
            found.close()
        else:
            with pytest.raises(openai.APITimeoutError):
                client.chat.completions.create(model="tiny", messages=messages)
        assert wait_until(lambda: backend.num_running == 0 and server.server.gate.num_running == 0) < 1.0
        assert backend.num_stopped == 1
        wait_until(lambda: 'status="499"} 1.0' in server.server.config.app.state.metrics.text.decode())


def test_more_requests_than_fit_are_told_to_come_back():
    """Fails when a server takes more than it can hold, or keeps the places of requests that ended."""
    hold = threading.Event()
    with running(ScriptedBackend(WORDS, hold=hold), max_requests=2) as server:
        streams = [ask(server, stream=True) for _ in range(2)]
        with pytest.raises(openai.RateLimitError) as caught:
            ask(server)
        assert caught.value.response.headers["retry-after"] == "1"
        hold.set()
        texts = ["".join(one.choices[0].delta.content or "" for one in stream) for stream in streams]
        assert texts == [WORDS.text] * 2
        wait_until(lambda: not server.server.gate.num_running)
        assert ask(server).choices[0].message.content == WORDS.text


def test_running_answers_end_before_a_shutdown_and_new_ones_are_refused():
    """Fails when a shutdown cuts an answer, takes new requests, or does not end."""
    hold = threading.Event()
    backend = ScriptedBackend(WORDS, hold=hold)
    with running(backend, shutdown_s=30) as server:
        stream = ask(server, stream=True)
        first = next(iter(stream))
        server.server.close()
        wait_until(lambda: server.server.gate.is_closing)
        with pytest.raises(openai.InternalServerError) as caught:
            ask(server)
        assert caught.value.status_code == 503 and "retry-after" in caught.value.response.headers
        hold.set()
        text = "".join(one.choices[0].delta.content or "" for one in [first, *stream] if one.choices)
        assert text == WORDS.text


def test_answers_that_outlast_the_shutdown_are_told():
    """Fails when a shutdown waits for ever, or a client takes a cut answer for a complete one."""
    backend = ScriptedBackend(Text(" ".join(["word"] * 5000)), pause_s=0.01)
    with running(backend, shutdown_s=0.05) as server:
        stream = ask(server, stream=True)
        next(iter(stream))
        server.server.close()
        with pytest.raises(openai.APIError, match="shutting down"):
            list(stream)
        wait_until(lambda: backend.num_running == 0)


def test_a_second_signal_ends_running_answers_at_once():
    """Fails when somebody who asks twice still has to wait for the longest answer, or its client is not told."""
    with running(ScriptedBackend(hold=threading.Event()), shutdown_s=600) as server:
        stream = ask(server, stream=True)
        next(iter(stream))
        server.server.close()
        server.server.close()
        with pytest.raises(openai.APIError, match="shutting down"):
            list(stream)


def test_health_tells_what_a_balancer_needs():
    """Fails when a server that cannot answer looks ready, or one that lives looks dead."""
    backend = ScriptedBackend()
    api = InProcess(backend)
    assert api.get("/health").json()["status"] == "ok"
    backend.trouble = "the model's thread ended"
    assert api.get("/health/ready").status_code == 503 and backend.trouble in api.get("/health").text
    assert api.get("/health/live").status_code == api.request("HEAD", "/health/live").status_code == 200
    api.app.state.gate.is_closing = True
    backend.trouble = None
    assert "shutting down" in api.get("/health").text and api.chat().status_code == 503


@pytest.mark.slow
def test_states_of_a_running_answer_are_not_lost_between_threads():
    """Fails when the last state, the end or the error of an answer is missed by its reader, among many at once."""

    async def read(running: RunningAnswer, changed: asyncio.Event) -> tuple[int, bool]:
        last, has_failed = 0, False
        while not running.is_over:
            changed.clear()
            try:
                found = running.take()
            except RuntimeError:
                has_failed = True
                continue
            if found is not None:
                assert found.num_tokens > last  # never an older state
                last = found.num_tokens
            elif not running.is_over:
                await asyncio.wait_for(changed.wait(), 30)
        return last, has_failed

    def answers(number: int) -> Iterator[Answer]:
        for at in range(1, 200):
            yield Answer((), num_tokens=at)
        if number % 3 == 0:
            raise RuntimeError

    async def many() -> None:
        found = []
        for number in range(300):
            changed = asyncio.Event()
            one = RunningAnswer(lambda _, number=number: answers(number), StopSwitch(), changed)
            thread = asyncio.ensure_future(in_thread(one.run))
            found.append(asyncio.gather(read(one, changed), thread))
        results = await asyncio.gather(*found)
        assert [last_and_failed for last_and_failed, _ in results] == [(199, at % 3 == 0) for at in range(300)]

    asyncio.run(many())


def test_the_engine_and_its_stand_in_offer_what_the_server_asks(chat_engine):
    """Fails when a backend lacks a call of the interface."""
    assert isinstance(chat_engine, Backend) and isinstance(ScriptedBackend(), Backend)
