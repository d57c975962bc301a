"""Spans of a conversation that is too long, cut to a limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from chatbridge.conversation.spans import BranchSpan, MediaSpan, Span, TextSpan


@dataclass(frozen=True)
class Limit:
    """Most tokens of a sequence.

    tokens   those that a template may use
    name     the source of this number, for messages
    context  those that the language model takes; None: not known
    """

    tokens: int
    name: str = "max_tokens"
    context: int | None = None

    def nothing_fits(self, before: int) -> ValueError:
        """The error when no supervised token is left. before: positions before the first one"""
        way = "raise max_tokens or shorten" if self.name == "max_tokens" else "shorten"
        return ValueError(
            f"{before} positions precede the first answer and {self.name} is {self.tokens}: "
            f"no supervised token fits; {way} the first turn"
        )


def fit(spans: Sequence[Span], limit: Limit) -> list[Span]:
    """The spans that fit: turns are dropped from the end; a first turn that is too long loses the end of its answer.

    A sequence ends after an answer, never inside media. A cut answer loses the separator that ends it, so stopping
    there is not supervised. A side text is kept whole, or dropped when text before it is cut or its image is dropped.
    (The reference cut every sequence at its last position, even inside media or prompts.)
    raises   ValueError when no supervised token is left
    """
    if size(spans) <= limit.tokens:
        return list(spans)
    ends = list({span.turn: _end_of(i, spans) for i, span in enumerate(spans) if is_supervised(span)}.values())
    fitting = [end for end in ends if size(spans[:end]) <= limit.tokens]
    if fitting:
        return list(spans[: fitting[-1]])
    kept = list(spans[: ends[0]])
    while (excess := size(kept) - limit.tokens) > 0:
        last = kept.pop()
        if isinstance(last, TextSpan) and last.length > excess:
            kept.append(replace(last, ids=last.ids[:-excess]))
        elif isinstance(last, MediaSpan):
            while kept and isinstance(caption := kept[-1], BranchSpan) and caption.slot == last.slot:
                kept.pop()
    if not any(is_supervised(span) for span in kept):
        raise limit.nothing_fits(size_before_answer(spans))
    return kept


def _end_of(number: int, spans: Sequence[Span]) -> int:
    """The number of the span after this one, and after its image if it is a caption."""
    span, after = spans[number], spans[number + 1 : number + 2]
    is_caption = isinstance(span, BranchSpan) and span.slot is not None
    return number + 1 + (is_caption and bool(after) and isinstance(after[0], MediaSpan))


def size(spans: Sequence[Span]) -> int:
    """Positions of some spans."""
    return sum(span.length for span in spans)


def size_before_answer(spans: Sequence[Span]) -> int:
    """Positions before the first supervised span."""
    return size(spans[: next(at for at, span in enumerate(spans) if is_supervised(span))])


def is_supervised(span: Span) -> bool:
    return isinstance(span, TextSpan | BranchSpan) and span.supervised and bool(span.ids)
