"""The tensors of a KV cache, for models with keys and values per token and for models without a cache."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import LongTensor, Tensor
from torch.nn import functional as F

from chatbridge.models.language._growing_layer import growing_layer, shared_layer

UNPADDED = "this language model has a recurrent state that includes padding; process its sequences one by one"


class Store(ABC):
    """Tensors of B sequences that were read together; the subclass depends on the model."""

    @property
    def croppable(self) -> bool:
        """Whether columns can be removed: not if all tokens are merged into one recurrent state."""
        return True

    @property
    def paddable(self) -> bool:
        """Whether padding can be masked."""
        return self.croppable

    @property
    def rereads(self) -> bool:
        """Whether every step passes all columns through the layers again, instead of only the new ones."""
        return False

    @abstractmethod
    def empty(self) -> Store:
        """A new store of the same kind, without tensors."""

    @abstractmethod
    def crop(self, num_removed: int) -> None:
        """Remove the last columns."""

    @abstractmethod
    def trim(self, num_removed: int) -> None:
        """Remove the first columns, and free their memory."""

    @abstractmethod
    def keep(self, rows: Tensor) -> None:
        """Keep the sequences with these indices, int64[R], in this order; an index may occur several times."""

    @abstractmethod
    def copy(self) -> Store:
        """A store that can be changed independently; tensors are shared until one of both replaces them."""

    @abstractmethod
    def join(self, others: Sequence[Store], padding: Sequence[int]) -> None:
        """Append the sequences of other stores, each store with `padding` columns on the left, its own first."""


class KeyValueStore(Store):
    """A cache of transformers.

    Layers with a sliding window store all tokens too: the mask hides those outside the window, and a crop over several
    turns still has them.
    """

    def __init__(self, settings: Any) -> None:
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

        growing = growing_layer()
        self.settings = settings
        self.past = DynamicCache(config=settings)
        for index, layer in enumerate(self.past.layers):
            if type(layer) in (DynamicSlidingWindowLayer, DynamicLayer):
                self.past.layers[index] = growing()
        if self.past.layer_class_to_replicate is DynamicLayer:
            self.past.layer_class_to_replicate = growing

    def empty(self) -> KeyValueStore:
        return KeyValueStore(self.settings)

    @property
    def croppable(self) -> bool:
        return not any(hasattr(layer, "recurrent_states") for layer in self.past.layers)

    def crop(self, num_removed: int) -> None:
        self.past.crop(-num_removed)

    def trim(self, num_removed: int) -> None:
        for layer in self._filled_layers:
            layer.replace(*(part[..., num_removed:, :].clone() for part in (layer.keys, layer.values)))

    def keep(self, rows: Tensor) -> None:
        """Keep the sequences with these indices, int64[R]."""
        self.past.reorder_cache(cast("LongTensor", rows))
        for layer in self._filled_layers:
            layer.whole = None

    def copy(self) -> KeyValueStore:
        found = copy.copy(self)
        found.past = copy.copy(self.past)
        found.past.layers = [shared_layer(layer) for layer in self.past.layers]
        return found

    def join(self, others: Sequence[Store], padding: Sequence[int]) -> None:
        stores = [self.past, *(other.past for other in others if isinstance(other, KeyValueStore))]
        if not self.croppable:
            raise ValueError(f"the sequences cannot share a cache: {UNPADDED}")
        found: list[Tensor] = []  # all at once: where memory ends, nothing has changed
        for number, layer in enumerate(self.past.layers):
            if not getattr(layer, "is_initialized", False):
                continue
            for name in ("keys", "values"):
                parts = [getattr(store.layers[number], name) for store in stores]
                padded = [F.pad(part, (0, 0, columns, 0)) for part, columns in zip(parts, padding, strict=True)]
                found.append(torch.cat(padded))
        for layer, (keys, values) in zip(self._filled_layers, zip(found[::2], found[1::2], strict=True), strict=True):
            layer.replace(keys, values)

    @property
    def _filled_layers(self) -> list[Any]:
        """A layer that shares the keys of another layer has none itself."""
        return [layer for layer in self.past.layers if getattr(layer, "is_initialized", False)]


class RereadStore(Store):
    """All embeddings, for models without a cache that a caller can keep (the first GPT, RWKV): each step reads all."""

    def __init__(self) -> None:
        self.embeds: Tensor | None = None

    def empty(self) -> RereadStore:
        return RereadStore()

    @property
    def paddable(self) -> bool:
        return False  # RWKV ignores masks

    @property
    def rereads(self) -> bool:
        return True

    def appended(self, embeds: Tensor) -> Tensor:
        """Append float[B, n, D]; returns all embeddings so far, float[B, L + n, D]."""
        self.embeds = embeds if self.embeds is None else torch.cat([self.embeds, embeds], 1)
        return self.embeds

    def crop(self, num_removed: int) -> None:
        self.embeds = None if self.embeds is None else self.embeds[:, :-num_removed]

    def trim(self, num_removed: int) -> None:
        self.embeds = None if self.embeds is None else self.embeds[:, num_removed:].clone()

    def keep(self, rows: Tensor) -> None:
        """Keep the sequences with these indices, int64[R]."""
        self.embeds = None if self.embeds is None else self.embeds[rows.to(self.embeds.device)]

    def copy(self) -> RereadStore:
        return copy.copy(self)

    def join(self, others: Sequence[Store], padding: Sequence[int]) -> None:
        parts = [
            store.embeds for store in (self, *others) if isinstance(store, RereadStore) and store.embeds is not None
        ]
        self.embeds = torch.cat([F.pad(part, (0, 0, columns, 0)) for part, columns in zip(parts, padding, strict=True)])
