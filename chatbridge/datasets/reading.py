"""From a draw to a sample with decoded media; what cannot be read is replaced in the open.

A replacement is a pure function of the draw and the attempt, so a resumed run replaces alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from chatbridge.common import seeds
from chatbridge.common.errors import DataError, MediaError
from chatbridge.common.types import Failure, FailureKind, Sample
from chatbridge.conversation.layout import Row
from chatbridge.datasets.builders.base import Dataset
from chatbridge.datasets.collate import LayoutLike
from chatbridge.datasets.decoding import decode, limits_of
from chatbridge.datasets.mixture import Draw, Mixture
from chatbridge.datasets.quarantine import Quarantine
from chatbridge.datasets.watch import Notes, Watch
from chatbridge.processors.source import Processor

MAX_ATTEMPTS = 32  # samples tried for one draw; the failure budget ends a bad source much earlier


class SampleError(RuntimeError):
    """A defect met while a sample was made (not a broken file); names the sample."""


class Exhausted(DataError):
    """Several samples of a source in a row cannot be used."""

    def __init__(self, message: str, failures: tuple[Failure, ...] = ()):
        super().__init__(message)
        self.failures = failures


@dataclass(frozen=True)
class Read:
    """A sample, its row, and what the ledger has to know about the draw."""

    sample: Sample
    row: Row
    failures: tuple[Failure, ...] = ()


@dataclass
class Reader:
    """Reads draws of a mixture. Lives in a loader worker; holds nothing that cannot be pickled.

    processors   modality -> what decodes it
    quarantine   samples that are replaced without being opened
    notes        where a worker writes down what it reads; None: nowhere
    """

    mixture: Mixture[Dataset]
    layout: LayoutLike
    processors: Mapping[str, Processor]
    seed: int
    max_attempts: int = field(default=MAX_ATTEMPTS)
    quarantine: Quarantine = field(default_factory=Quarantine)
    notes: Notes | None = None

    def __call__(self, draw: Draw) -> Read:
        """raises Exhausted after `max_attempts` samples that cannot be used, SampleError for anything unexpected"""
        failures: list[Failure] = []
        dataset, number = self.mixture.sources[draw.source], self.mixture.names.index(draw.source)
        watch = Watch(limits_of(self.processors).time_limit_s, self.notes)
        for attempt in range(min(self.max_attempts, len(dataset))):
            index = self.mixture.replacement(draw, attempt)
            rng = seeds.late_stream(self.seed, f"sample/{draw.source}", draw.drawn, attempt)
            try:
                if listed := self.quarantine.find(dataset, index):
                    failures.append(_failure(dataset, index, draw, listed.reason, listed.kind))
                    continue
                with watch.reading(number, index):
                    sample = read_sample(dataset, index, self.processors, rng)
                row = self._row(sample)
            except MediaError as error:
                failures.append(_failure(dataset, index, draw, str(error)))
            except DataError as error:
                raise DataError(f"source {draw.source!r}, sample {sample_name(dataset, index)!r}: {error}") from error
            except Exception as error:
                place = (
                    f"source {draw.source!r}, sample {sample_name(dataset, index)!r} (index {index}, draw {draw.drawn})"
                )
                raise SampleError(f"{place}: {type(error).__name__}: {error}") from error
            else:
                return Read(sample, row, _told(failures, sample, draw))
        raise Exhausted(_list_of(draw.source, failures, len(dataset)), tuple(failures))

    def _row(self, sample: Sample) -> Row:
        try:
            return self.layout.row(sample.conversation)
        except ValueError as error:  # nothing supervised, nothing fits, no route for a modality
            raise MediaError(str(error)) from error


def read_sample(
    dataset: Dataset, index: int, processors: Mapping[str, Processor], rng: np.random.Generator, train: bool = True
) -> Sample:
    """One sample with its media decoded, in reading order; as many frames and clips as its source asks for.

    train    True: media are sampled with `rng` as in training; False: the fixed choice of evaluation
    raises   MediaError for a broken file, and for a modality without a processor
    """
    record = dataset.record(index, rng)
    found = decode(record.conversation, processors_for(dataset, processors), rng if train else None)
    return Sample(record.id, dataset.name, found.conversation, found.media, found.without_sound)


def processors_for(dataset: Dataset, processors: Mapping[str, Processor]) -> Mapping[str, Processor]:
    """The processors of a run, taking the frames and clips of one source where it names them."""
    own: dict[str, Any] = dict(processors)
    for modality, count in (("video", dataset.config.frames), ("audio", dataset.config.clips)):
        if count is not None and modality in own:
            own[modality] = own[modality].taking(count)
    return own


def _failure(dataset: Dataset, index: int, draw: Draw, reason: str, kind: FailureKind = "failed") -> Failure:
    return Failure(draw.source, sample_name(dataset, index), reason, kind=kind, drawn=draw.drawn)


def _told(failures: list[Failure], sample: Sample, draw: Draw) -> tuple[Failure, ...]:
    """What the ledger has to know: what was replaced by the sample, and what the sample itself lacks."""
    told = [replace(failure, replaced_by=sample.id) for failure in failures]
    if sample.without_sound is not None:
        told.append(Failure(sample.source, sample.id, sample.without_sound, kind="without sound", drawn=draw.drawn))
    return tuple(told)


def sample_name(dataset: Dataset, index: int) -> str:
    """The id of a sample, or its index where the id is what is broken."""
    try:
        return dataset.sample_id(index)
    except Exception:  # the message about a broken sample must not fail over its name
        return f"index {index}"


def _list_of(source: str, failures: list[Failure], size: int) -> str:
    lines = [f"source {source!r}: {len(failures)} samples in a row cannot be used (it has {size})"]
    return "\n    ".join([*lines, *(f"{failure.id}: {failure.reason}" for failure in failures)])
