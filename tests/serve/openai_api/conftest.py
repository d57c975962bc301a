"""One server over the miniature world for all tests of the API."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from chatbridge.serve.engine import ChatEngine

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
from tests.helpers.api_server import RunningServer, running


@pytest.fixture(scope="session")
def server(chat_engine: ChatEngine) -> Iterator[RunningServer]:
    with running(chat_engine) as one:
        yield one


@pytest.fixture(scope="session")
def client(server: RunningServer) -> Any:
    """The official client."""
    pytest.importorskip("openai")
    return server.client()
