"""A server of the chat API on a free port, in a thread of the test."""

from __future__ import annotations

import asyncio
import base64
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from chatbridge.serve.openai_api.api_keys import ApiKeys
from chatbridge.serve.openai_api.app import CHAT, build_app
from chatbridge.serve.openai_api.http_server import HttpServer, open_socket
from chatbridge.serve.openai_api.settings import ServerSettings

MODEL = "tiny"
MIME = {".jpg": "image/jpeg", ".png": "image/png", ".mp4": "video/mp4", ".wav": "audio/wav", ".txt": "image/png"}


class Kept:
    """A backend whose end is not that of the server: tests share it."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def close(self) -> None:
        """Nothing."""


class RunningServer:
    """A server that runs, and clients for it."""

    def __init__(self, server: HttpServer, address: str, key: str) -> None:
        self.server, self.address, self.key = server, address, key
        self._client: Any = None

    @property
    def host(self) -> tuple[str, int]:
        name, _, port = self.address.removeprefix("http://").rpartition(":")
        return name, int(port)

    def client(self, **settings: Any) -> Any:
        """The official client; max_retries is 0. Without other settings it is the same one each time."""
        import openai

        if settings or self._client is None:
            base = {"base_url": f"{self.address}/v1", "api_key": self.key, "max_retries": 0}
            made = openai.OpenAI(**{**base, **settings})
            if settings:
                return made
            self._client = made
        return self._client


@contextmanager
def running(backend: Any, keys: tuple[str, ...] = (), **settings: Any) -> Iterator[RunningServer]:
    """A server over a backend, ended with the context."""
    chosen = ServerSettings(**{"port": 0, "model_name": (MODEL,), "shutdown_s": 0.0, **settings})
    with open_socket(chosen) as listener:
        server = HttpServer(build_app(Kept(backend), chosen, ApiKeys(keys)), chosen)
        thread = threading.Thread(target=server.run_on, args=(listener,))
        thread.start()
        try:
            assert server.ready.wait(30)
            yield RunningServer(server, f"http://127.0.0.1:{listener.getsockname()[1]}", keys[0] if keys else "none")
        finally:
            server.close()
            thread.join(30)
            assert not thread.is_alive()


def wait_until(is_true: Callable[[], bool], limit_s: float = 10.0) -> float:
    """Seconds until a condition held. Fails when it does not."""
    begun = time.perf_counter()
    while not is_true():
        assert time.perf_counter() - begun < limit_s
        time.sleep(0.005)
    return time.perf_counter() - begun


def data_url(path: Path) -> str:
    """The content of a file as a data URL."""
    return f"data:{MIME[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def question(text: str, **urls: str) -> dict[str, Any]:
    """A message of the user: media by kind (image, video, audio), then the text."""
    parts = [{"type": f"{kind}_url", f"{kind}_url": {"url": url}} for kind, url in urls.items()]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


class InProcess:
    """An application without a socket: requests are answered whole, in the loop of the call."""

    def __init__(self, backend: Any, keys: tuple[str, ...] = (), **settings: Any) -> None:
        self.app = build_app(backend, ServerSettings(**{"model_name": (MODEL,), **settings}), ApiKeys(keys))

    def request(self, method: str, path: str, **more: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            settings: dict[str, Any] = {"base_url": "http://localhost", "trust_env": False, "verify": False}
            async with httpx.AsyncClient(transport=transport, **settings) as client:
                return await client.request(method, path, **more)

        return asyncio.run(send())

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.request("GET", path, **more)

    def chat(self, *messages: Any, **more: Any) -> httpx.Response:
        """A chat request of these messages; without any, of one question."""
        found = list(messages) or [{"role": "user", "content": "what color is it ?"}]
        return self.request("POST", CHAT, json={"model": MODEL, "messages": found, **more})
