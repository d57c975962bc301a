"""The held-out samples of a run in batches of one source, read as in an evaluation: nothing of them is random.

Batch k holds the same samples in every run, on any rank and with any number of workers.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from chatbridge.common import seeds
from chatbridge.common.errors import DataError, MediaError
from chatbridge.common.types import Batch, Sample
from chatbridge.conversation.token_sequence import TokenSequence
from chatbridge.datasets.builders.base import Dataset
from chatbridge.datasets.collate import LayoutLike, stack
from chatbridge.datasets.decoding import limits_of
from chatbridge.datasets.order.mixture import Mixture
from chatbridge.datasets.sample_reader import read_sample, sample_name
from chatbridge.datasets.workers.progress_notes import ProgressNote, ProgressNotes, TimedReading
from chatbridge.datasets.workers.supervisor import (
    MAX_RESTARTS,
    SupervisedWorkers,
    hard_limit,
    init_worker,
    supervised_results,
)
from chatbridge.processors.media_processor import Processor


@dataclass(frozen=True)
class HeldOutBatch:
    """Samples of one source. batch: None if none of them can be read. unreadable: "sample: reason" of those left out"""

    source: str
    batch: Batch | None
    unreadable: tuple[str, ...] = ()


@dataclass
class HeldOutSamples(TorchDataset["HeldOutBatch | DataError"]):
    """Batch number -> its samples. Picklable.

    processors  modality -> processor for evaluation
    seed        of the prompt or caption of a sample, the same each time
    size        conversations per batch
    lost        (source number, index) -> why it is not read: it crashed or hung the worker that read it
    """

    mixture: Mixture[Dataset]
    layout: LayoutLike
    processors: Mapping[str, Processor]
    seed: int
    size: int
    lost: dict[tuple[int, int], str] = field(default_factory=dict)
    notes: ProgressNotes | None = None

    def __post_init__(self) -> None:
        self.parts = [
            (name, held[start : start + self.size].tolist())
            for name, held in self.mixture.held_out.items()
            for start in range(0, len(held), self.size)
        ]

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> HeldOutBatch | DataError:
        """A DataError is returned: raised, it would reach the user wrapped in the worker's traceback."""
        source, indices = self.parts[number]
        read: list[tuple[Sample, TokenSequence]] = []
        unreadable: list[str] = []
        try:
            for index in indices:
                try:
                    read.append(self._read(source, index))
                except MediaError as error:
                    unreadable.append(f"{sample_name(self.mixture.sources[source], index)}: {error}")
        except DataError as error:
            return DataError(f"source {source!r}, a held-out sample: {error}")
        pad_id = self.layout.tokenizer.pad_id
        batch = stack([one for one, _ in read], [one for _, one in read], pad_id) if read else None
        return HeldOutBatch(source, batch, tuple(unreadable))

    def _read(self, source: str, index: int) -> tuple[Sample, TokenSequence]:
        number, dataset = self.mixture.names.index(source), self.mixture.sources[source]
        if (number, index) in self.lost:
            raise MediaError(self.lost[number, index])
        rng = seeds.stream(self.seed, f"validation/{source}", index)
        with TimedReading(limits_of(self.processors).time_limit_s, self.notes).reading(number, index):
            sample = read_sample(dataset, index, self.processors, rng, train=False)
        try:
            return sample, self.layout.training_sequence(sample.conversation)
        except ValueError as error:  # nothing is supervised, or it is too long
            raise MediaError(str(error)) from error

    def keep_out(self, note: ProgressNote, reason: str) -> str:
        """Leave out a sample that killed its worker; returns the line for the log."""
        self.lost[note.source, note.index] = reason
        source = self.mixture.names[note.source]
        return f"validation of {source!r}, sample {sample_name(self.mixture.sources[source], note.index)!r}: {reason}"


def load_held_out(
    samples: HeldOutSamples, numbers: Sequence[int], num_workers: int
) -> Generator[HeldOutBatch | DataError, None, None]:
    """The batches with these numbers, in order, from workers supervised as in training; with 0 this process reads."""

    def start(positions: range) -> SupervisedWorkers:
        samples.notes = ProgressNotes(num_workers)
        torch_loader = DataLoader(
            samples,
            sampler=[numbers[at] for at in positions],
            batch_size=None,
            num_workers=num_workers,
            prefetch_factor=1 if num_workers else None,
            worker_init_fn=init_worker,
            generator=torch.Generator(),  # without one, torch draws a number from the global generator
        )
        return SupervisedWorkers(torch_loader, samples.notes, hard_limit(limits_of(samples.processors).time_limit_s))

    yield from supervised_results(range(len(numbers)), start, samples.keep_out, MAX_RESTARTS)
