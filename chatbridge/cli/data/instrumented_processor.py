"""A processor whose calls are intercepted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from chatbridge.processors.media_processor import with_limits
from chatbridge.processors.media_source import Ref

Call = Callable[[Any, Ref, np.random.Generator | None], Any]  # (processor, media reference, rng)


class InstrumentedProcessor:
    """Behaves like `inner`, also with another piece count or other limits, but `call` does the reading."""

    def __init__(self, inner: Any, call: Call):
        self.inner, self.call = inner, call

    def __call__(self, ref: Ref, rng: np.random.Generator | None = None) -> Any:
        return self.call(self.inner, ref, rng)

    def taking(self, count: int) -> InstrumentedProcessor:
        return InstrumentedProcessor(self.inner.taking(count), self.call)

    def within(self, limits: Any) -> InstrumentedProcessor:
        return InstrumentedProcessor(with_limits(self.inner, limits), self.call)

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # a copy before its attributes are set
            raise AttributeError(name)
        return getattr(self.inner, name)
