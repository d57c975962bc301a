"""A stand-in for vLLM's OpenAI-compatible server: it runs a Hugging Face folder with transformers alone.

It reads and writes what vLLM documents for `/v1/completions` with prompt embeddings: base64 of a tensor that torch.save
wrote, server-sent events with token_ids, log-probabilities by token id. Faults can be asked for.
"""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch

from tests.helpers.local_server import running

MODEL = "language_model"


@dataclass
class Vllm:
    """What the server does, and what it has seen.

    delay_s     before each token
    status      of every answer instead of 200
    drop_after  tokens after which the connection is closed
    silent      the stream begins and has no token
    without_ids the events have no token_ids, as of an old version
    key         the bearer token that it wants
    """

    folder: Path
    delay_s: float = 0.0
    status: int | None = None
    message: str = "no"
    drop_after: int | None = None
    silent: bool = False
    without_ids: bool = False
    key: str | None = None
    max_model_len: int | None = None
    requests: list[dict[str, Any]] = field(default_factory=list)
    num_sent: int = 0
    num_broken: int = 0

    def __post_init__(self) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.model: Any = AutoModelForCausalLM.from_pretrained(self.folder).eval()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(self.folder)
        self.lock = threading.Lock()

    def answer(self, request: dict[str, Any]) -> tuple[list[int], str, torch.Tensor]:
        """Ids, finish reason, and the raw logits float[n, V]."""
        from transformers import StopStringCriteria

        embeds = torch.load(io.BytesIO(base64.b64decode(request["prompt_embeds"], validate=True)), weights_only=True)
        assert embeds.dim() == 2 and embeds.shape[1] == self.model.config.hidden_size, tuple(embeds.shape)
        greedy = request["temperature"] == 0.0
        sampling = {} if greedy else {"temperature": request["temperature"], "top_p": request.get("top_p", 1.0),
                                      "top_k": request.get("top_k", 0)}  # fmt: skip
        ends = list(request["stop_token_ids"])
        criteria = [StopStringCriteria(self.tokenizer, request["stop"])] if request["stop"] else []
        with self.lock, torch.no_grad():
            torch.manual_seed(request.get("seed", 0))
            found = self.model.generate(
                inputs_embeds=embeds[None].to(self.model.dtype), do_sample=not greedy, eos_token_id=ends or None,
                max_new_tokens=request["max_tokens"], min_new_tokens=request["min_tokens"] or None, pad_token_id=0,
                repetition_penalty=request["repetition_penalty"], stopping_criteria=criteria, output_logits=True,
                return_dict_in_generate=True, **sampling,
            )  # fmt: skip
        ids = found.sequences[0].tolist()
        is_stopped = bool(ids) and (ids[-1] in ends or len(ids) < request["max_tokens"])
        return ids, "stop" if is_stopped else "length", torch.cat(found.logits)

    def events(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        ids, finish, logits = self.answer(request)
        logprobs = logits.log_softmax(-1)
        for at, new in enumerate(ids):
            choice: dict[str, Any] = {"index": 0, "text": self.tokenizer.decode([new]), "finish_reason": None}
            if not self.without_ids:
                choice["token_ids"] = [new]
            if (num_top := request.get("logprobs")) is not None:
                best = logprobs[at].topk(num_top).indices.tolist() if num_top else []
                listed = {f"token_id:{one}": float(logprobs[at, one]) for one in (new, *best)}
                choice["logprobs"] = {
                    "tokens": [f"token_id:{new}"], "token_logprobs": [float(logprobs[at, new])],
                    "top_logprobs": [listed], "text_offset": [0],
                }  # fmt: skip
            if at == len(ids) - 1:
                choice["finish_reason"] = finish
            yield {"id": "cmpl-1", "object": "text_completion", "model": MODEL, "choices": [choice]}
        usage = {"prompt_tokens": 1, "completion_tokens": len(ids), "prompt_tokens_details": {"cached_tokens": 3}}
        yield {"id": "cmpl-1", "object": "text_completion", "model": MODEL, "choices": [], "usage": usage}


def _handler(vllm: Vllm, release: threading.Event) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *given: Any) -> None:
            pass

        def _json(self, status: int, content: Any) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")  # a stub that ended must not answer over an open connection
            self.end_headers()
            self.close_connection = True
            self.wfile.write(body)

        def _is_refused(self) -> bool:
            if vllm.key is not None and self.headers.get("Authorization") != f"Bearer {vllm.key}":
                self._json(401, {"error": "Unauthorized"})
                return True
            return False

        def do_GET(self) -> None:
            if not self._is_refused():
                entry = {"id": MODEL, "object": "model", "max_model_len": vllm.max_model_len}
                self._json(200, {"object": "list", "data": [entry]})

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self._is_refused():
                return
            vllm.requests.append(request)
            if vllm.status is not None:
                self._json(vllm.status, {"error": {"message": vllm.message, "code": vllm.status}})
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            try:
                self._stream(request)
            except OSError:
                vllm.num_broken += 1

        def _stream(self, request: dict[str, Any]) -> None:
            self.wfile.flush()
            while vllm.silent and not release.wait(0.05):
                self.wfile.write(b": nothing yet\n\n")
                self.wfile.flush()
            for number, event in enumerate(vllm.events(request)):
                if vllm.drop_after is not None and number >= vllm.drop_after:
                    return
                time.sleep(vllm.delay_s)
                self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
                self.wfile.flush()
                vllm.num_sent += 1
            self.wfile.write(b"data: [DONE]\n\n")

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64


@contextmanager
def serving(vllm: Vllm) -> Iterator[str]:
    """The address of a stub, while it runs."""
    release = threading.Event()
    with running(_Server(("127.0.0.1", 0), _handler(vllm, release)), release) as url:
        yield url
