"""The tensors a KV cache is made of, for models with keys and values per token and for models without a cache."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

UNPADDED = "this language model keeps a running state that padding enters; read its rows one by one"


class Store(ABC):
    """Tensors of B rows that were read together; the kind depends on the model."""

    @property
    def croppable(self) -> bool:
        """Whether columns can be taken back: not where every token is stirred into one running state."""
        return True

    @property
    def paddable(self) -> bool:
        """Whether padding can be hidden from the rows that have it."""
        return self.croppable

    @property
    def rereads(self) -> bool:
        """Whether every step passes all columns through the layers again, not the new ones alone."""
        return False

    @abstractmethod
    def empty(self) -> Store: ...

    @abstractmethod
    def crop(self, num_removed: int) -> None: ...

    @abstractmethod
    def keep(self, rows: Tensor) -> None: ...

    @abstractmethod
    def copy(self) -> Store: ...

    @abstractmethod
    def join(self, others: Sequence[Store], padding: Sequence[int]) -> None:
        """Take the rows of other stores below its own; `padding` columns go before the rows of each, its own first."""


class KeyValueStore(Store):
    """Around a cache of transformers.

    Layers with a sliding window keep everything too: their mask hides what is outside the window, and a crop over
    several turns finds what it needs.
    """

    def __init__(self, settings: Any) -> None:
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

        self.settings = settings
        self.past = DynamicCache(config=settings)
        for index, layer in enumerate(self.past.layers):
            if type(layer) is DynamicSlidingWindowLayer:
                self.past.layers[index] = DynamicLayer()

    def empty(self) -> KeyValueStore:
        return KeyValueStore(self.settings)

    @property
    def croppable(self) -> bool:
        return not any(hasattr(layer, "recurrent_states") for layer in self.past.layers)

    def crop(self, num_removed: int) -> None:
        self.past.crop(-num_removed)

    def keep(self, rows: Tensor) -> None:
        self.past.reorder_cache(rows)

    def copy(self) -> KeyValueStore:
        found = copy.copy(self)
        found.past = copy.copy(self.past)
        found.past.layers = [_own_lists(layer) for layer in self.past.layers]
        return found

    def join(self, others: Sequence[Store], padding: Sequence[int]) -> None:
        stores = [self.past, *(other.past for other in others if isinstance(other, KeyValueStore))]
        if not self.croppable:
            raise ValueError(f"rows cannot be put into one cache: {UNPADDED}")
        for number, layer in enumerate(self.past.layers):
            if not getattr(layer, "is_initialized", False):  # layers that use another one's keys have none
                continue
            for name in ("keys", "values"):
                parts = [getattr(store.layers[number], name) for store in stores]
                padded = [F.pad(part, (0, 0, columns, 0)) for part, columns in zip(parts, padding, strict=True)]
                setattr(layer, name, torch.cat(padded))


class RereadStore(Store):
    """For models that return no cache a caller could hold (the first GPT, RWKV): every step reads all again."""

    def __init__(self) -> None:
        self.embeds: Tensor | None = None

    def empty(self) -> RereadStore:
        return RereadStore()

    @property
    def paddable(self) -> bool:
        return False  # RWKV looks at no mask

    @property
    def rereads(self) -> bool:
        return True

    def grown(self, embeds: Tensor) -> Tensor:
        self.embeds = embeds if self.embeds is None else torch.cat([self.embeds, embeds], 1)
        return self.embeds

    def crop(self, num_removed: int) -> None:
        self.embeds = None if self.embeds is None else self.embeds[:, :-num_removed]

    def keep(self, rows: Tensor) -> None:
        self.embeds = None if self.embeds is None else self.embeds[rows.to(self.embeds.device)]

    def copy(self) -> RereadStore:
        return copy.copy(self)

    def join(self, others: Sequence[Store], padding: Sequence[int]) -> None:
        parts = [
            store.embeds for store in (self, *others) if isinstance(store, RereadStore) and store.embeds is not None
        ]
        self.embeds = torch.cat([F.pad(part, (0, 0, columns, 0)) for part, columns in zip(parts, padding, strict=True)])


def _own_lists(layer: Any) -> Any:
    """A copy whose lists of tensors are its own; the tensors are shared until one of both changes its own."""
    found = copy.copy(layer)
    for name, value in vars(layer).items():
        if isinstance(value, (dict, list)):
            setattr(found, name, copy.copy(value))
    return found
