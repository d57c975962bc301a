"""What /metrics reports, in the text format of Prometheus: requests, times, tokens, and the counters of the backend."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chatbridge.common.log import get_logger
from chatbridge.serve.answer import Answer
from chatbridge.serve.backend import Backend
from chatbridge.serve.openai_api.api_errors import CLIENT_GONE

logger = get_logger(__name__)
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
PER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1)
NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_]")
Stats = Callable[[], Mapping[str, Any]]


class Metrics:
    """The counters of one server, in a registry of their own. Any thread may use them."""

    def __init__(self, backend: Backend, num_running: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        made: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("chatbridge_http_requests", "Responses", ("path", "status"), **made)
        self.seconds = Histogram(
            "chatbridge_http_request_seconds", "From a request to the end of its response", ("path",),
            buckets=SECONDS, **made,
        )  # fmt: skip
        self.first = Histogram("chatbridge_first_token_seconds", "Until the first token", buckets=SECONDS, **made)
        self.waited = Histogram("chatbridge_waited_seconds", "Until a request began", buckets=SECONDS, **made)
        self.per_token = Histogram("chatbridge_seconds_per_token", "After the first one", buckets=PER_TOKEN, **made)
        self.answers = Counter("chatbridge_answers", "Complete answers by how they ended", ("finish",), **made)
        self.tokens = Counter("chatbridge_tokens", "Tokens of complete answers and of their prompts", ("kind",), **made)
        running = Gauge("chatbridge_requests_running", "Requests being answered", **made)
        running.set_function(num_running)
        ProcessCollector(registry=self.registry)
        self.registry.register(BackendCollector(backend.stats))

    def count(self, answers: Sequence[Answer]) -> None:
        """Count the complete answers of a request."""
        for at, one in enumerate(answers):
            self.answers.labels(one.finish or "stop").inc()
            usage, timing = one.usage, one.timing
            kinds = {"answer": usage.answer}
            if at == 0:
                kinds |= {"prompt": usage.prompt, "cached": usage.cached, "media": usage.media}
            for kind, number in kinds.items():
                self.tokens.labels(kind).inc(number)
            self.waited.observe(timing.waited_s)
            if timing.first_token_s is not None:
                self.first.observe(timing.first_token_s)
            if speed := timing.tokens_per_s(usage.answer):
                self.per_token.observe(1 / speed)

    @property
    def text(self) -> bytes:
        return generate_latest(self.registry)


class BackendCollector(Collector):
    """The numbers of `Backend.stats` as chatbridge_engine_*: counters end in _total, others are gauges."""

    def __init__(self, stats: Stats) -> None:
        self._stats = stats

    def describe(self) -> Iterator[Metric]:
        """Nothing: the names are known when they are collected."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        try:
            found = dict(self._stats())
        except Exception:  # other counters are still of use
            logger.exception("the counters of the backend cannot be read")
            return
        for name, value in found.items():
            full = f"chatbridge_engine_{NOT_IN_NAMES.sub('_', name)}"
            is_counter = full.endswith("_total")
            family: Any = CounterMetricFamily if is_counter else GaugeMetricFamily
            labels = ("kind",) if isinstance(value, Mapping) else ()
            metric = family(full.removesuffix("_total") if is_counter else full, name.replace("_", " "), labels=labels)
            for kind, number in value.items() if isinstance(value, Mapping) else (("", value),):
                if isinstance(number, (int, float)):
                    metric.add_metric([str(kind)] if labels else [], float(number))
            yield metric


class MetricsMiddleware:
    """Counts responses by path and status; a client that left before its response counts as 499.

    paths   that have a label of their own; all others share one, since anybody may ask for any path
    logged  of these, whose requests are lines of the log; it never has their content
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Sequence[str], logged: Sequence[str] = ()) -> None:
        self.app, self.metrics, self.paths, self.logged = app, metrics, frozenset(paths), frozenset(logged)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status = time.perf_counter(), CLIENT_GONE
        path = scope["path"] if scope["path"] in self.paths else "other"

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, counted)
        finally:
            if scope.get("state", {}).get("is_gone"):
                status = CLIENT_GONE
            seconds = time.perf_counter() - begun
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(seconds)
            if path in self.logged:
                logger.info("%s: %d after %.2f s", scope.get("state", {}).get("id", ""), status, seconds)


__all__ = ["Metrics", "MetricsMiddleware"]
