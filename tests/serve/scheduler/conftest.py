"""Engines with limits of their own over the model that all tests of serve share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from chatbridge.processors.limits import ChatLimits
from chatbridge.serve.engine import ChatEngine

Limited = Callable[..., ChatEngine]


@pytest.fixture
def limited(engine: ChatEngine) -> Iterator[Limited]:
    """limited(max_batch=1, ...) -> an engine with these limits, which is closed after the test."""
    made: list[ChatEngine] = []

    def make(**limits: Any) -> ChatEngine:
        made.append(ChatEngine(engine.model, engine.layout, limits=ChatLimits(**limits)))
        return made[-1]

    yield make
    for one in made:
        one.close()
