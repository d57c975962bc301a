"""A request of the scheduler, and what the scheduler tells the thread that asked."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from chatbridge.common.types import Batch
from chatbridge.conversation.layout import Layout
from chatbridge.models.drawing import Drawn
from chatbridge.models.language import GenerateOptions
from chatbridge.models.language._decoded_row import TokenLogprobs
from chatbridge.serve.request import PLAIN, RequestSettings

End = Literal["stop", "length", "time", "cancelled", "error"]
CLOSED = "the engine is closed; build another one to ask further questions"


@dataclass(frozen=True)
class Begun:
    """The prompt is read.

    num_cached   of its positions were in a cache
    num_encoded  media items went through an encoder for it
    """

    waited_s: float
    num_cached: int
    num_encoded: int


@dataclass(frozen=True)
class Grown:
    """The answer has more tokens.

    drawn   of all captions so far that are complete
    """

    ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()
    drawn: tuple[Drawn, ...] = ()


@dataclass(frozen=True)
class Rendering:
    """The answer goes on when the caller has run `render`, and then told the scheduler so (`resume`)."""

    caption: str
    render: Callable[[], None]


@dataclass(frozen=True)
class Finished:
    """The whole answer, without stop sequence and end token.

    end      why it ended; None: the answer itself tells, see GrowingAnswer
    is_full  whether the context was full
    """

    ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()
    drawn: tuple[Drawn, ...] = ()
    end: Literal["stop", "length", "time"] | None = None
    is_full: bool = False


@dataclass(frozen=True)
class Failed:
    """There is no answer."""

    error: BaseException


Event = Begun | Grown | Rendering | Finished | Failed


@dataclass(eq=False)
class Request:
    """A prompt that waits for its answer, or gets it. The scheduler's thread writes `events`, the caller reads them.

    batch       the prompt, one conversation, on the model's device
    digests     modality -> of each of its media items
    layout      of the answer, with the stop strings of the request
    asked_at    time.monotonic() when it was asked; its time limit counts from there
    is_over     set once the scheduler has nothing to do with it any more: its place is free
    """

    batch: Batch
    digests: Mapping[str, Sequence[bytes]]
    options: GenerateOptions
    layout: Layout
    settings: RequestSettings = PLAIN
    asked_at: float = field(default_factory=time.monotonic)
    events: queue.SimpleQueue[Event] = field(default_factory=queue.SimpleQueue)
    is_over: threading.Event = field(default_factory=threading.Event)
    is_cancelled: bool = False  # set once by the caller, read by the scheduler
    num_told: int = 0  # tokens of the answer that the caller was told of
    was_short: bool = False  # whether it begins again, because memory was short
    is_repeated: bool = False  # whether it begins again, because a step of its batch failed

    @property
    def num_prompt(self) -> int:
        """Positions of the prompt."""
        return self.batch.ids.shape[1]

    @property
    def num_media(self) -> int:
        """Positions of its media."""
        return sum(slots.numel() for slots in self.batch.media_slots.values())

    @property
    def wants_more(self) -> bool:
        """Whether its caller is told of the next token: of each, or of the first one alone. Every token that wakes a
        caller takes time from the thread that runs the model."""
        return self.num_told == 0 or not self.settings.is_whole

    def is_late(self, now: float) -> bool:
        """Whether its time limit has passed."""
        limit = self.settings.time_limit_s
        return limit is not None and now - self.asked_at >= limit

    def is_to_end(self, now: float) -> bool:
        """Whether its caller or its time limit ends it."""
        return self.is_cancelled or self.is_late(now)


__all__ = ["CLOSED", "Begun", "End", "Event", "Failed", "Finished", "Grown", "Rendering", "Request"]
