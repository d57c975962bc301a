"""What every language model promises: rows of embeddings in, hidden states or new ids out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from chatbridge.common.types import Segments
from chatbridge.config.registry import Registry
from chatbridge.conversation.stop_strings import BatchStops, StopIds
from chatbridge.models.component import Component
from chatbridge.models.language.cache import Cache
from chatbridge.models.language.generate_options import (
    MOST_SEED,
    GenerateOptions,
    LengthPenalty,
    NumBeams,
    Penalty,
    Temperature,
    checked_names,
)

Show = Callable[[Tensor], None]


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """Settings all language models share."""

    weights: Path | None = None  # where `load` reads; a folder, not one of the part's `files`

    @property
    def context_length(self) -> int | None:
        """Most tokens of a sequence, new ones included, known before anything is built; None when it is not."""
        return None


class LanguageModel(Component):
    """Built without reading weights; `load` fills it."""

    config: LanguageConfig

    @property
    @abstractmethod
    def width(self) -> int:
        """D, channels of its embeddings."""

    @property
    def num_embeddings(self) -> int | None:
        """Rows of its embedding table: ids go up to one less; None when it does not say."""
        return None

    @property
    def vocabulary_modules(self) -> tuple[Any, Any]:
        """The modules that embed ids and that say logits, each with its `weight`, float[V, D]; hooks on them add
        tokens. raises ValueError when they are not known"""
        raise ValueError(f"{type(self).__name__} takes no added tokens: it does not say where its vocabulary is")

    @property
    def tokenizer_folder(self) -> Path | None:
        """Where its tokenizer is."""
        return self.config.weights

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return next(self.parameters()).dtype

    @abstractmethod
    def embed(self, ids: Tensor) -> Tensor:
        """int64[B, L] -> float[B, L, D]"""

    @property
    @abstractmethod
    def decoder_layers(self) -> nn.ModuleList:
        """The blocks that states pass one after the other: what cross-attention is put among, sharding cuts and
        checkpointing repeats.

        raises   ValueError that says what was looked for, when they cannot be found
        """

    @abstractmethod
    def forward(
        self,
        embeds: Tensor,
        positions: Tensor | None = None,
        segments: Segments | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """
        embeds     float[B, L, D]
        positions  int64[B, L]; None = 0 .. L - 1, or what follows the tokens of the cache
        segments   which positions may see each other; None = causal
        cache      of the columns before these; it takes these in as well. Its mask says which are padding
        returns    float[B, L, D], the states before the head
        raises     ValueError for segments beside a cache
        """

    @abstractmethod
    def new_cache(self, mask: Tensor | None = None) -> Cache:
        """An empty cache for B rows that are about to be read.

        mask     bool[B, L] of their first L columns, False = padding (on the left); None when there is none
        """

    def segments_obstacle(self, side_texts: bool = False) -> str | None:
        """Why this model cannot keep the segments of a row apart, and what to do; None when it can. For checks before
        the first step: `forward` raises the same as a ValueError.

        side_texts  whether rows hold side texts (BranchSpan), or packed conversations alone
        """
        return None

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """float[..., D] -> float[..., vocabulary]"""

    @property
    def max_positions(self) -> int | None:
        """Longest row it was made for, new ids included; None when it does not say."""
        return None

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Ids that end a text for this model."""
        return ()

    @abstractmethod
    def beam_search(
        self, embeds: Tensor, mask: Tensor, options: GenerateOptions, stops: BatchStops = (), show: Show | None = None
    ) -> list[list[int]]:
        """Answers by beam search; all others come from the loop in decode.py.

        embeds   float[B, L, D], padded on the left
        mask     bool[B, L], False = padding
        stops    what ends the answer of a row
        show     told the positions of every step before it, int64[B * beams, l]; beams of a row are neighbours
        returns  new ids per row, without the stop sequence, the end token or padding
        """

    @abstractmethod
    def load(self, device: torch.device, dtype: torch.dtype) -> str:
        """Read the weights onto `device` in `dtype`; returns a line for people. raises ValueError"""


def without_stop(ids: Sequence[int], end_ids: Sequence[int], stop_ids: StopIds) -> list[int]:
    """The ids before the first end token or stop sequence."""
    stops = [tuple(stop) for stop in stop_ids if len(stop)]
    for end, token in enumerate(ids):
        if token in end_ids:
            return list(ids[:end])
        for stop in stops:
            if end + 1 >= len(stop) and tuple(ids[end + 1 - len(stop) : end + 1]) == stop:
                return list(ids[: end + 1 - len(stop)])
    return list(ids)


LANGUAGES: Registry[LanguageModel] = Registry(
    "language", "chatbridge.models.language", besides=("cache", "decode", "generate_options", "generation")
)

__all__ = [
    "LANGUAGES",
    "MOST_SEED",
    "GenerateOptions",
    "LanguageConfig",
    "LanguageModel",
    "LengthPenalty",
    "NumBeams",
    "Penalty",
    "Show",
    "Temperature",
    "checked_names",
    "without_stop",
]
