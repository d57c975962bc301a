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
from chatbridge.conversation.messages import Conversation
from chatbridge.datasets.order.permutation import permute
from chatbridge.datasets.order.shuffle import FullShuffle, Shuffle

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """What every source has."""

    # share of the draws (of the steps in mix "step"), relative to the other sources; size: as many as it has samples
    weight: Annotated[float, Range(low=0, below=math.inf)] | Literal["size"] = 1.0
    cap: Annotated[int, Range(low=1)] | None = None  # with weight size: count at most so many samples
    # the share is lowered until a run expects to see each sample so often at most; the others take over what is left
    max_passes: Annotated[float, Range(above=0)] | None = None
    # in mix "step": conversations per step over all ranks; null: as many as the run says
    batch: Annotated[int, Range(low=1)] | None = None
    # modality -> pieces per item of this source, for example {video: 8, audio: 2}; others: as many as the route says
    pieces: dict[str, Annotated[int, Range(low=1)]] = field(default_factory=dict)
    frames: Annotated[int, Range(low=1)] | None = None  # the same as pieces: {video: ...}
    clips: Annotated[int, Range(low=1)] | None = None  # the same as pieces: {audio: ...}
    failure_budget: Annotated[float, Range(0, 1)] = 0.01  # share of the draws that may fail before the run stops
    limit: Annotated[int, Range(low=1)] | None = None  # use only so many samples, spread at random over all of them
    # which samples a limit takes: the same ones in every run with this seed; null: the first ones. Remote shards always
    # give the first ones, so that the others are not fetched
    limit_seed: Annotated[int, Range(low=0)] | None = 0

    def problems(self) -> Iterable[Problem]:
        """What is wrong with these settings, found without opening the source: missing files above all."""
        return ()


@dataclass(frozen=True)
class Record:
    """One sample before decoding: media parts hold a path or bytes.

    references   every answer that counts as right, for evaluation; empty: the last words of the assistant
    details      what else the annotation says: evaluation groups its results by these fields
    repaired     why its words are not those of the file; None when they are
    """

    id: str
    conversation: Conversation
    references: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    repaired: str | None = None


class Dataset(ABC):
    """Samples by index. Must survive pickling and forking: files are opened by the worker that reads them.

    config   the builder's Config
    name     what the run calls this source
    raises   ConfigError when its Config has problems, DataError when what it names cannot be used: a file is malformed,
             or there is no sample at all
    """

    modalities: frozenset[str]  # every modality that a sample of this source may hold

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
        """How people find the sample again, unlike that of any other sample of this source: for the failure log, lists
        of samples and messages. Must not fail for a broken sample."""

    def shared_id(self, index: int) -> str:
        """The id that samples with the same media share, as several questions about one video do."""
        return self.sample_id(index)

    def meant_by(self, name: str) -> Sequence[str]:
        """The ids that a name of an earlier release may stand for; the name itself when it is one of today's."""
        return (name,)

    @abstractmethod
    def record(self, index: int, rng: np.random.Generator) -> Record:
        """The sample; `rng` decides what training draws at random (a prompt, one of several captions).

        raises   MediaError when this sample cannot be used; the run then replaces it and writes it down
        """

    def shuffle(self, seed: int) -> Shuffle:
        """The order in which a run draws the samples; `seed` is the run's."""
        return FullShuffle(self.name, len(self), seed)

    def doubt(self) -> str | None:
        """What speaks against the configuration once samples were read; None when nothing does."""
        return None

    @property
    def has_drawings(self) -> bool:
        """Whether the assistant draws in some sample, so that a template has to write it."""
        return False

    def untrainable(self) -> str | None:
        """What keeps a run from learning from this source, known once it is open; None when nothing does."""
        return None

    def note(self) -> str | None:
        """What was left out or repaired when the source was opened, in a sentence; None when nothing was."""
        return None

    def commands(self) -> tuple[str, ...]:
        """Shell commands that reading this source executes (`pipe:`), as the configuration writes them."""
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
        """Which sample of the files the index-th sample of this source is. raises IndexError"""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)} in source {self.name!r}")
        return index if self._chosen is None else int(self._chosen[index])


def draw(items: Sequence[T], rng: np.random.Generator) -> T:
    """One item; costs no random number when there is no choice."""
    return items[int(rng.integers(len(items))) if len(items) > 1 else 0]


BUILDERS: Registry[Dataset] = Registry("dataset", "chatbridge.datasets.builders")
