"""What every fusion promises: how many slots a media item takes in a row, and how its tokens get there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor, nn

from chatbridge.common.errors import DataError
from chatbridge.common.types import Batch
from chatbridge.config.registry import Registry

if TYPE_CHECKING:
    from chatbridge.models.language import LanguageModel


@dataclass(frozen=True, kw_only=True)
class FusionConfig:
    """Settings all fusions share: none so far."""


class Context(ABC):
    """What a fusion's layers inside the language model see of some rows; lives as long as the rows' KV cache.

    A position is counted within its row, from 0, without padding: what `positions` of a batch say. So a context depends
    neither on the side of the padding nor on how often the row was continued. `prepare` returns a context that looks
    from the positions of its batch; contexts do not change, each method returns another one.
    """

    @abstractmethod
    def at(self, positions: Tensor) -> Self:
        """The same media, seen from other positions of the rows, int64[B, L]: words that are decoded later, or prompts
        that were moved by padding (whose positions may hold anything). Each row is one conversation."""

    @abstractmethod
    def select(self, rows: Tensor) -> Self:
        """The rows that go on, int64[R], in this order; a row may go on several times (beams)."""

    @abstractmethod
    def followed_by(self, later: Self) -> Self:
        """These media and those of a further turn of the same rows, whose positions count on; seen from the positions
        of the turn."""

    @abstractmethod
    def crop(self, length: int | Tensor) -> Self:
        """Without what the KV cache forgets: the media at position `length` and after it; int64[B, 1] where rows
        differ."""

    @classmethod
    @abstractmethod
    def join(cls, contexts: Sequence[Self]) -> Self:
        """The rows of all contexts, in order; what they see is asked with `at` afterwards."""


class Fusion(nn.Module):
    config: FusionConfig

    def __init__(self, config: FusionConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.width = width  # D of the language model
        self.shown: Context | None = None  # what the inner layers see now

    def attach(self, language: LanguageModel) -> None:
        """Put layers of its own among the language model's, once, when the model is built. Names of the language
        model's tensors stay as they are: layers are hooked (`fusion.before`), and their tensors are the fusion's.
        Reading weights later keeps the hooks.

        raises   ValueError when the decoder layers cannot be found
        """

    @abstractmethod
    def num_slots(self, num_tokens: int) -> int:
        """Positions of a row that an item of K bridge tokens takes."""

    def slot_token(self, modality: str) -> str | None:
        """The token whose id stands in the slots of an item, one of the tokenizer's or of `model.added_tokens`.
        None: the padding id, when `prepare` replaces the embeddings of the slots anyway."""
        return None

    @abstractmethod
    def prepare(
        self, embeds: Tensor, media_tokens: Mapping[str, Tensor], batch: Batch
    ) -> tuple[Tensor, Context | None]:
        """Rows for the language model, and what its inner layers see.

        embeds        float[B, L, D]              word embeddings of batch.ids
        media_tokens  modality -> float[M, K, D]  bridge tokens; as many items as batch.media_slots has
        batch         its media_slots say where items are: modality -> int64[M, slots], flat positions b * L + t
        returns       float[B, L, D], and None when all media are in the rows
        """

    def show(self, context: Context | None) -> None:
        """What the inner layers see from now on, until the next call: the backward pass may repeat a layer."""
        self.shown = context

    def __getstate__(self) -> dict[str, Any]:
        """Copies of a model have not been shown anything: a context may hold tensors of a graph, which cannot be
        copied."""
        return {**super().__getstate__(), "shown": None}


def check_slots(fusion: Fusion, media_tokens: Mapping[str, Tensor], batch: Batch) -> None:
    """raises DataError when a modality has more items than slots, or the reverse, or items of another length. Shapes
    alone decide, so nothing waits for the device."""
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
    """Let `change` replace the hidden states, float[B, L, D], that reach a decoder layer.

    A bound method, or `functools.partial` of one, follows its module when a whole model is copied; a closure does not.
    """
    layer.register_forward_pre_hook(partial(_changed, change), with_kwargs=True)


def _changed(
    change: Callable[[Tensor], Tensor], layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if args:
        return (change(args[0]), *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}


FUSIONS: Registry[Fusion] = Registry("fusion", "chatbridge.models.fusion")

__all__ = ["FUSIONS", "Context", "Fusion", "FusionConfig", "check_slots"]
