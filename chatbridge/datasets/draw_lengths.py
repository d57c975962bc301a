"""The number of positions that a draw will take in a batch, from its text alone: no media file is opened.

It is a pure function of the draw, the same on every rank and in every worker. It decides only which conversations share
a batch, so it may differ from the length that the sample has in the end: a sample that is replaced keeps the place of
the one it replaces, whatever its own length, and a note about missing audio is not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from chatbridge.common import seeds
from chatbridge.common.errors import DataError, MediaError
from chatbridge.conversation.messages import Conversation
from chatbridge.datasets.builders.base import Dataset
from chatbridge.datasets.order.mixture import Draw, Mixture

UNKNOWN = 0  # of a record that cannot be read, and of remote shards, which would have to be downloaded for it


class Measures(Protocol):
    """The part of `conversation.layout.Layout` that tells a length."""

    def training_length(self, conversation: Conversation) -> int: ...


@dataclass
class DrawLengths:
    """Draws -> their lengths in positions, media and the beginning-of-sequence token included. Picklable.

    seed   of the random choices inside a sample, as the reader of the samples has it: the caption and the prompt that
           are measured are those that the reader will draw
    """

    mixture: Mixture[Dataset]
    layout: Measures
    seed: int

    def __call__(self, draws: Sequence[Draw]) -> list[int]:
        """UNKNOWN for a record without a length; reading the sample itself reports why."""
        return [self._length(draw) for draw in draws]

    def _length(self, draw: Draw) -> int:
        dataset: Any = self.mixture.sources[draw.source]
        if getattr(dataset.config, "is_remote", False):
            return UNKNOWN
        rng = seeds.lazy_stream(self.seed, f"sample/{draw.source}", draw.drawn, 0)
        try:
            return self.layout.training_length(dataset.outline(draw.index, rng))
        except (MediaError, DataError, ValueError):
            return UNKNOWN
