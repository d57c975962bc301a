"""Which rounds of a conversation are left out."""

from __future__ import annotations

from typing import Any

import pytest

from chatbridge.conversation.messages import Message, Text, user
from chatbridge.serve.context_length import TooLong, fit_prompt

CONTEXT = 40


class CountingLayout:
    """A layout of one token per character, which counts what it reads."""

    def __init__(self) -> None:
        self.num_read = self.num_calls = 0

    def prompt(self, conversation: Any) -> str:
        text = "".join(message.text for message in conversation)
        self.num_read, self.num_calls = self.num_read + len(text), self.num_calls + 1
        return text


def rounds(count: int, size: int) -> list[Message]:
    answer = Message("assistant", (Text(""),))
    return [one for _ in range(count) for one in (user("x" * size), answer)][:-1]


@pytest.mark.parametrize("size", [1, 3, 9, 10, 19, 31, 32])
@pytest.mark.parametrize("count", range(1, 12))
def test_as_many_rounds_stay_as_fit(count: int, size: int):
    """fails when one round more would fit, or the kept ones do not"""
    system = Message("system", (Text("ss"),))
    found = fit_prompt((system, *rounds(count, size)), CountingLayout(), CONTEXT, 6)  # type: ignore[arg-type]
    fitting = (CONTEXT - 6 - 2) // size
    assert found.num_left_out == max(0, count - fitting)
    assert found.conversation == (system, *rounds(count - found.num_left_out, size))
    assert found.max_new_tokens == 6


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_a_last_question_that_does_not_fit_is_said(count: int):
    """fails when its message has the size of something else"""
    conversation = (*rounds(count, 1), user("x" * 50))
    with pytest.raises(TooLong, match="prompt needs 50 tokens"):
        fit_prompt(conversation, CountingLayout(), CONTEXT, 6)  # type: ignore[arg-type]


def test_a_long_conversation_is_not_read_once_for_each_round():
    """fails when a thousand long rounds, which anybody may send, cost a thousand readings"""
    layout, conversation = CountingLayout(), (*rounds(1000, 1000), user("x"))
    assert fit_prompt(conversation, layout, CONTEXT, 6).num_left_out == 1000  # type: ignore[arg-type]
    assert layout.num_calls < 30 and layout.num_read < 1_100_000
