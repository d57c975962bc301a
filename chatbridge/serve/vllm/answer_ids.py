"""The ids of one answer as they arrive from vLLM, ended where the answers of this process end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from chatbridge.conversation.layout import Layout
from chatbridge.models.language._decoded_row import TokenLogprobs
from chatbridge.serve.scheduler.requests import Finished, Grown
from chatbridge.serve.vllm.wire import Tokens, WireError


class AnswerIds:
    """Collects ids until an end token, a stop sequence, a stop string or the longest length.

    ids   so far; once the answer is over without what ends it
    end   why it is over; None while it grows
    """

    def __init__(self, layout: Layout, end_ids: Sequence[int], max_new_tokens: int) -> None:
        self.layout, self.end_ids, self.max_new_tokens = layout, frozenset(end_ids), max_new_tokens
        self.ids: list[int] = []
        self.end: Literal["stop", "length", "time"] | None = None
        self._logprobs: list[TokenLogprobs] = []

    def add(self, tokens: Tokens) -> Grown:
        """Take the ids of an event; those after the end of the answer are left out.

        raises   WireError when vLLM gave the answer up
        """
        before = len(self.ids)
        for at, new in enumerate(tokens.ids):
            if self.end is None:
                self._add(new, tokens.logprobs[at] if tokens.logprobs else None)
        if self.end is None and tokens.finish is not None:
            if tokens.finish not in ("stop", "length"):
                raise WireError(f"ended the answer: {tokens.finish}")
            self.end = "stop" if tokens.finish == "stop" else "length"
        return Grown(tuple(self.ids[before:]), tuple(self._logprobs[before:]))

    @property
    def finished(self) -> Finished:
        """The whole answer."""
        return Finished(tuple(self.ids), tuple(self._logprobs[: len(self.ids)]), end=self.end)

    def _add(self, new: int, logprobs: tuple[float, tuple[tuple[int, float], ...]] | None) -> None:
        if new in self.end_ids:
            self.end = "stop"
            return
        self.ids.append(new)
        if logprobs is not None:
            self._logprobs.append(TokenLogprobs(*logprobs))
        if (end := self.layout.stops.end(self.ids)) is not None:
            del self.ids[end:]
            self.end = "stop"
        elif len(self.ids) >= self.max_new_tokens:
            self.end = "length"


__all__ = ["AnswerIds"]
