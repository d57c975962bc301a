"""What every language model promises: rows of embeddings in, hidden states or new ids out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from chatbridge.common.errors import nearest
from chatbridge.common.markers import Range
from chatbridge.common.registry import Registry
from chatbridge.common.types import Segments
from chatbridge.models.language.cache import Cache
from chatbridge.models.parts import WeightedPart

StopIds = Sequence[Sequence[int]]
OnIds = Callable[[list[int]], None]  # told new ids while they come; what it raises ends the generation

# Ranges shared by GenerateOptions and the tasks' YAML. Outside of them torch and transformers fail, or memory runs out.
NumBeams = Annotated[int, Range(low=1, high=64)]
Temperature = Annotated[float, Range(low=0.01, high=100)]
Penalty = Annotated[float, Range(low=0.01, high=100)]
LengthPenalty = Annotated[float, Range(low=-100, high=100)]
MOST_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """How an answer is drawn.

    raises   TypeError for a setting that does not exist, or a value of another type; ValueError for one out of range
    """

    max_new_tokens: Annotated[int, Range(low=1)] = 64
    min_new_tokens: Annotated[int, Range(low=0)] = 0
    num_beams: NumBeams = 1
    sample: bool = False  # draw from the distribution; false = the most likely token (or beam)
    temperature: Temperature = 1.0  # only with sample
    top_p: Annotated[float, Range(above=0, high=1)] = 1.0  # only with sample: smallest set of tokens with this mass
    top_k: Annotated[int, Range(low=0)] = 0  # only with sample: among the k most likely; 0 = all
    repetition_penalty: Penalty = 1.0
    length_penalty: LengthPenalty = 1.0  # only with beams; above 1 favours long answers
    seed: Annotated[int | None, Range(low=0, high=MOST_SEED)] = None  # of the draws; none = torch's current state

    def __new__(cls, **settings: Any) -> GenerateOptions:
        checked_names(settings)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            _check_setting(name, getattr(self, name), hint)
        if self.min_new_tokens > self.max_new_tokens:
            found = f"min_new_tokens is {self.min_new_tokens}, above max_new_tokens, which is {self.max_new_tokens}"
            raise ValueError(f"GenerateOptions: {found}")


def checked_names(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same settings. raises TypeError with the nearest match for one that GenerateOptions does not have"""
    known = tuple(GenerateOptions.__dataclass_fields__)
    for name in settings:
        if name not in known:
            meant = nearest(name, known)
            advice = f"did you mean {meant}? " if meant else ""
            raise TypeError(f"GenerateOptions has no setting {name!r}; {advice}settings: {', '.join(known)}")
    return settings


def _check_setting(name: str, value: Any, hint: Any) -> None:
    markers = hint.__metadata__ if get_origin(hint) is Annotated else ()
    kind = get_args(hint)[0] if markers else hint
    words = {int: "a whole number", float: "a number", bool: "True or False"}
    if kind == int | None:
        if value is None:
            return
        kind = int
    is_number = isinstance(value, Real) and not isinstance(value, bool)  # those of NumPy too
    fits = isinstance(value, bool) if kind is bool else is_number and (kind is float or isinstance(value, Integral))
    if not fits:
        raise TypeError(f"GenerateOptions: {name} is {value!r}, expected {words[kind]}")
    if kind is not bool and value != value:
        raise ValueError(f"GenerateOptions: {name} is not a number")
    for marker in markers:
        if isinstance(marker, Range) and (reason := marker.check(value)):
            advice = "; for the likeliest words set sample=False" if name == "temperature" else ""
            raise ValueError(f"GenerateOptions: {name} {reason}{advice}")


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """Settings all language models share."""

    weights: Path | None = None  # where `load` reads; a folder, not one of the part's `files`

    @property
    def context_length(self) -> int | None:
        """Most tokens of a sequence, new ones included, known before anything is built; None when it is not."""
        return None


class LanguageModel(WeightedPart):
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

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """float[..., D] -> float[..., vocabulary]"""

    @property
    def max_positions(self) -> int | None:
        """Longest row it was made for, new ids included; None when it does not say."""
        return None

    @abstractmethod
    def generate(
        self,
        embeds: Tensor,
        mask: Tensor,
        options: GenerateOptions,
        stop_ids: StopIds = (),
        on_ids: OnIds | None = None,
    ) -> list[list[int]]:
        """
        embeds    float[B, L, D], padded on the left
        mask      bool[B, L], False = padding
        stop_ids  sequences that end the answer of the row that produces one
        on_ids    for one row and one beam: called as ids come, those of a stop sequence included
        returns   new ids per row, without the stop sequence, the end token or padding
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


LANGUAGES: Registry[LanguageModel] = Registry("language", "chatbridge.models.language")

__all__ = ["LANGUAGES", "GenerateOptions", "LanguageConfig", "LanguageModel", "OnIds", "StopIds", "without_stop"]
