"""A chat over the miniature world, built once for all tests of serve."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from chatbridge.common.types import Batch
from chatbridge.conversation.messages import Conversation
from chatbridge.serve.engine import ChatEngine
from tests.helpers.serve_parts import ChatWorld


@pytest.fixture(scope="session")
def world(chat_world: ChatWorld) -> ChatWorld:
    return chat_world


@pytest.fixture(scope="session")
def engine(chat_engine: ChatEngine) -> ChatEngine:
    return chat_engine


@pytest.fixture
def prompts(engine: ChatEngine, monkeypatch: pytest.MonkeyPatch) -> list[Batch]:
    """The batches of all prompts of a test, cached positions included."""
    batches: list[Batch] = []
    make = engine.prompts

    def recorded(conversations: Sequence[Conversation]) -> Batch:
        batches.append(make(conversations))
        return batches[-1]

    monkeypatch.setattr(engine, "prompts", recorded)
    return batches
