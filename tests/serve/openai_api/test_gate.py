"""How many requests are answered at once, and how the last ones end."""

from __future__ import annotations

import threading
import time

import pytest

from chatbridge.conversation.messages import Text
from tests.helpers.api_server import InProcess, RunningServer, running
from tests.helpers.scripted_backend import ScriptedBackend

openai = pytest.importorskip("openai")
WORDS = Text(" ".join(["word"] * 40))


def ask(server: RunningServer, stream: bool = False):
    messages = [{"role": "user", "content": "go"}]
    return server.client().chat.completions.create(model="tiny", messages=messages, stream=stream)


def wait_until(is_true, limit_s: float = 10.0) -> float:
    """Seconds until a condition held. Fails when it does not."""
    begun = time.perf_counter()
    while not is_true():
        assert time.perf_counter() - begun < limit_s
        time.sleep(0.005)
    return time.perf_counter() - begun


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_ends_when_its_client_leaves(stream):
    """Fails when the model goes on for a client that closed its connection, or longer than a second."""
    backend = ScriptedBackend(Text(" ".join(["word"] * 2000)), pause_s=0.01)
    with running(backend) as server:
        client = server.client(timeout=0.3)
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
    with running(ScriptedBackend(WORDS, pause_s=0.01), max_requests=2) as server:
        streams = [ask(server, stream=True) for _ in range(2)]
        with pytest.raises(openai.RateLimitError) as caught:
            ask(server)
        assert caught.value.response.headers["retry-after"] == "1"
        texts = ["".join(one.choices[0].delta.content or "" for one in stream) for stream in streams]
        assert texts == [WORDS.text] * 2
        assert ask(server).choices[0].message.content == WORDS.text


def test_running_answers_end_before_a_shutdown_and_new_ones_are_refused():
    """Fails when a shutdown cuts an answer, takes new requests, or does not end."""
    backend = ScriptedBackend(WORDS, pause_s=0.02)
    with running(backend, shutdown_s=30) as server:
        stream = ask(server, stream=True)
        next(iter(stream))
        server.server.close()
        wait_until(lambda: server.server.gate.is_closing)
        with pytest.raises(openai.InternalServerError) as caught:
            ask(server)
        assert caught.value.status_code == 503 and "retry-after" in caught.value.response.headers
        text = "".join(one.choices[0].delta.content or "" for one in stream if one.choices)
        assert text == WORDS.text


def test_answers_that_outlast_the_shutdown_are_told():
    """Fails when a shutdown waits for ever, or a client takes a cut answer for a complete one."""
    backend = ScriptedBackend(Text(" ".join(["word"] * 5000)), pause_s=0.01)
    with running(backend, shutdown_s=0.1) as server:
        stream = ask(server, stream=True)
        next(iter(stream))
        server.server.close()
        with pytest.raises(openai.APIError, match="shutting down"):
            list(stream)
        wait_until(lambda: backend.num_running == 0)


def test_health_tells_what_a_balancer_needs():
    """Fails when a server that cannot answer looks ready, or one that lives looks dead."""
    backend = ScriptedBackend()
    api = InProcess(backend)
    assert api.get("/health").json()["status"] == "ok"
    backend.trouble = "the model's thread ended"
    assert api.get("/health/ready").status_code == 503 and backend.trouble in api.get("/health").text
    assert api.get("/health/live").status_code == 200
    api.app.state.gate.is_closing = True
    backend.trouble = None
    assert "shutting down" in api.get("/health").text and api.chat().status_code == 503


def test_many_clients_at_once_get_their_own_answers(chat_engine):
    """Fails when answers of requests that run together are exchanged, cut or lost."""
    words = ["red", "green", "blue", "circle", "high", "low"]
    with running(chat_engine) as server:
        client = server.client()

        def text_of(word: str) -> str:
            chunks = client.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": word}], max_tokens=6, stream=True
            )
            return "".join(one.choices[0].delta.content or "" for one in chunks)

        expected = {word: text_of(word) for word in words}
        found: list[tuple[str, str]] = []
        threads = [threading.Thread(target=lambda word=word: found.append((word, text_of(word)))) for word in words * 2]
        for one in threads:
            one.start()
        for one in threads:
            one.join(60)
        assert sorted(found) == sorted((word, expected[word]) for word in words * 2)
