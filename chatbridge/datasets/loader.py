"""Batches of a run in the order of its steps, made by worker processes that cannot change the result.

torch's DataLoader hands out step numbers; a worker turns a step number into the micro-batches of this rank. Everything
a worker does is a pure function of that number, so neither the number of workers nor where a run starts matters.
"""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from chatbridge.common.errors import DataError
from chatbridge.common.types import Batch, Failure
from chatbridge.datasets.builders.base import Dataset
from chatbridge.datasets.collate import LayoutLike, stack
from chatbridge.datasets.ledger import Ledger
from chatbridge.datasets.mixture import Mixture, split
from chatbridge.datasets.reading import MAX_ATTEMPTS, Exhausted, Reader
from chatbridge.datasets.sources import DataConfig, build_mixture
from chatbridge.processors.source import Processor

__all__ = ["DataConfig", "Loader", "build_loader", "build_mixture"]

PREFETCH = 2  # steps that each worker keeps ready


@dataclass(frozen=True)
class _Stop:
    """A worker's word that the data cannot go on; an exception would reach the user wrapped in its traceback."""

    message: str
    failures: tuple[Failure, ...]


class _Steps(TorchDataset[Any]):
    """Step number -> the micro-batches of one rank."""

    def __init__(self, reader: Reader, rank: int, world: int, accumulate: int):
        self.reader, self.rank, self.world, self.accumulate = reader, rank, world, accumulate

    def __getitem__(self, step: int) -> list[Batch] | _Stop:
        try:
            draws = self.reader.mixture.draws(step)
            return [self._batch(micro) for micro in split(draws, self.rank, self.world, self.accumulate)]
        except DataError as error:
            return _Stop(str(error), error.failures if isinstance(error, Exhausted) else ())

    def _batch(self, draws: list[Any]) -> Batch:
        read = [self.reader(draw) for draw in draws]
        failures = tuple(failure for one in read for failure in one.failures)
        pad_id = self.reader.layout.tokenizer.pad_id
        return stack([one.sample for one in read], [one.row for one in read], pad_id, failures)


class Loader:
    """The steps of one rank from `start_step` to `stop_step`, one list of micro-batches each.

    `close`, or the end of a `with` block, ends the workers; so does the end of the steps.
    """

    def __init__(self, torch_loader: DataLoader[Any], ledger: Ledger | None):
        self._torch_loader = torch_loader
        self._ledger = ledger
        self._running: Generator[list[Batch], None, None] | None = None

    def __len__(self) -> int:
        return len(self._torch_loader)

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[list[Batch]]:
        self.close()
        self._running = self._steps()
        return self._running

    def close(self) -> None:
        """End the workers now."""
        if self._running is not None:
            self._running.close()
            self._running = None

    def _steps(self) -> Generator[list[Batch], None, None]:
        for item in self._torch_loader:
            if isinstance(item, _Stop):
                if self._ledger is not None:
                    self._ledger.add(item.failures)
                raise DataError(item.message)
            if self._ledger is not None:
                self._ledger.record(item)
                self._ledger.check()
            yield item


def build_loader(
    mixture: Mixture[Dataset],
    layout: LayoutLike,
    processors: Mapping[str, Processor],
    *,
    micro_batch: int,
    accumulate: int = 1,
    rank: int = 0,
    world: int = 1,
    start_step: int = 0,
    stop_step: int,
    num_workers: int = 2,
    seed: int,
    ledger: Ledger | None = None,
    pin_memory: bool = False,
    max_attempts: int = MAX_ATTEMPTS,
    start_method: str | None = None,
) -> Loader:
    """The micro-batches of one rank, step by step.

    processors    modality -> what decodes it, for training
    seed          of what is drawn inside a sample: prompt, caption, frames, crop
    ledger        if given, failures are recorded and the budget is checked before a step is handed out
    start_method  fork (default on Linux), forkserver or spawn
    raises        ValueError when the mixture's global batch is not micro_batch * accumulate * world
    """
    needed = micro_batch * accumulate * world
    if mixture.global_batch != needed:
        raise ValueError(
            f"the mixture has {mixture.global_batch} conversations per step; micro_batch {micro_batch} x accumulate "
            f"{accumulate} x {world} ranks need {needed}"
        )
    reader = Reader(mixture, layout, processors, seed, max_attempts)
    torch_loader: DataLoader[Any] = DataLoader(
        _Steps(reader, rank, world, accumulate),
        sampler=range(start_step, stop_step),
        batch_size=None,  # a step is a batch already
        num_workers=num_workers,
        prefetch_factor=PREFETCH if num_workers else None,
        worker_init_fn=_start_worker,
        multiprocessing_context=start_method if num_workers else None,
        pin_memory=pin_memory,
        generator=torch.Generator().manual_seed(seed),  # torch would take a number from the global one
    )
    return Loader(torch_loader, ledger)


def _start_worker(number: int) -> None:
    """Ctrl-C is for the main process, which saves a checkpoint while the workers still deliver."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
