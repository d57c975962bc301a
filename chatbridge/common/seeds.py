"""Randomness comes from named streams: a pure function of (seed, purpose, counters), never of what ran before."""

from __future__ import annotations

import hashlib
import json
import operator
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np

if TYPE_CHECKING:
    import torch


def number(seed: int, purpose: str, *counters: int) -> int:
    """A whole number of 63 bits that looks random; the same on every machine, for every version of every library."""
    name = json.dumps([operator.index(seed), purpose, *(operator.index(counter) for counter in counters)])
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1


def stream(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """A numpy generator of its own for one purpose, for example stream(7, "frames", step, position)."""
    return np.random.Generator(np.random.PCG64(number(seed, purpose, *counters)))


def late_stream(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """The same numbers from a generator that is made when the first is drawn: most samples draw none."""
    return cast("np.random.Generator", _Late(seed, purpose, *counters))


class _Late:
    """Not there yet: whatever is asked of it is asked of the generator."""

    def __init__(self, *name: Any):
        self._name = name

    @cached_property
    def _made(self) -> np.random.Generator:
        return stream(*self._name)

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._made, attribute)


def generator(seed: int, purpose: str, *counters: int, device: str = "cpu") -> torch.Generator:
    """The same for torch."""
    import torch

    return torch.Generator(device=device).manual_seed(number(seed, purpose, *counters))


def seed_everything(seed: int, *counters: int) -> None:
    """Seed the global generators for code that knows no streams: weight initialisation, dropout."""
    import random

    import torch

    random.seed(number(seed, "python", *counters))
    np.random.seed(number(seed, "numpy", *counters) % 2**32)  # noqa: NPY002
    torch.manual_seed(number(seed, "torch", *counters))
