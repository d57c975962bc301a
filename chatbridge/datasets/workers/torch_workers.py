"""Worker processes of a torch DataLoader; the only file that uses private names of torch.

When a worker dies, torch raises from a SIGCHLD handler at an arbitrary point of the main process and ends the run.
Private names of torch are needed to receive a death only while the next item is awaited, and to end workers at a chosen
time. If a version of torch lacks one of them, `PlainWorkers` is used: slower, otherwise the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, dataloader
from torch.utils.data._utils import signal_handling

from chatbridge.common.log import get_logger
from chatbridge.datasets.workers.plain_workers import PlainWorkers

_signals: Any = signal_handling
_iterator_class: Any = getattr(dataloader, "_MultiProcessingDataLoaderIter", None)
FUNCTIONS = ("_set_worker_pids", "_remove_worker_pids")  # of torch.utils.data._utils.signal_handling
ATTRIBUTES = ("_workers", "_worker_pids_set")  # of an iterator over a DataLoader with workers
METHODS = ("_shutdown_workers",)
logger = get_logger(__name__)


class WorkerPool(Protocol):
    """Started worker processes that make items."""

    processes: list[Any]  # of multiprocessing, by worker number; empty: this process makes the items

    def __iter__(self) -> Iterator[Any]: ...

    def __next__(self) -> Any: ...

    def report_deaths(self, is_wanted: bool) -> None:
        """Set whether the death of a worker may raise from a signal handler from now on."""

    def shutdown(self) -> None:
        """Let the workers finish, then end them."""


def start_workers(loader: DataLoader[Any]) -> WorkerPool:
    """Workers for one pass over the loader: torch's own if it has the private names, else `PlainWorkers`."""
    if not loader.num_workers:
        return _InProcess(loader)
    if missing := missing_names():
        return _plain(loader, missing)
    iterator: Any = iter(loader)
    if missing := missing_attributes(iterator):
        del iterator  # ends its workers
        return _plain(loader, missing)
    return _TorchWorkers(iterator)


def missing_names() -> list[str]:
    """The needed private names that torch lacks and that can be checked before workers start."""
    missing = [f"signal_handling.{name}" for name in FUNCTIONS if not callable(getattr(_signals, name, None))]
    return missing + [
        f"the iterator's {name}" for name in METHODS if not callable(getattr(_iterator_class, name, None))
    ]


def missing_attributes(iterator: Any) -> list[str]:
    """The needed private attributes that a started iterator lacks."""
    return [f"the iterator's {name}" for name in ATTRIBUTES if not hasattr(iterator, name)]


def _plain(loader: DataLoader[Any], missing: list[str]) -> WorkerPool:
    logger.warning(
        "torch %s has no %s; loader workers run without torch's DataLoader, slower but with the same results",
        torch.__version__,
        ", ".join(missing),
    )
    return PlainWorkers(loader)


class _InProcess:
    """No workers: this process makes each item when it is requested."""

    def __init__(self, loader: DataLoader[Any]):
        self.processes: list[Any] = []
        self._iterator = iter(loader)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self._iterator)

    def report_deaths(self, is_wanted: bool) -> None: ...

    def shutdown(self) -> None: ...


class _TorchWorkers:
    """The workers of an iterator over a DataLoader."""

    def __init__(self, iterator: Any):
        self._iterator = iterator
        self.processes: list[Any] = list(iterator._workers)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self._iterator)

    def report_deaths(self, is_wanted: bool) -> None:
        own = id(self._iterator)
        if is_wanted:
            _signals._set_worker_pids(own, tuple(process.pid for process in self.processes))
            self._iterator._worker_pids_set = True
        elif self._iterator._worker_pids_set:
            _signals._remove_worker_pids(own)
            self._iterator._worker_pids_set = False

    def shutdown(self) -> None:
        self._iterator._shutdown_workers()
