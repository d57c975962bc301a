"""Sequences that are too long, cut as the reference of TextBind cut them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from chatbridge.conversation.fitting import Limit, is_supervised, size, size_before_answer
from chatbridge.conversation.spans import BranchSpan, MediaSpan, Span, TextSpan


def cut_as_released(spans: Sequence[Span], limit: Limit) -> list[Span]:
    """The spans up to the limit, where all captions come after the base, as the reference wrote them.

    An image that begins before the limit or exactly at it is kept whole, and images that follow it without text too; so
    the sequence may exceed the limit, but never the context of the language model. Captions are lost first, the last
    one first; the token before an image learns to open its caption even when the caption is lost. Text may end
    anywhere.
    raises   ValueError when no supervised token is left (the reference computed a loss over nothing)
    """
    if size(spans) <= limit.tokens:
        return list(spans)
    base = [span for span in spans if not isinstance(span, BranchSpan)]
    kept = list(cut_base(base, limit))
    room = max(0, limit.tokens - size(kept)) if size(kept) == size(base) else 0
    slots = {span.slot for span in kept if isinstance(span, MediaSpan)}
    found: list[Span] = []
    left = iter(kept)
    for span in spans:
        if not isinstance(span, BranchSpan):
            found += [one for one in [next(left, None)] if one is not None]
        elif span.slot in slots:
            found.append(replace(span, kept=min(span.length, room)))
            room -= min(span.length, room)
    if not any(is_supervised(span) for span in found):
        raise limit.nothing_fits(size_before_answer(spans))
    return found


def cut_base(base: Sequence[Span], limit: Limit) -> Iterator[Span]:
    """The spans of a base up to the limit; an image is kept whole or not at all."""
    at = 0
    for span in base:
        is_media = isinstance(span, MediaSpan)
        is_beyond = is_media and limit.context is not None and at + span.length > limit.context
        if is_beyond or (not is_media and at >= limit.tokens):
            return
        if isinstance(span, TextSpan) and at + span.length > limit.tokens:
            yield replace(span, ids=span.ids[: limit.tokens - at])
            return
        yield span
        at += span.length
