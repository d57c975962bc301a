"""The batches of a run in the order of its steps, made by worker processes that cannot change the result.

torch's DataLoader distributes step numbers; a worker turns a step number into the micro-batches of this rank. A batch
is a pure function of that number, so neither the number of workers nor the first step changes it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from chatbridge.common.errors import DataError
from chatbridge.common.log import get_logger
from chatbridge.common.types import Batch, Failure
from chatbridge.conversation.layout import Layout
from chatbridge.datasets.batching import PADDED, Batching, MicroBatchDraws, to_batch
from chatbridge.datasets.builders.base import Dataset
from chatbridge.datasets.collate import LayoutLike
from chatbridge.datasets.decoding import limits_of
from chatbridge.datasets.failure_log import FailureLog
from chatbridge.datasets.order.mixture import Mixture
from chatbridge.datasets.quarantine import Quarantine
from chatbridge.datasets.sample_reader import MAX_ATTEMPTS, Exhausted, SampleReader, sample_name
from chatbridge.datasets.shared_ids import SharedIds
from chatbridge.datasets.shared_lengths import LengthTable
from chatbridge.datasets.workers.progress_notes import ProgressNote, ProgressNotes
from chatbridge.datasets.workers.supervisor import (
    MAX_RESTARTS,
    SupervisedWorkers,
    hard_limit,
    init_worker,
    supervised_results,
)
from chatbridge.processors.media_processor import Processor

PREFETCH = 2  # steps that each worker prepares
logger = get_logger(__name__)


@dataclass(frozen=True)
class _Stop:
    """A worker cannot continue. Not an exception, which torch would wrap in a traceback."""

    message: str
    failures: tuple[Failure, ...]


class _Steps(TorchDataset[Any]):
    """Step number -> the micro-batches of one rank."""

    def __init__(self, reader: SampleReader, draws: MicroBatchDraws, batching: Batching):
        self.reader, self.draws, self.batching = reader, draws, batching

    def __getitem__(self, step: int) -> list[Batch] | _Stop:
        try:
            return [
                to_batch(self.reader(draws), self.batching, self.reader.layout, stream)
                for stream, draws in self.draws(step)
            ]
        except DataError as error:
            return _Stop(str(error), error.failures if isinstance(error, Exhausted) else ())


class BatchLoader:
    """The steps of one rank from `start_step` to `stop_step`, one list of micro-batches each.

    A sample that crashes or hangs its worker is recorded and excluded from then on, and the workers start again with
    the step that is due: steps are pure functions of their number, so nothing else changes. `close`, the end of a
    `with` block and the end of the steps end the workers.
    """

    def __init__(
        self,
        reader: SampleReader,
        start: Callable[[SampleReader, range], DataLoader[Any]],
        steps: range,
        failure_log: FailureLog | None,
        max_restarts: int,
    ):
        self._reader, self._start, self._range = reader, start, steps
        self._failure_log = failure_log
        self._max_restarts = max_restarts
        self._running: Generator[list[Batch], None, None] | None = None

    def __len__(self) -> int:
        return len(self._range)

    def __enter__(self) -> BatchLoader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[list[Batch]]:
        """Start. The failure log reads its file now, before another rank appends to it in the first step."""
        self.close()
        if self._failure_log is not None:
            for failure in self._failure_log.begin(self._reader.mixture.counts(self._range.start)):
                self._reader.quarantine.add(failure.source, failure.id, failure.reason, "crashed")
        self._running = self._steps()
        return self._running

    def close(self) -> None:
        """End the workers now."""
        if self._running is not None:
            self._running.close()
            self._running = None

    def _steps(self) -> Generator[list[Batch], None, None]:
        counts, step = self._reader.mixture.counts, self._range.start
        try:
            with closing(self._results()) as results:
                for item in results:
                    if isinstance(item, _Stop):
                        if self._failure_log is not None:
                            self._failure_log.add(item.failures)
                        raise DataError(item.message)
                    step += 1
                    if self._failure_log is not None:
                        self._failure_log.record(item, counts(step))
                        self._failure_log.check()
                    yield item
        finally:
            if self._failure_log is not None and step > self._range.start:
                logger.info("%s", self._failure_log.summary())

    def _results(self) -> Generator[list[Batch] | _Stop, None, None]:
        """The results of the workers; workers that die are replaced."""
        return supervised_results(self._range, self._workers, self._exclude, self._max_restarts)

    def _workers(self, steps: range) -> SupervisedWorkers:
        torch_loader = self._start(self._reader, steps)
        limit_s = hard_limit(limits_of(self._reader.processors).time_limit_s)
        notes = self._reader.notes = ProgressNotes(torch_loader.num_workers)
        return SupervisedWorkers(torch_loader, notes, limit_s)

    def _exclude(self, note: ProgressNote, reason: str) -> str:
        """Exclude a sample by its name; the failure log gets an entry from each draw of it."""
        dataset = self._reader.mixture.sources[self._reader.mixture.names[note.source]]
        name = sample_name(dataset, note.index)
        for one in {name, dataset.shared_id(note.index)}:  # other samples with the same media would crash too
            self._reader.quarantine.add(dataset.name, one, reason, "crashed")
        return f"source {dataset.name!r}, sample {name!r}: {reason}"


def build_loader(
    mixture: Mixture[Dataset],
    layout: LayoutLike,
    processors: Mapping[str, Processor],
    *,
    micro_batch: int,
    accumulate: int = 1,
    batching: Batching = PADDED,
    rank: int = 0,
    world: int = 1,
    start_step: int = 0,
    stop_step: int,
    num_workers: int = 2,
    seed: int,
    failure_log: FailureLog | None = None,
    pin_memory: bool = False,
    max_attempts: int = MAX_ATTEMPTS,
    start_method: str | None = None,
    quarantine: Quarantine | None = None,
    max_restarts: int = MAX_RESTARTS,
    length_table: LengthTable | None = None,
) -> BatchLoader:
    """The micro-batches of one rank, step by step.

    processors    modality -> the processor that decodes it, for training
    batching      how conversations form micro-batches
    seed          of the random choices inside a sample: prompt, caption, frames, crop
    failure_log   if given, failures are recorded and the budget is checked before each step
    num_workers   0: this process reads, and a decoder that crashes or never returns ends it
    start_method  fork (default on Linux), forkserver or spawn
    quarantine    samples that are replaced without being opened
    max_restarts  workers that may die before the run ends
    length_table  of grouped batches, shared with other ranks
    raises        ValueError when the mixture's global batch is not micro_batch * accumulate * world
    """
    needed = micro_batch * accumulate * world
    if mixture.mix != "joint" and mixture.global_batch != needed:  # a stream may have a batch of its own
        raise ValueError(
            f"the mixture has {mixture.global_batch} conversations per step; micro_batch {micro_batch} x accumulate "
            f"{accumulate} x {world} ranks need {needed}"
        )
    excluded = Quarantine() if quarantine is None else quarantine.copy()
    if excluded:
        logger.info("%s", excluded.summary(mixture.names))
        for note in excluded.update_ids(mixture.sources.values()):
            logger.warning("%s", note)

    def start(reader: SampleReader, steps: range) -> DataLoader[Any]:
        return DataLoader(
            _Steps(reader, draws, batching),
            sampler=steps,
            batch_size=None,  # a step is a batch already
            num_workers=num_workers,
            prefetch_factor=PREFETCH if num_workers else None,
            worker_init_fn=init_worker,
            multiprocessing_context=start_method if num_workers else None,
            pin_memory=pin_memory,
            generator=torch.Generator().manual_seed(seed),  # torch would take a number from the global one
        )

    table = length_table or LengthTable()
    if batching.kind == "grouped" and (world > 1 or batching.window > 1) and isinstance(layout, Layout):
        layout = layout.sharing(lambda encode: SharedIds(encode, table.ids))  # one measures, mostly another reads
    draws = MicroBatchDraws(mixture, layout, seed, batching, rank, world, accumulate, table)
    reader = SampleReader(mixture, layout, processors, seed, max_attempts, excluded)
    return BatchLoader(reader, start, range(start_step, stop_step), failure_log, max_restarts)
