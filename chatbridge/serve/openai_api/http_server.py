"""Runs the application on a socket until a signal, and lets running answers end first."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from chatbridge.common.errors import ConfigError, Problem
from chatbridge.common.log import get_logger
from chatbridge.serve.openai_api.connections import BACKLOG, connection_class
from chatbridge.serve.openai_api.gate import Gate
from chatbridge.serve.openai_api.settings import ServerSettings

logger = get_logger(__name__)
SIGNALS = (signal.SIGINT, signal.SIGTERM)
KEEP_ALIVE_S = 30  # for the next request of a connection
LAST_TASKS_S = 5  # for what still runs when the listening socket is closed


def open_socket(settings: ServerSettings) -> socket.socket:
    """The socket of the server, which does not listen before it runs.

    raises   ConfigError where the address or port cannot be used
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # with it, asyncio sets TCP_NODELAY
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((settings.host, settings.port))
        if hasattr(os, "register_at_fork"):  # processes that read files would keep the port of a killed server
            os.register_at_fork(after_in_child=found.close)
        return found
    except (OSError, UnicodeError) as error:
        found.close()
        raise _refused(settings, error) from None


def _refused(settings: ServerSettings, error: OSError | UnicodeError) -> ConfigError:
    reason = getattr(error, "strerror", None) or str(error)
    is_port = isinstance(error, OSError) and error.errno in (errno.EADDRINUSE, errno.EACCES, errno.EPERM)
    hint = "choose another one with --port; 0 takes any free one" if is_port else "an address of this machine"
    flag = "--port" if is_port else "--host"
    return ConfigError([Problem(flag, f"{settings.host}:{settings.port}: {reason}", hint=hint)])


class HttpServer(uvicorn.Server):
    """Serves an application of `build_app`.

    The first signal, or `close`, refuses new requests with 503 and gives running ones shutdown_s to end; a second
    signal ends them at once.
    """

    def __init__(self, app: FastAPI, settings: ServerSettings) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                ws="none",
                http=connection_class(settings.max_connections),
                backlog=BACKLOG,
                lifespan="on",
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=LAST_TASKS_S,
                ssl_certfile=settings.tls_certificate,
                ssl_keyfile=settings.tls_key,
            )
        )
        self.settings, self.gate = settings, _gate_of(app)
        self.ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: asyncio.Task[None] | None = None

    def run_on(self, listener: socket.socket) -> None:
        """Serve until a signal, or `close` from another thread."""
        self.run(sockets=[listener])

    def close(self) -> None:
        """Begin a shutdown, from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._end)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets=sockets)
        except OSError as error:  # another server took the port since it was bound
            raise _refused(self.settings, error) from None
        self._loop = asyncio.get_running_loop()
        self.ready.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals between two steps of the event loop, and end with exit code 0 after them."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, lambda *_: self.close()) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _end(self) -> None:
        if self._closing is not None:
            logger.warning("the second signal: running answers are ended")
            self.gate.stop_all()
            self.should_exit = True
            return
        if self.gate.num_running:
            limit = f"{self.settings.shutdown_s:g} s"
            logger.info("shutting down: %d requests have %s to end", self.gate.num_running, limit)
        self._closing = asyncio.ensure_future(self._close())

    async def _close(self) -> None:
        if not await self.gate.close(self.settings.shutdown_s):
            logger.warning("answers that took longer were ended")
        self.should_exit = True


def _gate_of(app: FastAPI) -> Gate:
    return app.state.gate


__all__ = ["HttpServer", "open_socket"]
