"""The answer to one request, as far as it is: with drawings or without."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from chatbridge.conversation.messages import Part
from chatbridge.models.drawing import Drawn
from chatbridge.models.drawing.answers import FULL, all_drawn, drawing_notes
from chatbridge.serve.answer import Answer, complete_parts, partial_parts
from chatbridge.serve.request import Finish, Timing, TokenLogprob, Usage
from chatbridge.serve.scheduler.requests import Begun, Finished, Grown, Request
from chatbridge.serve.token_texts import TokenTexts


class GrowingAnswer:
    """Adds up what the scheduler tells of a request. One thread uses it."""

    def __init__(self, request: Request, notes: tuple[str, ...], texts: TokenTexts) -> None:
        """
        notes   about the prompt, for the user
        texts   of single tokens, for log-probabilities
        """
        self.request, self.layout, self.notes = request, request.layout, notes
        self._texts = texts
        self._ids: list[int] = []
        self._drawn: Sequence[Drawn] = ()
        self._logprobs: list[TokenLogprob] = []
        self._timing = Timing()
        self._usage = Usage(prompt=request.num_prompt, media=request.num_media)

    @property
    def parts(self) -> tuple[Part, ...]:
        """See `partial_parts`."""
        return partial_parts(self.layout, self._ids, self._drawn)

    def begin(self, event: Begun) -> None:
        """Note what was cached."""
        self._usage = replace(self._usage, cached=event.num_cached, encoded=event.num_encoded)
        self._timing = replace(self._timing, waited_s=event.waited_s)

    def grow(self, event: Grown) -> None:
        """Add tokens."""
        self._ids += event.ids
        self._drawn = event.drawn
        self._add_logprobs(event)
        self._count()

    def now(self, parts: tuple[Part, ...], rendering: str | None = None) -> Answer:
        """The answer so far.

        parts      those that are shown
        rendering  the caption of the image that is being rendered
        """
        return Answer(
            parts,
            notes=(*self.notes, *drawing_notes(self._drawn)),
            num_tokens=len(self._ids),
            rendering=rendering,
            logprobs=tuple(self._logprobs),
            usage=self._usage,
            timing=self._timing,
        )

    def complete(self, event: Finished) -> Answer:
        """The whole answer."""
        del self._logprobs[len(event.ids) :]  # of the beginning of a stop sequence
        known = len(self._logprobs)
        self._add_logprobs(replace(event, ids=event.ids[known:], logprobs=event.logprobs[known:]))
        self._ids = list(event.ids)
        self._count()
        drawn = all_drawn(self.layout, self._ids, event.drawn)
        finish = self._finish(event)
        late = [self._late_note] if finish == "time" else []
        return Answer(
            complete_parts(self.layout, self._ids, drawn),
            is_done=True,
            notes=(*self.notes, *drawing_notes(drawn), *([FULL] if event.is_full else []), *late),
            num_tokens=len(self._ids),
            is_cut=finish != "stop",
            finish=finish,
            logprobs=tuple(self._logprobs),
            usage=self._usage,
            timing=self._timing,
        )

    def _finish(self, event: Finished) -> Finish:
        if event.end == "time":
            return "time"
        is_longest = len(self._ids) >= self.request.options.max_new_tokens and not self.layout.has_stop(self._ids)
        return "length" if event.is_full or is_longest else "stop"

    @property
    def _late_note(self) -> str:
        limit = self.request.settings.time_limit_s or 0
        what = "the answer ended at" if self._ids else "the question was not answered within"
        return f"{what} the time limit of {limit:g} s"

    def _count(self) -> None:
        now = time.monotonic() - self.request.asked_at
        first = self._timing.first_token_s
        self._timing = replace(self._timing, first_token_s=now if first is None else first, total_s=now)
        self._usage = replace(self._usage, answer=len(self._ids))

    def _add_logprobs(self, event: Grown | Finished) -> None:
        for new, one in zip(event.ids, event.logprobs, strict=False):
            top = tuple((id, self._texts[id], logprob) for id, logprob in one.top)
            self._logprobs.append(TokenLogprob(new, self._texts[new], one.logprob, top))


__all__ = ["GrowingAnswer"]
