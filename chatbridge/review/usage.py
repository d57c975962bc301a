"""What replies cost: the replies and tokens that one command has used, their price, and its budget."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock

from chatbridge.common.errors import DataError
from chatbridge.review.reply_cache import Reply


@dataclass(frozen=True)
class Price:
    """Dollars per million tokens."""

    prompt: float
    completion: float

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Dollars."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


@dataclass
class Usage:
    """The replies and tokens that one command has used so far; threads may share it.

    uncounted   replies whose tokens the server did not count
    """

    price: Price | None = None
    budget: float | None = None
    requested: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0
    _lock: Lock = field(default_factory=Lock)

    def add(self, reply: Reply, is_cached: bool) -> None:
        """Count a reply; a cached one costs nothing."""
        with self._lock:
            if is_cached:
                self.cached += 1
                return
            self.requested += 1
            if reply.prompt_tokens is None or reply.completion_tokens is None:
                self.uncounted += 1
            self.prompt_tokens += reply.prompt_tokens or 0
            self.completion_tokens += reply.completion_tokens or 0

    @property
    def cost(self) -> float | None:
        """Dollars spent by this command; None without a price."""
        return None if self.price is None else self.price.of(self.prompt_tokens, self.completion_tokens)

    @property
    def is_spent(self) -> bool:
        """Whether the budget is reached."""
        return self.budget is not None and self.cost is not None and self.cost >= self.budget

    def refuse_if_spent(self) -> None:
        """raises DataError when the budget is reached"""
        if self.is_spent:
            raise DataError(
                f"the budget of ${self.budget:g} is spent (${self.cost:.4f}); the same command with a higher "
                "--budget continues"
            )

    def __str__(self) -> str:
        cost = "" if self.cost is None else f", ${self.cost:.4f}"
        unknown = f"; {self.uncounted:,} replies came without counts" if self.uncounted else ""
        return (
            f"{self.requested:,} replies requested, {self.cached:,} from the cache; {self.prompt_tokens:,} prompt and "
            f"{self.completion_tokens:,} completion tokens{cost}{unknown}"
        )
