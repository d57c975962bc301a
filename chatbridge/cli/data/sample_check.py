"""Read one sample of a source to find out whether it is usable."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from chatbridge.cli.data.evaluation_question import read_question
from chatbridge.cli.data.instrumented_processor import InstrumentedProcessor
from chatbridge.common.errors import DataError, MediaError
from chatbridge.conversation.layout import Layout, TokenSequence
from chatbridge.datasets.sample_reader import read_sample
from chatbridge.datasets.workers.time_limit import OnPause, time_limit
from chatbridge.experiment.partial_data import Source
from chatbridge.processors.media_source import Ref
from chatbridge.tasks import room_for_answer

CACHED_FILES = 4096  # results that a worker caches: questions about one image often follow each other


class LastOfEach(np.random.Generator):
    """Always draws the last choice: of the frames that training may draw, the last ones reach furthest into a file."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def integers(self, low: Any, high: Any = None, size: Any = None, **rest: Any) -> Any:
        last = (low if high is None else high) - 1
        return last if size is None else np.full(size, last)


@dataclass(frozen=True)
class SampleResult:
    """The result for one sample.

    reason    why it is unusable; None if it is usable
    silent    its prompt states that audio is missing
    empty     number of empty answers, which are not supervised
    is_cut    it exceeds the maximum length; for a question: its answer has less room than max_new_tokens
    """

    id: str
    reason: str | None
    seconds: float
    silent: bool = False
    empty: int = 0
    is_cut: bool = False


@dataclass
class SampleCheck:
    """Reads the sample (number of its source, index) as training or evaluation does.

    processors   for training (True) and evaluation (False): modality -> processor
    layouts      None if conversations cannot be laid out yet
    is_full      read whole media instead of the pieces that one draw takes
    """

    sources: Sequence[Source]
    processors: Mapping[bool, Mapping[str, Any]]
    layouts: Mapping[bool, Layout | None]
    limit_s: float
    is_full: bool = False
    on_pause: OnPause | None = None
    _cached: CachedReading = field(init=False)

    def __post_init__(self) -> None:
        self._cached = CachedReading(self.is_full)

    def __call__(self, task: tuple[int, int]) -> SampleResult:
        source, index = self.sources[task[0]], task[1]
        name, start, reason, found = f"index {index}", time.monotonic(), None, _Found()
        try:
            name = source.dataset.sample_id(index)
            with time_limit(self.limit_s, self.on_pause):
                found = self._read(source, index)
        except (MediaError, DataError) as error:
            reason = str(error)
        except ValueError as error:  # from the layout: nothing supervised, nothing fits, no route
            reason = str(error)
        except MemoryError:
            reason = "not enough memory to read it"
        except Exception as error:
            reason = f"unexpected {type(error).__name__}, which would stop a run: {error}"
        return SampleResult(name, reason, time.monotonic() - start, found.silent, found.empty, found.is_cut)

    def _read(self, source: Source, index: int) -> _Found:
        is_training = source.task is None
        processors = {
            name: InstrumentedProcessor(one, self._cached) for name, one in self.processors[is_training].items()
        }
        layout, rng = self.layouts[is_training], LastOfEach()
        if source.task is None:
            sample = read_sample(source.dataset, index, processors, rng)
            sequence = TokenSequence() if layout is None else layout.training_sequence(sample.conversation)
            return _Found(sample.without_sound is not None, sequence.num_empty, sequence.is_cut)
        question = read_question(source.dataset, index, processors, rng, source.task.drop_media)
        room = source.task.max_new_tokens if layout is None else room_for_answer(layout, question.conversation)
        is_short = room is not None and room < source.task.max_new_tokens
        return _Found(question.without_sound is not None, is_cut=is_short)


@dataclass(frozen=True)
class _Found:
    """Properties of a usable sample; see SampleResult."""

    silent: bool = False
    empty: int = 0
    is_cut: bool = False


class CachedReading:
    """Reads each file once and returns the same result for it afterwards."""

    def __init__(self, is_full: bool = False) -> None:
        self.is_full = is_full
        self.known: OrderedDict[Any, MediaError | None] = OrderedDict()

    def __call__(self, processor: Any, ref: Ref, rng: np.random.Generator | None) -> Any:
        if not isinstance(ref, (str, Path)):
            return self._read(processor, ref, rng)
        key = (type(processor), getattr(processor, "count", 1), str(ref), rng is None)
        if key not in self.known:
            try:
                self._read(processor, ref, rng)
            except MediaError as error:
                self.known[key] = error
            else:
                self.known[key] = None
            while len(self.known) > CACHED_FILES:
                self.known.popitem(last=False)
        if (error := self.known[key]) is not None:
            raise error.with_traceback(None)
        return None

    def _read(self, processor: Any, ref: Ref, rng: np.random.Generator | None) -> Any:
        found = processor(ref, rng)
        if self.is_full and hasattr(processor, "examine"):
            processor.examine(ref)
        return found
