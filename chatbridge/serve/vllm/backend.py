"""An engine whose language model runs in vLLM: it reads and encodes media, and sends prompts as embeddings."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor

from chatbridge.common.log import get_logger
from chatbridge.config.constraints import Range
from chatbridge.config.schema import Unit
from chatbridge.conversation.messages import Conversation
from chatbridge.models.language import GenerateOptions
from chatbridge.serve.answer import Answer
from chatbridge.serve.backend import Busy, Unavailable
from chatbridge.serve.engine import ChatEngine
from chatbridge.serve.growing_answer import GrowingAnswer
from chatbridge.serve.request import PLAIN, RequestSettings
from chatbridge.serve.scheduler.counters import Counters
from chatbridge.serve.scheduler.requests import Request
from chatbridge.serve.vllm.answer_ids import AnswerIds
from chatbridge.serve.vllm.front_folder import Front, open_front
from chatbridge.serve.vllm.http_streams import HttpFailure, HttpStreams
from chatbridge.serve.vllm.running_request import TOO_SLOW, RunningRequest
from chatbridge.serve.vllm.servers import Servers
from chatbridge.serve.vllm.wire import request_body

log = get_logger(__name__)
KEY = "CHATBRIDGE_VLLM_KEY"  # environment variable with the key that the vLLM servers want
ELSEWHERE = (408, 425, 429, 500, 502, 503, 504)  # statuses after which another server is asked
CLOSING = "this server is closing"
REFUSED = {
    200: "listed no model under /v1/models",
    401: f"wants a key; set {KEY}",
    403: f"refused the key of {KEY}",
    404: "has no /v1/models; is it vLLM's OpenAI-compatible server?",
}


@dataclass(frozen=True, kw_only=True)
class VllmSettings:
    """How the vLLM servers are asked."""

    connect_s: Annotated[float, Unit("seconds"), Range(above=0)] = 5.0  # for a connection
    silent_s: Annotated[float, Unit("seconds"), Range(above=0)] = 120.0  # most time without a new token
    check_s: Annotated[float, Unit("seconds"), Range(above=0)] = 5.0  # between two checks whether a server answers


class VllmEngine(ChatEngine):
    """A `ChatEngine` whose answers come from vLLM servers. Any number of threads may call it at once.

    A server that fails before its first token is replaced by another one; one that does not answer is left out until
    it does.
    """

    def __init__(
        self, front: Front, servers: Servers, settings: VllmSettings | None = None, key: str | None = None
    ) -> None:
        """raises ValueError for generation settings of the folder that vLLM does not have"""
        chosen, self.settings = front.config.evaluation, settings or VllmSettings()
        if chosen.generation.num_beams > 1:
            raise ValueError(
                f"evaluation.generation.num_beams is {chosen.generation.num_beams}; vLLM has no beam search over "
                "prompt embeddings; add --options evaluation.generation.num_beams=1"
            )
        form = chosen.question
        super().__init__(front.model, front.layout, front.about, chosen.chat, None, chosen.generation, form)
        self.dtype, self.servers = front.dtype, servers
        self._encoding = threading.Lock()  # one prompt at a time, so that memory does not grow with the requests
        self._counters, self._num_running, self._counting = Counters(), 0, threading.Lock()
        self._is_closed = False
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = HttpStreams(self.settings.connect_s, self.settings.silent_s, headers)
        for url in servers.urls:
            self._look_at(url, *self._http.get(f"{url}/v1/models", self.settings.connect_s))
        self._http.every(self.settings.check_s, self._check_servers)

    def stream(
        self,
        conversation: Conversation,
        options: GenerateOptions | None = None,
        is_stopped: Callable[[], bool] = lambda: False,
        settings: RequestSettings = PLAIN,
    ) -> Iterator[Answer]:
        """The answer as it grows; see ChatEngine.stream. It is asked for when the first item is requested.

        raises   also ValueError for beams; while it grows Busy, and Unavailable when no server answers, or one fails in
                 the middle of an answer
        """
        if reason := self.problem():
            raise Unavailable(reason)
        request, notes = self._request(conversation, options or self.generation, settings)
        embeds, num_encoded = self._embedded(request)
        body_of = self._body_of(request, embeds)
        body_of("")  # raises for what cannot be asked for
        growing = GrowingAnswer(request, notes, self._texts)
        collected = AnswerIds(request.layout, self.model.language.end_ids, request.options.max_new_tokens)
        return self._stream(RunningRequest(request, growing, collected, num_encoded), body_of, is_stopped)

    def problem(self) -> str | None:
        """Why no request can be answered at present; None: all is well."""
        return CLOSING if self._is_closed else self.servers.problem()

    def stats(self) -> Mapping[str, float | Mapping[str, float]]:
        """What was counted; see Backend.stats."""
        with self._counting:
            running = self._num_running
        return {**super().stats(), **self._counters.values(), **self.servers.counts(), "running": running}

    def close(self) -> None:
        """End all requests and the threads."""
        self._is_closed = True
        self._http.close()
        super().close()

    @property
    def _context_length(self) -> int | None:
        known = [one for one in (super()._context_length, self.servers.context) if one is not None]
        return min(known, default=None)

    @torch.no_grad()
    def _embedded(self, request: Request) -> tuple[Tensor, int]:
        """The prompt float[L, D] on the CPU in the dtype of the language model, and how many media were encoded."""
        with self._encoding:
            tokens, num_encoded = self.encoded.tokens(self.model, request.batch.media, request.digests)
            embeds = self.model.embedded(request.batch, media_tokens=tokens).embeds[0]  # [L, D]
        return embeds.to("cpu", self.dtype), num_encoded

    def _body_of(self, request: Request, embeds: Tensor) -> Callable[[str], bytes]:
        """What makes the body of the request for a server's model. raises ValueError for beams"""

        def body(model: str) -> bytes:
            ends, stops = self.model.language.end_ids, request.layout.stops
            return request_body(embeds, request.options, stops, ends, request.settings.top_logprobs, model)

        return body

    def _stream(
        self, running: RunningRequest, body_of: Callable[[str], bytes], is_stopped: Callable[[], bool]
    ) -> Iterator[Answer]:
        """The answer, counted."""
        end = "error"
        self._count_running(1)
        try:
            yield from self._from_servers(running, body_of, is_stopped)
            end = running.collected.end or "cancelled"
        except GeneratorExit:
            end = "cancelled"
            raise
        except Busy:
            end = "busy"
            raise
        finally:
            self._count_running(-1)
            self._counters.add("requests_total", **{end: 1})
            num_media, num_cached = running.request.num_media, running.num_cached
            counts = {"prompt": running.num_prompt, "cached": num_cached, "media": num_media}
            self._counters.add("tokens_total", answer=running.num_tokens, **counts)

    def _from_servers(
        self, running: RunningRequest, body_of: Callable[[str], bytes], is_stopped: Callable[[], bool]
    ) -> Iterator[Answer]:
        """The answer of the first server that begins one."""
        tried: dict[str, HttpFailure] = {}
        while (taken := self.servers.take(tried)) is not None:
            url, model = taken
            failure: HttpFailure | None = None
            stream = None
            try:
                stream = self._http.post(f"{url}/v1/completions", body_of(model))
                failure = yield from running.answers(stream, is_stopped, self.settings.silent_s)
            finally:
                if stream is not None:
                    stream.close()
                is_down = failure is not None and failure.status is None
                self.servers.give_back(url, None if failure is None else failure.reason, is_down)
            if failure is None:
                return
            tried[url] = failure
            log.warning("vLLM at %s: %s", url, failure.reason)
            if running.num_tokens or (failure.status is not None and failure.status not in ELSEWHERE):
                break
        raise _error_of(tried, self.problem(), running.num_tokens)

    def _count_running(self, change: int) -> None:
        with self._counting:
            self._num_running += change

    async def _check_servers(self) -> None:
        for url in self.servers.urls:
            self._look_at(url, *await self._http.get_json(f"{url}/v1/models", self.settings.connect_s))

    def _look_at(self, url: str, status: int | None, content: object) -> None:
        """Note whether a server answers, as it answered to /v1/models."""
        found = _model_of(content) if status == 200 else None
        if found is not None:
            if self.servers.found(url, *found):
                log.info("vLLM at %s serves %s", url, found[0])
            return
        reason = str(content) if status is None else REFUSED.get(status, f"answered with the HTTP status {status}")
        if self.servers.lost(url, reason):
            log.warning("vLLM at %s %s", url, reason)


