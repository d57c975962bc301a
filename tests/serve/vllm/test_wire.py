"""What is sent to vLLM, what is read from it, and where an answer ends, without a model."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import torch

from chatbridge.conversation.stop_strings import Stops
from chatbridge.models.language import GenerateOptions
from chatbridge.serve.vllm import http_streams
from chatbridge.serve.vllm.servers import Servers
from chatbridge.serve.vllm.wire import Tokens, WireError, request_body, tokens_of
from tests.helpers.local_server import running

STOPS = Stops([(7,), (8, 9)], ("###",), str)


def body(options: GenerateOptions, top_logprobs: int | None = None) -> dict[str, Any]:
    return json.loads(request_body(torch.rand(3, 4).bfloat16(), options, STOPS, (2,), top_logprobs, "name"))


def test_a_request_has_the_fields_of_vllm():
    """fails when embeddings, a limit or an end are written in another way than vLLM reads them"""
    found = body(GenerateOptions(max_new_tokens=9))
    tensor = torch.load(io.BytesIO(base64.b64decode(found["prompt_embeds"], validate=True)), weights_only=True)
    assert tensor.shape == (3, 4) and tensor.dtype == torch.bfloat16
    assert found["temperature"] == 0.0 and found["max_tokens"] == 9 and "seed" not in found and "logprobs" not in found
    assert found["stop"] == ["###"] and found["stop_token_ids"] == [2, 7] and found["skip_special_tokens"] is False
    least = body(GenerateOptions(max_new_tokens=9, min_new_tokens=3), 0)
    assert least["stop_token_ids"] == [2] and least["min_tokens"] == 3 and least["logprobs"] == 0
    with pytest.raises(ValueError, match="num_beams is 2"):
        body(GenerateOptions(num_beams=2))


def test_events_are_read_strictly():
    """fails when an error of vLLM, an old version or something else is taken for an empty answer"""
    logprobs = {"token_logprobs": [-1.5], "top_logprobs": [{"token_id:4": -1.0, "token_id:5": -1.5}]}
    entry = {"token_ids": [5], "finish_reason": None, "text": "a", "logprobs": logprobs}
    assert tokens_of({"choices": [entry]}, 1) == Tokens((5,), ((-1.5, ((4, -1.0),)),), None)
    assert tokens_of({"choices": [], "usage": {"prompt_tokens_details": {"cached_tokens": 4}}}).cached == 4
    for event, said in (
        ([], "expected a JSON object"), ({}, "no choices"), ({"error": {"message": "out of memory"}}, "out of memory"),
        ({"choices": [{"text": "a", "finish_reason": None}]}, "vLLM 0.11"),
        ({"choices": [{**entry, "logprobs": None}]}, "not as many log-probabilities"),
        ({"choices": [{**entry, "logprobs": {"token_logprobs": [-1.0], "top_logprobs": [{"a": -1}]}}]}, "token_id:N"),
        ({"choices": [{**entry, "logprobs": {**logprobs, "token_logprobs": [float("nan")]}}]}, "not a number"),
        ({"choices": [{**entry, "logprobs": {**logprobs, "token_logprobs": ["x"]}}]}, "another shape"),
        ({"choices": [{**entry, "logprobs": {**logprobs, "top_logprobs": [[1]]}}]}, "another shape"),
        ({"choices": ["text"]}, "another shape"), ({"choices": [{**entry, "token_ids": 5}]}, "another shape"),
        ({"choices": [{**entry, "token_ids": ["5"]}]}, "not numbers of tokens"),
        ({"choices": [{**entry, "token_ids": [-1]}]}, "not numbers of tokens"),
        ({"choices": [{**entry, "token_ids": [2**40]}]}, "not numbers of tokens"),
    ):  # fmt: skip
        with pytest.raises(WireError, match=said):
            tokens_of(event, 1)


def test_many_threads_share_the_servers():
    """fails when a request is counted twice or not at all, all go to one server, or one that is down gets one"""
    servers = Servers(["http://a:1", "http://b:1/v1/", "http://c:1"])
    assert servers.take() is None and str(servers.problem()) == "none of 3 vLLM servers answers: it was not asked yet"
    for url in servers.urls[:2]:
        assert servers.found(url, "m", 100)
    taken: list[str] = []

    def work() -> None:
        for number in range(200):
            url, model = servers.take() or ("", "")
            assert model == "m"
            taken.append(url)
            servers.give_back(url, "x" if number % 2 else None)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = servers.counts()
    assert len(taken) == 1600 and set(taken) == {"http://a:1", "http://b:1"} and min(map(taken.count, set(taken))) > 400
    assert sum(counts["vllm_answered_total"].values()) == sum(counts["vllm_failed_total"].values()) == 800
    assert not any(counts["vllm_running"].values()) and servers.context == 100
    first, _ = servers.take() or ("", "")
    servers.give_back(first, "gone", is_down=True)
    assert (servers.take() or ("",))[0] not in ("", first) and servers.take([*servers.urls]) is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<html>maintenance</html>", "ended the stream"),
        (b"data: " + b"[" * 50_000 + b"\n\n", "not JSON"),
        (b"data: \xff\xfe\n\n", "not JSON"),
        (b"data: " + b"x" * 2_000, "more than 0 MB"),
        (b'data: {"choices": [{"te', "not JSON"),
    ],
    ids=["a page", "deep", "bytes", "endless", "half"],
)
def test_a_stream_of_something_else_is_said(monkeypatch: pytest.MonkeyPatch, content: bytes, said: str):
    """fails when a request waits for its time limit, or memory, because of what another program sends"""
    monkeypatch.setattr(http_streams, "LONGEST_EVENT", 1_000 if said.startswith("more") else 1_000_000)
    with answering(content) as url:
        streams = http_streams.HttpStreams(5.0, 5.0, {})
        try:
            found = streams.post(url, b"{}").next(10)
            assert isinstance(found, http_streams.HttpFailure) and said in found.reason
            status, list_ = streams.get(url, 5.0)
            assert status is None and "not JSON" in list_
        finally:
            streams.close()


@contextmanager
def answering(content: bytes) -> Iterator[str]:
    """A server that answers everything so."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *given: Any) -> None:
            pass

        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with running(server, threading.Event()) as url:
        yield url
