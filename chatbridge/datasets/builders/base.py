"""The contract of a source: conversations by index, cheap to open, nothing decoded."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from chatbridge.common import seeds
from chatbridge.common.errors import ConfigError, DataError, Problem
from chatbridge.config.registry import Registry
from chatbridge.config.schema import Range
from chatbridge.conversation.messages import Conversation, Media, media_parts
from chatbridge.datasets.order.permutation import permute
from chatbridge.datasets.order.shuffle import FullShuffle, Shuffle

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """Settings of every source."""

    # share of the draws (of the steps in mix "step", of its stream in mix "joint"), relative to the other sources;
    # size: its number of samples
    weight: Annotated[float, Range(low=0, below=math.inf)] | Literal["size"] = 1.0
    cap: Annotated[int, Range(low=1)] | None = None  # with weight size: count at most this many samples
    # most passes over its samples that a run may expect; its share is lowered to that, the other sources get the rest
    max_passes: Annotated[float, Range(above=0)] | None = None
    # in mix "step": conversations per step over all ranks; null: those of the run
    batch: Annotated[int, Range(low=1)] | None = None
    stream: str | None = None  # in mix "joint": which of data.streams this source belongs to
    # modality -> pieces per item of this source, for example {video: 8, audio: 2}; others: as set by the route
    pieces: dict[str, Annotated[int, Range(low=1)]] = field(default_factory=dict)
    frames: Annotated[int, Range(low=1)] | None = None  # the same as pieces: {video: ...}
    clips: Annotated[int, Range(low=1)] | None = None  # the same as pieces: {audio: ...}
    failure_budget: Annotated[float, Range(0, 1)] = 0.01  # share of the draws that may fail before the run stops
    # samples kept for validation and never trained on; null: data.validation.samples. With weight 0 the source may be a
    # validation file of its own: at most so many of its samples
    validation: Annotated[int, Range(low=0)] | None = None
    limit: Annotated[int, Range(low=1)] | None = None  # use only this many samples, chosen at random from all of them
    # chooses the samples of a limit, the same ones in every run with this seed; null: the first ones. Of remote shards
    # the first ones are always taken, so that the others are not downloaded
    limit_seed: Annotated[int, Range(low=0)] | None = 0

    def problems(self) -> Iterable[Problem]:
        """Mistakes in these settings that show without opening the source, missing files above all."""
        return ()


@dataclass(frozen=True)
class Record:
    """One sample before decoding: media parts hold a path or bytes.

    references   every correct answer, for evaluation; empty: the last text of the assistant
    details      other fields of the annotation: evaluation groups its results by them
    repaired     why its text differs from the file; None when it does not
    """

    id: str
    conversation: Conversation
    references: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    repaired: str | None = None


class Dataset(ABC):
    """Samples by index. Must survive pickling and forking: files are opened by the worker that reads them.

    config   the builder's Config
    name     name of the source in the run
    raises   ConfigError when its Config has problems, DataError when a file is malformed or there is no sample
    """

    modalities: frozenset[str]  # every modality that a sample of this source may have

    def __init__(self, config: Any, name: str):
        problems = [replace(problem, path=f"{name}.{problem.path}") for problem in config.problems()]
        if problems:
            raise ConfigError(problems)
        self.config = config
        self.name = name
        self._size = 0
        self._chosen: NDArray[np.int64] | None = None  # by a limit, in the order of the files; None: the first ones

    def __len__(self) -> int:
        return self._size

    @abstractmethod
    def sample_id(self, index: int) -> str:
        """A name of the sample for the failure log, lists of samples and messages, unique in this source.

        Must not fail for a broken sample.
        """

    def shared_id(self, index: int) -> str:
        """The id that samples with the same media share, as several questions about one video do."""
        return self.sample_id(index)

    def meant_by(self, name: str) -> Sequence[str]:
        """The ids that a name written by an earlier release may mean; the name itself when it is a current one."""
        return (name,)

    @abstractmethod
    def record(self, index: int, rng: np.random.Generator) -> Record:
        """The sample; `rng` draws a prompt, one of several captions and the like.

        raises   MediaError when this sample cannot be used; the run then replaces and logs it
        """

    def details(self, index: int) -> Mapping[str, Any]:
        """The `details` of a sample whose media cannot be read, as far as a task needs them. Must not fail."""
        return {}

    def options(self, index: int) -> Mapping[str, Any]:
        """Generation settings that the record of a question gives for its answer. Must not fail."""
        return {}

    def references(self, index: int) -> tuple[str, ...]:
        """The `references` of a sample whose media cannot be read: it is scored against them. Must not fail."""
        return ()

    def every_media(self, index: int) -> tuple[Media, ...]:
        """All media that some draw of a sample has; those of any draw, where only texts are drawn. raises MediaError"""
        return tuple(media_parts(self.record(index, np.random.default_rng(0)).conversation))

    def outline(self, index: int, rng: np.random.Generator) -> Conversation:
        """The conversation of a sample as `record` gives it with the same `rng`, for its length: media need no content.

        raises   MediaError when it cannot be read
        """
        return self.record(index, rng).conversation

    def shuffle(self, seed: int) -> Shuffle:
        """The order in which a run draws the samples; `seed` is the run's."""
        return FullShuffle(self.name, len(self), seed)

    def doubt(self) -> str | None:
        """A doubt about the configuration, known once samples were read; None when there is none."""
        return None

    @property
    def has_drawings(self) -> bool:
        """Whether the assistant draws in some sample, so that the template must support drawings."""
        return False

    def untrainable(self) -> str | None:
        """Why a run cannot train on this source, known once it is open; None when it can."""
        return None

    def note(self) -> str | None:
        """What was left out or repaired when the source was opened, in one sentence; None when nothing was."""
        return None

    def commands(self) -> tuple[str, ...]:
        """Shell commands that reading this source executes (`pipe:`), as written in the configuration."""
        return ()

    def _settle(self, count: int, where: str, in_order: bool = False) -> None:
        """Fix which samples are used once the source is open.

        in_order   a limit takes the first ones, whatever its seed
        """
        if not count:
            raise DataError(f"source {self.name!r}: {where} holds no samples")
        self._size = min(count, self.config.limit or count)
        if self._size < count and self.config.limit_seed is not None and not in_order:
            key = seeds.number(self.config.limit_seed, "limit")
            self._chosen = np.sort(permute(np.arange(self._size), count, key))

    def _stored(self, index: int) -> int:
        """Position in the files of the index-th sample of this source. raises IndexError"""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)} in source {self.name!r}")
        return index if self._chosen is None else int(self._chosen[index])


def draw(items: Sequence[T], rng: np.random.Generator) -> T:
    """One item; a single item takes no random number."""
    return items[int(rng.integers(len(items))) if len(items) > 1 else 0]


BUILDERS: Registry[Dataset] = Registry("dataset", "chatbridge.datasets.builders")