def _error_of(tried: Mapping[str, HttpFailure], problem: str | None, num_tokens: int) -> Exception:
    """The error of a request that no server answered."""
    if not tried:
        return Unavailable(problem or "no vLLM server answers", 503)
    last = list(tried.values())[-1]  # the log has its address, which is no business of clients
    if last.status == 429:
        return Busy("all vLLM servers are busy; ask again later", last.retry_s or 1.0)
    begun = f" after {num_tokens} tokens of the answer" if num_tokens else ""
    status = 504 if last.reason == TOO_SLOW else 503 if last.status in (None, 503) else 502
    known = REFUSED.get(last.status) if last.status in (401, 403) else None
    told = f"{last.reason} (HTTP status {last.status})" if last.status is not None else last.reason
    return Unavailable(f"the vLLM server {known or told}{begun}", status)


def _model_of(content: object) -> tuple[str, int | None] | None:
    """Name and longest sequence of the first model in the content of /v1/models; None when it lists none."""
    listed = content.get("data") if isinstance(content, Mapping) else None
    first = listed[0] if isinstance(listed, list) and listed else None
    if not isinstance(first, Mapping) or not isinstance(first.get("id"), str):
        return None
    length = first.get("max_model_len")
    return first["id"], length if isinstance(length, int) else None


def open_backend(
    folder: Path,
    urls: Sequence[str],
    options: Sequence[str] = (),
    gpu_id: int | None = None,
    key: str | None = None,
    settings: VllmSettings | None = None,
) -> VllmEngine:
    """The engine of an exported folder in front of vLLM servers, which may still be starting.

    options  settings that replace those of the folder
    key      that the servers want; see KEY
    raises   ConfigError when the folder cannot be opened or a URL is wrong; ValueError for default settings with beams
    """
    servers = Servers(urls)
    return VllmEngine(open_front(folder, options, gpu_id), servers, settings, key)


__all__ = ["KEY", "VllmEngine", "VllmSettings", "open_backend"]
