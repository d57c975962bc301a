"""A client that leaves ends what runs for it, whatever happens in the same moment."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chatbridge.serve.openai_api import event_stream
from chatbridge.serve.openai_api.chat_completions import _is_set
from chatbridge.serve.openai_api.event_stream import ClientGone, until_disconnect


@pytest.mark.parametrize("steps", range(6))
def test_a_cancellation_that_comes_with_a_token_is_not_lost(steps: int):
    """fails when a stream goes on for a client that left while a token arrived, as with Python 3.11's wait_for

    steps   of the event loop between the token and the cancellation
    """

    async def waiting() -> tuple[bool, bool]:
        changed = asyncio.Event()
        task = asyncio.ensure_future(_is_set(changed, 30.0))
        for _ in range(4):
            await asyncio.sleep(0)
        changed.set()
        for _ in range(steps):
            await asyncio.sleep(0)
        was_running = task.cancel()
        await asyncio.wait({task})
        return was_running, task.cancelled()

    was_running, is_cancelled = asyncio.run(waiting())
    assert was_running == is_cancelled


def test_the_event_or_the_time_ends_the_waiting():
    async def both() -> tuple[bool, bool]:
        changed = asyncio.Event()
        late = await _is_set(changed, 0.01)
        changed.set()
        return late, await _is_set(changed, 10.0)

    assert asyncio.run(both()) == (False, True)


def test_work_that_loses_a_cancellation_ends_too(monkeypatch: pytest.MonkeyPatch):
    """fails when a response waits forever for work that was cancelled once and went on"""
    monkeypatch.setattr(event_stream, "AGAIN_S", 0.01)
    cancellations: list[int] = []

    async def stubborn() -> None:
        while True:
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                cancellations.append(1)
                if len(cancellations) == 3:
                    raise

    async def receive() -> Any:
        await asyncio.sleep(0.01)
        return {"type": "http.disconnect"}

    async def left() -> None:
        with pytest.raises(ClientGone):
            await asyncio.wait_for(until_disconnect(receive, stubborn()), 10)

    asyncio.run(left())
    assert len(cancellations) == 3
