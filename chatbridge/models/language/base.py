"""The interface of language models: embeddings in, hidden states, logits or new ids out."""

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
Between = Callable[[], bool]  # other work, before each pass of a beam search; True ends the search
Rows = Callable[[str, int, int], Tensor]  # (state-dict name of a tensor, start, stop) -> rows start to stop - 1


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """Settings all language models share."""

    weights: Path | None = None  # folder that `load` reads; it is not among `files`

    @property
    def context_length(self) -> int | None:
        """The context length in tokens, new ones included, from the settings alone; None if unknown."""
        return None


class LanguageModel(Component):
    """A causal language model. It is built without reading weights; `load` fills it."""

    config: LanguageConfig
    unread: Rows | None = None  # reads rows of the decoder layers' tensors, which have placeholders until then

    @property
    @abstractmethod
    def width(self) -> int:
        """D, the number of channels of its embeddings."""

    @property
    def num_embeddings(self) -> int | None:
        """The number of embeddings, one more than the highest id; None if unknown."""
        return None

    @property
    def vocabulary_modules(self) -> tuple[Any, Any]:
        """The embedding and the head, each with its `weight`, float[V, D]; hooks on them add tokens.

        raises   ValueError when the model does not expose them
        """
        raise ValueError(f"{type(self).__name__} does not support added tokens: it does not expose its vocabulary")

    @property
    def head(self) -> nn.Module | None:
        """The module that computes the logits; None if it is not a module of its own."""
        return None

    @property
    def tokenizer_folder(self) -> Path | None:
        """The folder of its tokenizer."""
        return self.config.weights

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its parameters."""
        return next(self.parameters()).dtype

    @abstractmethod
    def embed(self, ids: Tensor) -> Tensor:
        """Token embeddings: int64[B, L] -> float[B, L, D]"""

    @property
    @abstractmethod
    def decoder_layers(self) -> nn.ModuleList:
        """The decoder blocks in order; cross-attention wraps them, and sharding and checkpointing work per block.

        raises   ValueError when they cannot be found
        """

    def layers(self) -> list[nn.Module]:
        return list(self.decoder_layers)

    @abstractmethod
    def forward(
        self,
        embeds: Tensor,
        positions: Tensor | None = None,
        segments: Segments | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """The hidden states before the head.

        embeds     float[B, L, D]
        positions  int64[B, L]; None: 0 .. L - 1, or those after the tokens of the cache
        segments   which positions may attend to each other; None: causal
        cache      of the previous columns, with their padding mask; the new columns are added to it
        returns    float[B, L, D]
        raises     ValueError for segments together with a cache
        """

    def states_at(self, points: Tensor, embeds: Tensor, positions: Tensor, segments: Segments | None) -> Tensor:
        """The hidden states before the head at some positions; see `forward`.

        points   int64[S], flat positions b * L + t
        embeds   float[B, L, D]
        returns  float[S, D]
        """
        return self(embeds, positions, segments).flatten(0, 1)[points]

    @abstractmethod
    def new_cache(self, mask: Tensor | None = None) -> Cache:
        """An empty cache for B sequences.

        mask     bool[B, L] of their first L columns, False = padding (on the left); None without padding
        raises   ValueError for padding if the model cannot mask it
        """

    def segments_obstacle(self, side_texts: bool = False) -> str | None:
        """The reason why this model cannot separate the segments of a sequence, and the next step; None if it can.

        It is for checks before the first step; `forward` raises the same as a ValueError.
        side_texts  whether sequences have side texts (BranchSpan), or only packed conversations
        """
        return None

    def use_packed_attention(self) -> str | None:
        """Choose the attention that suits packed conversations, if the settings do not; call it before `load`.

        returns   its name; None if nothing changes. Batches without segments are computed as before
        """
        return None

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states float[..., D] -> logits float[..., V]"""

    @property
    def max_positions(self) -> int | None:
        """The context length in tokens, new ones included; None if unknown."""
        return None

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The ids that end an answer (end-of-sequence tokens)."""
        return ()

    @abstractmethod
    def beam_search(
        self,
        embeds: Tensor,
        mask: Tensor,
        options: GenerateOptions,
        stops: BatchStops = (),
        show: Show | None = None,
        between: Between | None = None,
    ) -> list[list[int]]:
        """The answers by beam search; greedy and sampled answers come from the loop in decode.py.

        embeds   float[B, L, D], padded on the left
        mask     bool[B, L], False = padding
        stops    stop strings of each prompt
        show     called before every step with its positions, int64[B * beams, n]; the beams of a prompt are neighbours
        between  called before every step, before `show`, for other work, also with this model; True ends the search
                 with the best answers so far, and an exception ends it without any
        returns  new ids per prompt, without stop sequence, end token and padding
        """

    @abstractmethod
    def load(self, device: torch.device, dtype: torch.dtype) -> str:
        """Load the weights onto `device` in `dtype`; returns a line for the log.

        raises   ValueError when they cannot be loaded
        """

    def load_outside_layers(self, device: torch.device, dtype: torch.dtype) -> str:
        """Load as `load` does; where the files allow it, the decoder layers get placeholders and `unread` is set.

        returns  a line for the log
        raises   ValueError when the weights cannot be loaded
        """
        return self.load(device, dtype)


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
    "language",
    "chatbridge.models.language",
    besides=(
        "answer_options", "cache", "decode", "embedded_prompts", "generate_options", "generation", "likelihood",
        "reading",
    ),
)  # fmt: skip

__all__ = [
    "LANGUAGES",
    "MOST_SEED",
    "Between",
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
