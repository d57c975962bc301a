"""One answer of a decoding: what was chosen so far, and when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from chatbridge.conversation.stop_strings import Stops
from chatbridge.models.language.generate_options import GenerateOptions

RowFinish = Literal["stop", "length"]


@dataclass(frozen=True)
class TokenLogprobs:
    """The log-probability of a chosen id under the model, before penalties and temperature.

    top   the most likely ids with theirs, most likely first
    """

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass
class DecodedRow:
    """One sequence of a decoding.

    top_logprobs  None: no log-probabilities; n: of the chosen ids and of the n most likely ones
    chosen        all new ids, including the stop sequence and the end token
    answer        the same without them, once it is finished
    logprobs      one for each chosen id; empty when not asked for
    finish        None while it goes on; "stop" for a stop sequence or an end token; "length" for the longest answer
    """

    options: GenerateOptions
    stops: Stops
    top_logprobs: int | None = None
    chosen: list[int] = field(default_factory=list)
    answer: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish: RowFinish | None = None

    def add(self, new: int, logprobs: TokenLogprobs | None, end_ids: Sequence[int]) -> bool:
        """Add an id; returns whether the answer is finished."""
        self.chosen.append(new)
        if logprobs is not None:
            self.logprobs.append(logprobs)
        if new in end_ids:
            self.finish = "stop"
            return True
        self.answer.append(new)
        if (end := self.stops.end(self.answer)) is not None:
            del self.answer[end:]
            self.finish = "stop"
        elif len(self.answer) >= self.options.max_new_tokens:
            self.finish = "length"
        return self.finish is not None


__all__ = ["DecodedRow", "RowFinish", "TokenLogprobs"]
