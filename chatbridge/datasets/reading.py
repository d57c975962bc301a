"""From a draw to a sample with decoded media; what cannot be read is replaced in the open.

A replacement is a pure function of the draw and the attempt, so a resumed run replaces alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from chatbridge.common import seeds
from chatbridge.common.errors import DataError, MediaError
from chatbridge.common.types import Failure, Sample
from chatbridge.conversation.layout import Row
from chatbridge.conversation.messages import media_parts
from chatbridge.datasets.builders.base import Dataset
from chatbridge.datasets.collate import LayoutLike
from chatbridge.datasets.mixture import Draw, Mixture
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
    """A sample, its row, and what had to be replaced on the way."""

    sample: Sample
    row: Row
    failures: tuple[Failure, ...] = ()


@dataclass
class Reader:
    """Reads draws of a mixture. Lives in a loader worker; holds nothing that cannot be pickled.

    processors   modality -> what decodes it
    """

    mixture: Mixture[Dataset]
    layout: LayoutLike
    processors: Mapping[str, Processor]
    seed: int
    max_attempts: int = field(default=MAX_ATTEMPTS)

    def __call__(self, draw: Draw) -> Read:
        """raises Exhausted after `max_attempts` samples that cannot be used, SampleError for anything unexpected"""
        failures: list[Failure] = []
        dataset = self.mixture.sources[draw.source]
        for attempt in range(min(self.max_attempts, len(dataset))):
            index = self.mixture.replacement(draw, attempt)
            rng = seeds.stream(self.seed, f"sample/{draw.source}", draw.drawn, attempt)
            try:
                sample = read_sample(dataset, index, self.processors, rng)
                row = self._row(sample)
            except MediaError as error:
                failures.append(Failure(draw.source, _name(dataset, index), str(error)))
            except DataError as error:
                raise DataError(f"source {draw.source!r}, sample {_name(dataset, index)!r}: {error}") from error
            except Exception as error:
                place = f"source {draw.source!r}, sample {_name(dataset, index)!r} (index {index}, draw {draw.drawn})"
                raise SampleError(f"{place}: {type(error).__name__}: {error}") from error
            else:
                replaced = tuple(Failure(fail.source, fail.id, fail.reason, sample.id) for fail in failures)
                return Read(sample, row, replaced)
        raise Exhausted(_list_of(draw.source, failures, len(dataset)), tuple(failures))

    def _row(self, sample: Sample) -> Row:
        try:
            return self.layout.row(sample.conversation)
        except ValueError as error:  # nothing supervised, nothing fits, no route for a modality
            raise MediaError(str(error)) from error


def read_sample(
    dataset: Dataset, index: int, processors: Mapping[str, Processor], rng: np.random.Generator, train: bool = True
) -> Sample:
    """One sample with its media decoded, in reading order.

    train    True: media are sampled with `rng` as in training; False: the fixed choice of evaluation
    raises   MediaError for a broken file, and for a modality without a processor
    """
    record = dataset.record(index, rng)
    media = []
    for part in media_parts(record.conversation):
        if part.modality not in processors:
            known = ", ".join(sorted(processors)) or "none"
            raise MediaError(f"the model takes no {part.modality}; its modalities: {known}")
        media.append(processors[part.modality](part.ref, rng if train else None))
    return Sample(record.id, dataset.name, record.conversation, tuple(media))


def _name(dataset: Dataset, index: int) -> str:
    try:
        return dataset.sample_id(index)
    except Exception:  # the message about a broken sample must not fail over its name
        return f"index {index}"


def _list_of(source: str, failures: list[Failure], size: int) -> str:
    lines = [f"source {source!r}: {len(failures)} samples in a row cannot be used (it has {size})"]
    return "\n    ".join([*lines, *(f"{failure.id}: {failure.reason}" for failure in failures)])
