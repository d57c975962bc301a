"""What several benchmarks share: processor time in alternating rounds, peak bytes of a call, the rate of a matmul."""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Spread(NamedTuple):
    """Median and quartiles of a figure over rounds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def spread(values: list[float]) -> Spread:
    """The median and the quartiles; of one value, three times it."""
    if len(values) < 2:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def in_rounds(sides: Mapping[str, Callable[[], object]], rounds: int, warm_up: bool = True) -> dict[str, list[float]]:
    """Seconds of processor time of every side in every round; all sides run in every round, in turns.

    Every second round runs the sides in reverse order, so none always follows the same one. The warm-up is one more
    round, which is not counted.
    """
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(1 - warm_up, rounds + 1):
        order = list(sides.items())
        for name, run in order if number % 2 else reversed(order):
            start = time.process_time()
            run()
            if number:
                found[name].append(time.process_time() - start)
    return found


def ratio(times: Mapping[str, list[float]], over: str, under: str) -> Spread:
    """The spread of the ratio of two sides, round by round."""
    return spread([a / b for a, b in zip(times[over], times[under], strict=True)])


def peak_bytes(run: Callable[[], object]) -> int:
    """The most bytes that tensors take during a call, beyond those that exist before it; buffers inside an operation
    are not counted."""
    with _LiveBytes() as live:
        result = run()
    del result
    return live.peak


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages from the operation that returns them to their end."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, Any] = {}  # address -> weak reference, whose callback removes it
        self.total = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self._keep(tree_leaves((args, kwargs)), is_new=False)
        result = func(*args, **kwargs)
        self._keep(tree_leaves(result), is_new=True)
        return result

    def _keep(self, found: list[Any], is_new: bool) -> None:
        for storage in (one.untyped_storage() for one in found if isinstance(one, torch.Tensor)):
            key, size = storage._cdata, storage.nbytes() if is_new else 0
            if key not in self.storages:
                self.total += size
                self.peak = max(self.peak, self.total)
                self.storages[key] = weakref.ref(storage, lambda _, key=key, size=size: self._end(key, size))

    def _end(self, key: int, size: int) -> None:
        self.total -= size
        self.storages.pop(key, None)


def matmul_rate(dtype: torch.dtype, size: int = 1024, rounds: int = 5) -> float:
    """FLOP per second of processor time of a product of two square matrices on the CPU: the median over rounds."""
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    times = in_rounds({"matmul": lambda: a @ b}, rounds)["matmul"]
    return 2 * size**3 / statistics.median(times)
