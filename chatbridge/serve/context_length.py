"""Whether a conversation and its answer fit into the context length of the language model."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from chatbridge.conversation.layout import Layout
from chatbridge.conversation.messages import Conversation

RESERVED = 64  # tokens kept for an answer before earlier rounds are left out


class NoAnswer(ValueError):
    """A question that cannot be answered; str() is the message for the user."""


class TooLong(NoAnswer):
    """A question that does not fit into the context length."""


@dataclass(frozen=True)
class FittedPrompt:
    """A conversation that fits, with the number of rounds left out and of new tokens that still fit."""

    conversation: Conversation
    num_left_out: int
    max_new_tokens: int

    @property
    def notes(self) -> tuple[str, ...]:
        """A message for the user if rounds were left out."""
        return (left_out_note(self.num_left_out),) if self.num_left_out else ()


def fit_prompt(
    conversation: Conversation, layout: Layout, context_length: int | None, max_new_tokens: int
) -> FittedPrompt:
    """The conversation without its first rounds if they leave no room for an answer; system messages stay.

    conversation    ends with a question
    context_length  of the language model; None: no limit
    raises          TooLong if the last question alone does not fit
    """
    starts = [at for at, message in enumerate(conversation) if message.role == "user"]
    reserved = min(max_new_tokens, RESERVED)

    def without(num_left_out: int) -> Conversation:
        return (*conversation[: starts[0]], *conversation[starts[num_left_out] :])

    @cache
    def size_without(num_left_out: int) -> int:
        return len(layout.prompt(without(num_left_out)))

    def fits(num_left_out: int) -> bool:
        return context_length is None or size_without(num_left_out) + reserved <= context_length

    num_left_out = 0 if starts and fits(0) else _fewest_left_out(len(starts), fits)
    if num_left_out < len(starts):
        most = max_new_tokens if context_length is None else context_length - size_without(num_left_out)
        return FittedPrompt(without(num_left_out), num_left_out, min(max_new_tokens, most))
    size = size_without(len(starts) - 1) if starts else 0
    raise TooLong(
        f"prompt needs {size} tokens and its answer {reserved}, the model's context length is {context_length}; "
        "shorten the question"
    )


def _fewest_left_out(num_rounds: int, fits: Callable[[int], bool]) -> int:
    """The fewest rounds to leave out so that the others fit; num_rounds if the last one alone does not.

    From the end, in doubling steps and then between two of them: a conversation of a thousand rounds is not read a
    thousand times.
    """
    kept = 1
    while kept < num_rounds and fits(num_rounds - kept):
        kept *= 2
    low, high = max(1, num_rounds - kept), num_rounds - kept // 2
    return low + bisect_left(range(low, high), True, key=fits)


def check_media_count(num_media: int, layout: Layout, context_length: int | None) -> None:
    """raises TooLong if so many media items cannot fit, whatever their modalities; nothing is decoded for it"""
    least = num_media * min(layout.media_lengths.values(), default=0)
    if context_length is not None and least > context_length:
        raise TooLong(
            f"{num_media} media items need at least {least} tokens, the model's context length is {context_length}; "
            "attach fewer at a time"
        )


def left_out_note(count: int) -> str:
    """The note that the first `count` rounds of a conversation were left out."""
    rounds = "the first question and its answer" if count == 1 else f"the first {count} questions and their answers"
    return f"{rounds} no longer fit into the model's context length and were left out"
