"""From a draw to a sample with decoded media; a sample that cannot be read is replaced, which is reported.

A replacement is a pure function of the draw and the attempt, so a resumed run has the same ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from chatbridge.common import seeds
from chatbridge.common.errors import DataError, MediaError
from chatbridge.common.types import Failure, FailureKind, Sample
from chatbridge.conversation.layout import TokenSequence
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.datasets.builders.base import Dataset
from chatbridge.datasets.collate import LayoutLike
from chatbridge.datasets.decoding import decode, limits_of
from chatbridge.datasets.order.mixture import Draw, Mixture
from chatbridge.datasets.piece_counts import piece_counts
from chatbridge.datasets.quarantine import Quarantine
from chatbridge.datasets.workers.progress_notes import ProgressNotes, TimedReading
from chatbridge.processors.media_processor import Processor, taking

MAX_ATTEMPTS = 32  # samples tried for one draw; the failure budget stops a bad source much earlier


class SampleError(RuntimeError):
    """An unexpected error during the reading of a sample (not a broken file); names the sample."""


class Exhausted(DataError):
    """Several consecutive samples of a source cannot be used."""

    def __init__(self, message: str, failures: tuple[Failure, ...] = ()):
        super().__init__(message)
        self.failures = failures


@dataclass(frozen=True)
class ReadSample:
    """A sample, its token sequence, and the entries of the failure log for the draw."""

    sample: Sample
    sequence: TokenSequence
    failures: tuple[Failure, ...] = ()


@dataclass
class _Search:
    """The search for the sample of a draw: the attempts, and the sample once it is found."""

    draw: Draw
    attempts: int = 0
    failures: list[Failure] = field(default_factory=list)
    index: int = -1
    sample: Sample | None = None
    sequence: TokenSequence | None = None


@dataclass
class SampleReader:
    """Reads the draws of a mixture, in a loader worker. Picklable.

    processors   modality -> the processor that decodes it
    quarantine   samples that are replaced without being opened
    notes        the progress notes of the workers; None: a worker writes none
    """

    mixture: Mixture[Dataset]
    layout: LayoutLike
    processors: Mapping[str, Processor]
    seed: int
    max_attempts: int = field(default=MAX_ATTEMPTS)
    quarantine: Quarantine = field(default_factory=Quarantine)
    notes: ProgressNotes | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "modalities": tuple(MODALITIES)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Also register the modalities of plugins, for a worker that was not forked."""
        MODALITIES.adopt(state.pop("modalities"))
        vars(self).update(state)

    def __call__(self, draws: Sequence[Draw]) -> list[ReadSample]:
        """The sample and the token sequence of each draw. The media of all draws are decoded first and their texts
        tokenized afterwards: between two images, which evict the caches of the CPU, a tokenizer takes twice as long.

        raises   Exhausted after `max_attempts` samples that cannot be used, SampleError for anything unexpected
        """
        searches = [_Search(draw) for draw in draws]
        while open_ones := [search for search in searches if search.sequence is None]:
            for search in open_ones:
                self._find_sample(search)
            for search in open_ones:
                self._lay_out(search)
        return [_found(search) for search in searches]

    def _find_sample(self, search: _Search) -> None:
        """Find the next sample of this draw whose media can be read.

        raises   Exhausted
        """
        draw, dataset = search.draw, self.mixture.sources[search.draw.source]
        watch = TimedReading(limits_of(self.processors).time_limit_s, self.notes)
        while search.attempts < min(self.max_attempts, self.mixture.sizes[draw.source]):
            search.index = index = self.mixture.replacement(draw, search.attempts)
            rng = seeds.lazy_stream(self.seed, f"sample/{draw.source}", draw.drawn, search.attempts)
            search.attempts += 1
            with self._failing(search):
                if listed := self.quarantine.find(dataset, index):
                    search.failures.append(_failure(dataset, index, draw, listed.reason, listed.kind))
                    continue
                with watch.reading(self.mixture.names.index(draw.source), index):
                    search.sample = read_sample(dataset, index, self.processors, rng)
                return
        raise Exhausted(_list_of(draw.source, search.failures, len(dataset)), tuple(search.failures))

    def _lay_out(self, search: _Search) -> None:
        """Make the token sequence; the search stays open if nothing is supervised, it does not fit, or has no route."""
        assert search.sample is not None
        with self._failing(search):
            try:
                search.sequence = self.layout.training_sequence(search.sample.conversation)
            except ValueError as error:
                raise MediaError(str(error)) from error

    @contextmanager
    def _failing(self, search: _Search) -> Iterator[None]:
        """Record a sample that cannot be used; add the name of the sample to any other error."""
        draw, dataset = search.draw, self.mixture.sources[search.draw.source]
        try:
            yield
        except MediaError as error:
            search.failures.append(_failure(dataset, search.index, draw, str(error)))
        except DataError as error:
            raise DataError(
                f"source {draw.source!r}, sample {sample_name(dataset, search.index)!r}: {error}"
            ) from error
        except Exception as error:
            sample = f"sample {sample_name(dataset, search.index)!r} (index {search.index}, draw {draw.drawn})"
            raise SampleError(f"source {draw.source!r}, {sample}: {type(error).__name__}: {error}") from error


def read_sample(
    dataset: Dataset, index: int, processors: Mapping[str, Processor], rng: np.random.Generator, train: bool = True
) -> Sample:
    """One sample with its media decoded, in reading order, with the number of pieces (frames, clips) of its source.

    train    True: pieces and crops are drawn with `rng` as in training; False: the fixed choice of evaluation
    raises   MediaError for a broken file, and for a modality without a processor
    """
    record = dataset.record(index, rng)
    found = decode(record.conversation, processors_for(dataset, processors), rng if train else None)
    return Sample(record.id, dataset.name, found.conversation, found.media, found.without_sound, record.repaired)


def processors_for(dataset: Dataset, processors: Mapping[str, Processor]) -> Mapping[str, Processor]:
    """The processors of a run, with the number of pieces (frames, clips) of one source if it sets any."""
    own: dict[str, Any] = dict(processors)
    for one in piece_counts(dataset.config):
        if one.modality in own:
            own[one.modality] = taking(own[one.modality], one.count)
    return own


def _failure(dataset: Dataset, index: int, draw: Draw, reason: str, kind: FailureKind = "failed") -> Failure:
    return Failure(draw.source, sample_name(dataset, index), reason, kind=kind, drawn=draw.drawn)


def _found(search: _Search) -> ReadSample:
    """The found sample with the entries of the failure log: samples it replaces, and what the sample itself lacks."""
    sample, sequence = search.sample, search.sequence
    assert sample is not None and sequence is not None
    failures = [replace(failure, replaced_by=sample.id) for failure in search.failures]
    remarks: dict[FailureKind, str | None] = {"without sound": sample.without_sound, "repaired": sample.repaired}
    for kind, reason in remarks.items():
        if reason is not None:
            failures.append(Failure(sample.source, sample.id, reason, kind=kind, drawn=search.draw.drawn))
    return ReadSample(sample, sequence, tuple(failures))


def sample_name(dataset: Dataset, index: int) -> str:
    """The id of a sample, or its index if the id itself is broken."""
    try:
        return dataset.sample_id(index)
    except Exception:  # the message about a broken sample must not fail because of its id
        return f"index {index}"


def _list_of(source: str, failures: list[Failure], size: int) -> str:
    lines = [f"source {source!r}: {len(failures)} samples in a row cannot be used (it has {size})"]
    return "\n    ".join([*lines, *(f"{failure.id}: {failure.reason}" for failure in failures)])
