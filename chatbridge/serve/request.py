"""What a request asks for beside its generation options, and what is counted while it is answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Finish = Literal["stop", "length", "time"]  # a stop string or end token; the longest length; the time limit
MOST_TOP_LOGPROBS = 20  # alternatives per token, as in OpenAI's API


@dataclass(frozen=True, kw_only=True)
class RequestSettings:
    """Settings of one request that do not belong to a configuration.

    stop           further strings that end the answer; they are not part of it
    top_logprobs   None: no log-probabilities; 0: of the generated tokens; n: also of the n most likely ones
    time_limit_s   the answer ends after this time, counted from when it was asked; None: no limit
    is_whole       only the complete answer is needed: states before it may be left out, which is cheaper
    raises         ValueError for an empty stop string, or a number out of range
    """

    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None
    time_limit_s: float | None = None
    is_whole: bool = False

    def __post_init__(self) -> None:
        if any(not one for one in self.stop):
            raise ValueError("stop: an empty string would end every answer before its first word; remove it")
        if self.top_logprobs is not None and not 0 <= self.top_logprobs <= MOST_TOP_LOGPROBS:
            raise ValueError(f"top_logprobs is {self.top_logprobs}, expected 0 to {MOST_TOP_LOGPROBS}")
        if self.time_limit_s is not None and not self.time_limit_s > 0:
            raise ValueError(f"time_limit_s is {self.time_limit_s}, expected a number above 0")


PLAIN = RequestSettings()  # a request that asks for nothing special


@dataclass(frozen=True)
class TokenLogprob:
    """The log-probability of a generated token under the model, before temperature and penalties.

    top   the most likely tokens at this place with theirs, most likely first
    """

    id: int
    text: str
    logprob: float
    top: tuple[tuple[int, str, float], ...] = ()


@dataclass(frozen=True)
class Usage:
    """Tokens of a request.

    prompt    positions of the prompt, media included
    cached    of these, read for an earlier request and not again
    media     of these, positions of media
    encoded   media items that went through an encoder for this request; others came from the cache
    answer    generated tokens, without a stop sequence
    """

    prompt: int = 0
    cached: int = 0
    media: int = 0
    encoded: int = 0
    answer: int = 0


@dataclass(frozen=True)
class Timing:
    """Seconds since the request was asked: until it began, until its first token, until now."""

    waited_s: float = 0.0
    first_token_s: float | None = None
    total_s: float = 0.0

    def tokens_per_s(self, num_tokens: int) -> float | None:
        """Speed after the first token; None before the second."""
        if self.first_token_s is None or num_tokens < 2 or self.total_s <= self.first_token_s:
            return None
        return (num_tokens - 1) / (self.total_s - self.first_token_s)


__all__ = ["PLAIN", "Finish", "RequestSettings", "Timing", "TokenLogprob", "Usage"]
