"""A model behind a server that speaks OpenAI's protocol, such as a judge, by the client of the package `openai`.

The client's own retries are off: they would not count for the limit of requests, and they cut a long Retry-After short.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from threading import Event
from typing import Any

from chatbridge.common.errors import DataError, in_one_line
from chatbridge.common.extras import need
from chatbridge.review.rate_limit import RateLimit
from chatbridge.review.reply_cache import Reply, request_key
from chatbridge.review.request_text import SYSTEM

FATAL = {401: "check the key", 403: "the key has no access", 404: "check --model and --base-url"}
NO_QUOTA = "insufficient_quota"  # a 429 that no waiting ends
RETRIED = (408, 409, 425, 429)  # and everything from 500 on


class JudgeUnusable(DataError):
    """No request can succeed: a wrong key, model or address, or no quota left."""


class NoReply(ValueError):
    """One request failed; others may succeed."""


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """Which model, and how it is asked."""

    model: str  # name of the model on the server
    server: str = "https://api.openai.com/v1"  # address of the protocol
    parameters: Mapping[str, Any] = field(
        default_factory=lambda: {"temperature": 0.2, "max_tokens": 1024}
    )  # of a reply
    system: str = SYSTEM  # system message
    timeout_s: float = 120.0  # longest silence of the server
    retries: int = 6  # further attempts after a failed one
    first_wait_s: float = 1.0  # before the second attempt; doubles with every further one
    longest_wait_s: float = 300.0  # between two attempts
    called: str = "the judge"  # in messages

    def request(self, text: str) -> dict[str, Any]:
        """The body of the request for a review text."""
        messages = [{"role": "system", "content": self.system}, {"role": "user", "content": text}]
        return {"model": self.model, "messages": messages, **self.parameters}

    def key(self, text: str) -> str:
        """The name of that request in the cache and in output files."""
        return request_key(self.server, self.request(text))


class Judge:
    """Asks for reviews; usable from several threads.

    rate_limit   when a request may start, attempts after a failure included
    stop         ends waiting
    say          receives a line for every attempt that failed
    """

    def __init__(
        self,
        settings: JudgeSettings,
        key: str,
        rate_limit: RateLimit,
        stop: Event | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """raises ImportError that names the extra when the client is not installed"""
        self._openai = need("openai", f"asking {settings.called}")
        self.settings, self.rate_limit = settings, rate_limit
        self.stop = stop or Event()
        self.say = say
        self._client = self._openai.OpenAI(
            api_key=key, base_url=settings.server, timeout=settings.timeout_s, max_retries=0
        )

    def ask(self, request: Mapping[str, Any]) -> Reply:
        """The reply to a request of `JudgeSettings.request`.

        raises   NoReply when all attempts failed or the server refuses this request, JudgeUnusable when no request can
                 succeed
        """
        for attempt in range(self.settings.retries + 1):
            self.rate_limit.wait(self.stop)
            if self.stop.is_set():
                raise NoReply("the command was stopped")
            try:
                return self._reply(request)
            except _Failed as failure:
                if attempt == self.settings.retries:
                    raise NoReply(f"{failure} ({attempt + 1} attempts)") from None
                wait_s = self._wait_s(attempt, failure)
                self.say(f"{failure}; next attempt in {wait_s:.1f} s")
                self.stop.wait(wait_s)
        raise AssertionError("the last attempt returns or raises")

    def _reply(self, request: Mapping[str, Any]) -> Reply:
        openai, body = self._openai, dict(request)
        model, messages = body.pop("model"), body.pop("messages")
        try:
            completion = self._client.chat.completions.create(model=model, messages=messages, extra_body=body)
        except openai.APIStatusError as error:
            raise self._status_failure(error) from None
        except openai.APITimeoutError:
            raise _Failed(f"{self.settings.called} did not answer within {self.settings.timeout_s:g} s") from None
        except openai.APIConnectionError as error:
            raise _Failed(f"no connection to {self.settings.server}: {error.__cause__ or error}") from None
        except (openai.OpenAIError, ValueError) as error:  # a reply that is not JSON, for example
            raise _Failed(f"the server answered something else than a chat completion: {in_one_line(error)}") from None
        return _read(completion)

    def _status_failure(self, error: Any) -> Exception:
        """What an HTTP status means for this request."""
        status, text = (
            error.status_code,
            f"{self.settings.called} answered HTTP {error.status_code}: {in_one_line(error.message)}",
        )
        if status in FATAL:
            return JudgeUnusable(f"{text}; {FATAL[status]}")
        if error.code == NO_QUOTA or error.type == NO_QUOTA:
            return JudgeUnusable(f"{text}; the account has no quota left")
        if status not in RETRIED and status < 500:
            return NoReply(text)
        return _Failed(text, retry_after_s(error.response.headers.get("retry-after")))

    def _wait_s(self, attempt: int, failure: _Failed) -> float:
        """Seconds before the next attempt: what the server asks for; else doubling, with a random part so that
        processes do not return together. raises JudgeUnusable when the server asks for more than the longest wait"""
        longest = self.settings.longest_wait_s
        if failure.retry_after_s is not None:
            if failure.retry_after_s > longest:
                asked = f"{failure}; it asks to wait {failure.retry_after_s:.0f} s, longer than {longest:.0f} s"
                raise JudgeUnusable(f"{asked}; repeat the command then, or raise --longest-wait")
            return failure.retry_after_s
        return min(longest, self.settings.first_wait_s * 2.0**attempt * random.uniform(1.0, 1.25))


class _Failed(Exception):
    """An attempt failed for a reason that may pass."""

    def __init__(self, text: str, retry_after_s: float | None = None) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


def retry_after_s(value: str | None, now: datetime | None = None) -> float | None:
    """The seconds of a Retry-After header, which has seconds or a date; None if it is absent or neither."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            when = parsedate_to_datetime(value)
        except ValueError:
            return None
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        seconds = (when - (now or datetime.now(UTC))).total_seconds()
    return max(0.0, seconds) if seconds == seconds and seconds != float("inf") else None


def _read(completion: Any) -> Reply:
    """The reply in a chat completion. Servers differ: usage may be absent, a refusal has no content."""
    try:
        choice = completion.choices[0]
        content = choice.message.content
    except (AttributeError, IndexError, TypeError):
        raise _Failed("the server answered something else than a chat completion: no choices") from None
    usage = getattr(completion, "usage", None)
    return Reply(
        content=content if isinstance(content, str) else "",
        model=str(getattr(completion, "model", None) or ""),
        finish_reason=str(getattr(choice, "finish_reason", None) or ""),
        prompt_tokens=_count(usage, "prompt_tokens"),
        completion_tokens=_count(usage, "completion_tokens"),
    )


def _count(usage: Any, name: str) -> int | None:
    value = getattr(usage, name, None)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
