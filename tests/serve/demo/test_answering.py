"""Answers for a page, of one or two models."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from chatbridge.models.language import GenerateOptions
from chatbridge.serve.demo import answering
from chatbridge.serve.demo.answering import Asked, Side, answer
from chatbridge.serve.demo.chat_state import Chat
from chatbridge.serve.session import Session


def test_a_page_can_stop_an_answer_that_does_not_grow(monkeypatch: pytest.MonkeyPatch):
    """fails when the iterator waits for the next token: the page closes it only between two of its values"""
    is_ended = threading.Event()

    def never_grows(*arguments: Any) -> Iterator[Session]:
        is_stopped = arguments[5]
        while not is_stopped():
            is_ended.wait(0.005)
        is_ended.set()
        yield from ()

    monkeypatch.setattr(answering, "ask", never_grows)
    monkeypatch.setattr(answering, "POLL_S", 0.01)
    silent: Any = None
    chats = answer([Side(silent)], Chat(), Asked("what ?", options=GenerateOptions()))
    first = next(chats)
    assert [next(chats), next(chats)] == [first, first] and not is_ended.is_set()
    chats.close()  # type: ignore[attr-defined]
    assert is_ended.wait(5)
