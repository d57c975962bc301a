"""Named random streams: pure functions of (seed, purpose, counters), independent of what ran before."""

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
    """Return a pseudo-random integer of 63 bits, the same on every machine and with every library version."""
    name = json.dumps([operator.index(seed), purpose, *(operator.index(counter) for counter in counters)])
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1


def stream(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """Return a numpy generator for one purpose, for example stream(7, "frames", step, position)."""
    return np.random.Generator(np.random.PCG64(number(seed, purpose, *counters)))


def lazy_stream(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """Return the same stream, created at its first use: most samples draw no random number."""
    return cast("np.random.Generator", _LazyGenerator(seed, purpose, *counters))


class _LazyGenerator:
    """Creates the generator at the first attribute access and forwards to it."""

    def __init__(self, *name: Any):
        self._name = name

    @cached_property
    def _made(self) -> np.random.Generator:
        return stream(*self._name)

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._made, attribute)


def generator(seed: int, purpose: str, *counters: int, device: str = "cpu") -> torch.Generator:
    """Return a torch generator for one purpose."""
    import torch

    return torch.Generator(device=device).manual_seed(number(seed, purpose, *counters))


def seed_everything(seed: int, *counters: int) -> None:
    """Seed the global generators, for code without streams: weight initialisation, dropout."""
    import random

    import torch

    random.seed(number(seed, "python", *counters))
    np.random.seed(number(seed, "numpy", *counters) % 2**32)  # noqa: NPY002
    torch.manual_seed(number(seed, "torch", *counters))
