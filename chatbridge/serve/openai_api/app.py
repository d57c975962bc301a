"""The server's application: its paths, and what stands before them."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chatbridge.common.errors import nearest
from chatbridge.serve.backend import Backend
from chatbridge.serve.media_sources import MediaSources
from chatbridge.serve.openai_api.access import Access
from chatbridge.serve.openai_api.api_errors import ApiError, error_of, json_response
from chatbridge.serve.openai_api.api_keys import ApiKeys
from chatbridge.serve.openai_api.chat_completions import ChatCompletions
from chatbridge.serve.openai_api.chat_request import check_model
from chatbridge.serve.openai_api.gate import Gate, GateMiddleware
from chatbridge.serve.openai_api.metrics import Metrics, MetricsMiddleware
from chatbridge.serve.openai_api.settings import ServerSettings

CHAT, MODELS = "/v1/chat/completions", "/v1/models"
PATHS = (CHAT, MODELS, "/health", "/health/live", "/health/ready", "/metrics")
PROBES = ["GET", "HEAD"]
DEFAULT_NAME = "chatbridge"
REQUEST_ID = "x-request-id"


def build_app(backend: Backend, settings: ServerSettings | None = None, keys: ApiKeys | None = None) -> FastAPI:
    """The application; `app.state.gate` counts its requests. Ending it closes the backend.

    raises   ValueError for a media_root that is not a folder
    """
    settings = settings or ServerSettings()
    gate = Gate(settings.max_requests)
    metrics = Metrics(backend, lambda: gate.num_running)
    sources = MediaSources(backend.limits.max_file_mb, settings.media_root, settings.allow_remote, settings.sources)
    names = settings.model_name or (DEFAULT_NAME,)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        gate.is_closing = True
        sources.close()
        backend.close()

    app = FastAPI(title="ChatBridge", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.state.gate, app.state.metrics = gate, metrics
    _add_paths(app, backend, gate, metrics, ChatCompletions(backend, settings, sources, metrics, names))
    _add_errors(app)
    app.add_middleware(GateMiddleware, gate=gate, paths=(CHAT,))
    app.add_middleware(Access, settings=settings, keys=keys or ApiKeys())  # before the gate: later ones are outside
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("authorization", "content-type", REQUEST_ID),
        )
    app.add_middleware(MetricsMiddleware, metrics=metrics, paths=PATHS, logged=(CHAT,) if settings.log_requests else ())
    app.add_middleware(RequestIds)
    return app


def _add_paths(app: FastAPI, backend: Backend, gate: Gate, metrics: Metrics, chat: ChatCompletions) -> None:
    begun = int(time.time())

    @app.post(CHAT)
    async def chat_completions(request: Request) -> Response:
        return await chat.respond(request, request.state.id)

    @app.get(MODELS)
    async def models() -> Response:
        return json_response({"object": "list", "data": [model(name) for name in chat.model_names]})

    @app.get(MODELS + "/{name:path}")
    async def one_model(name: str) -> Response:
        check_model(name, chat.model_names)
        return json_response(model(name))

    def model(name: str) -> dict[str, Any]:
        head = {"id": name, "object": "model", "created": begun, "owned_by": "chatbridge"}
        return head | {"input_modalities": ["text", *backend.modalities]}

    @app.api_route("/health/live", methods=PROBES)
    async def live() -> Response:
        return json_response({"status": "ok"})

    @app.api_route("/health", methods=PROBES)
    @app.api_route("/health/ready", methods=PROBES)
    async def ready() -> Response:
        reason = "the server is shutting down" if gate.is_closing else backend.problem()
        if reason is not None:
            return json_response({"status": "unavailable", "reason": reason}, 503)
        return json_response({"status": "ok", "running": gate.num_running})

    @app.get("/metrics")
    async def metrics_text() -> Response:
        return Response(metrics.text, headers={"Content-Type": CONTENT_TYPE_LATEST})


def _add_errors(app: FastAPI) -> None:
    """All errors have the shape of the API, those of unknown paths too."""

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        return error.response

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        path = request.url.path
        if error.status_code == 405:
            text = f"{request.method} {path} is not possible; {path} accepts {(error.headers or {}).get('Allow')}"
            return ApiError(405, text, code="method_not_allowed", headers=error.headers).response
        if error.status_code == 404:
            meant = nearest(path, PATHS)
            advice = f"did you mean {meant}? " if meant else ""
            text = f"{path[:200]} does not exist here; {advice}paths: {', '.join(PATHS)}"
            return ApiError(404, text, code="unknown_path").response
        return ApiError(error.status_code, str(error.detail)).response

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return error_of(error, getattr(request.state, "id", "")).response


class RequestIds:
    """Gives each request an id, which its response has as X-Request-Id and the log of a failure too."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = f"req_{uuid.uuid4().hex}"
        scope.setdefault("state", {})["id"] = request_id

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (REQUEST_ID.encode(), request_id.encode())]
            await send(message)

        await self.app(scope, receive, named)


__all__ = ["build_app"]
