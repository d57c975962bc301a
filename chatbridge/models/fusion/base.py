"""The interface of fusions: how many slots a media item takes in a token sequence, and how its tokens get there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from chatbridge.common.errors import DataError, Problem
from chatbridge.common.types import Batch
from chatbridge.config.registry import Registry

if TYPE_CHECKING:
    from chatbridge.models.language import LanguageModel


@dataclass(frozen=True, kw_only=True)
class FusionConfig:
    """Settings all fusions share: none so far."""

    def route_problems(self, modalities: Collection[str]) -> Iterable[Problem]:
        """Problems of these settings with the modalities that have a route."""
        return ()


@dataclass(frozen=True)
class Reader:
    """The parts of a layer through which text reads media, for counting its operations.

    layer      the whole
    query      modules that run at every text position before the reading
    key_value  modules that run once for every media token
    output     modules that run at every text position after it
    width      channels of all heads together
    """

    layer: nn.Module
    query: Sequence[nn.Module]
    key_value: Sequence[nn.Module]
    output: Sequence[nn.Module]
    width: int


class Context(ABC):
    """The media that a fusion's layers inside the language model attend to, for B sequences.

    It has the lifetime of the sequences' KV cache. Positions count tokens from 0 without padding, as `positions` of a
    batch, so a context depends neither on the side of the padding nor on how often a sequence was continued. A context
    is immutable; each method returns a new one. `prepare` returns a context for the positions of its batch.

    is_stepwise  whether it is for tokens that are read step by step, as `at` returns it; no compiled layer runs then
    """

    is_stepwise: bool = False

    @abstractmethod
    def at(self, positions: Tensor) -> Self:
        """The same media for different query positions.

        positions  int64[B, L]; of tokens decoded later, or of prompts moved by padding (padding may have any value).
                   Each sequence is one conversation
        """

    @abstractmethod
    def select(self, rows: Tensor) -> Self:
        """The sequences with these indices, int64[R], in this order; an index may occur several times (beams)."""

    @abstractmethod
    def followed_by(self, later: Self) -> Self:
        """These media and those of the next turn of the same sequences, for the query positions of that turn."""

    @abstractmethod
    def crop(self, length: int | Tensor) -> Self:
        """The media before position `length`, when the KV cache is cropped; int64[B, 1] if sequences differ."""

    def without_media(self, num_rows: int) -> Self:
        """The context of `num_rows` other sequences that have no media, to be joined with this one."""
        return self.crop(0).select(torch.zeros(num_rows, dtype=torch.long))

    @classmethod
    @abstractmethod
    def join(cls, contexts: Sequence[Self]) -> Self:
        """The sequences of all contexts, in order; call `at` on the result before it is used."""


class Fusion(nn.Module):
    """A method to put bridge tokens into the language model."""

    config: FusionConfig
    fp32_residuals: ClassVar[bool] = False  # as of a Component: while frozen only matrices are stored in bf16

    def __init__(self, config: FusionConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.width = width  # D of the language model
        self.shown: Context | None = None  # what the inner layers see now
        self.runs_always = False  # whether its units run, without effect, where there are no media
        self.is_learning = False  # whether the whole model is in training mode, also while the fusion is frozen

    @property
    def media_width(self) -> int:
        """W, the width of the bridge tokens that `prepare` takes; bridges are built for it."""
        return self.width

    def attach(self, language: LanguageModel) -> None:
        """Put layers of its own among the language model's, once, when the model is built. Names of the language
        model's tensors stay as they are: layers are hooked (`fusion.before`), and their tensors are the fusion's.
        Reading weights later keeps the hooks.

        raises   ValueError when the decoder layers cannot be found
        """

    def units(self) -> list[nn.Module]:
        """Layers that a run may spread over its ranks, as it does with those of the language model. It then sets
        `runs_always`: each unit must be called once in every forward pass of the language model, because ranks whose
        batches have media wait for those whose batches have none. Without any, a fusion is whole on every rank."""
        return []

    def readers(self) -> Mapping[int, Reader]:
        """Number of a decoder layer -> the parts of the fusion's layer before it, of all layers. Without any, the
        modules of a fusion are counted as if they ran once at every text position."""
        return {}

    @abstractmethod
    def num_slots(self, num_tokens: int) -> int:
        """The number of positions in a token sequence for an item of K bridge tokens."""

    def slot_token(self, modality: str) -> str | None:
        """The token that fills the slots of an item, from the tokenizer or from `model.added_tokens`.

        None: the padding id, for a fusion whose `prepare` replaces the embeddings of the slots.
        raises   ValueError for a modality for which the settings name no token
        """
        return None

    @abstractmethod
    def prepare(
        self, embeds: Tensor, media_tokens: Mapping[str, Tensor], batch: Batch
    ) -> tuple[Tensor, Context | None]:
        """The input of the language model, and the context for the fusion's layers inside it.

        embeds        float[B, L, D], token embeddings of batch.ids
        media_tokens  modality -> float[M, K, W], bridge tokens of `media_width`; as many items as batch.media_slots has
        batch         its media_slots: modality -> int64[M, slots], flat positions b * L + t
        returns       float[B, L, D], and None if all media are in the input already
        """

    def segments_obstacle(self) -> str | None:
        """Why this fusion cannot keep packed conversations apart, and the next step; None if it can: each conversation
        sees its own media alone (`Batch.segments`)."""
        return None

    def keeps_states(self, kept: int, dropped: int, added: int) -> bool:
        """Whether cached positions of a conversation stay valid when its media after them change.

        False: they must be read again, because they would see those media, or be changed by their being there.
        kept     items up to the last of these positions
        dropped  items after them that were there when they were read, and are no longer
        added    items after them that were not there, and are now
        """
        return True

    def check_continued(self, context: Context | None, batch: Batch) -> None:
        """Check that media may be added to conversations that a cache holds, as `keeps_states` tells for each.

        context  of the media that the cache has; None without any
        batch    the continuation of the same rows
        raises   DataError when a conversation must be read again
        """

    def show(self, context: Context | None) -> None:
        """Set the context of the layers inside the language model until the next call; backward may repeat a layer."""
        self.shown = context

    def __getstate__(self) -> dict[str, Any]:
        """Copies of a model have no context: it may contain tensors of a graph, which cannot be copied."""
        return {**super().__getstate__(), "shown": None}


def check_slots(fusion: Fusion, media_tokens: Mapping[str, Tensor], batch: Batch) -> None:
    """Check that media match their slots, by shapes alone, so nothing waits for the device.

    media_tokens  modality -> float[M, K, W]
    batch         media_slots: modality -> int64[M, slots]
    raises        DataError when a modality has more items than slots or the reverse, or items of a different length
    """
    for modality in dict.fromkeys((*batch.media_slots, *media_tokens)):
        media, slots = media_tokens.get(modality), batch.media_slots.get(modality)
        found = 0 if media is None else media.shape[0]
        wanted = 0 if slots is None else slots.shape[0]
        if found != wanted:
            more, fewer = ("items", "slots") if found > wanted else ("slots", "items")
            raise DataError(
                f"{modality}: {found} media items for the slots of {wanted}: more {more} than {fewer}; every media "
                "part of a conversation needs its tensor in Sample.media, in reading order"
            )
        if media is not None and slots is not None and fusion.num_slots(media.shape[1]) != slots.shape[1]:
            raise DataError(
                f"{modality}: {media.shape[1]} tokens per item take {fusion.num_slots(media.shape[1])} slots, the "
                f"batch has {slots.shape[1]}; was it laid out with this model's media_lengths()?"
            )


def change_layer_input(layer: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    """Register a hook that replaces the hidden states at the input of a decoder layer.

    The language model's tensors and their names stay as they are.
    change   float[B, L, D] -> float[B, L, D]. Use a bound method, or `functools.partial` of one: when a whole model is
             copied it refers to the copied module; a closure does not
    """
    layer.register_forward_pre_hook(partial(_changed, change), with_kwargs=True)


def _changed(
    change: Callable[[Tensor], Tensor], layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if args:
        return (change(args[0]), *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}


FUSIONS: Registry[Fusion] = Registry("fusion", "chatbridge.models.fusion")

__all__ = ["FUSIONS", "Context", "Fusion", "FusionConfig", "Reader", "change_layer_input", "check_slots"]
