"""Media that went through encoder and bridge, by their content: every image, video and sound is encoded once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from chatbridge.common.types import Features
from chatbridge.models.chat_model import ChatModel
from chatbridge.serve.caches.bounded_cache import BoundedCache, CacheCounts
from chatbridge.serve.caches.prompt_cache import Digests


class EncodedMedia:
    """Bridge tokens by modality and digest of the encoder's input, of at most so many bytes together.

    The weights must not change meanwhile; call `forget` after changing them.
    """

    def __init__(self, max_mb: float) -> None:
        self._tokens: BoundedCache[tuple[str, bytes], Tensor] = BoundedCache(max_mb, lambda one: one.nbytes)

    def tokens(
        self, model: ChatModel, media: Mapping[str, Tensor | Features], digests: Digests
    ) -> tuple[dict[str, Tensor], int]:
        """The bridge tokens of media, see `ChatModel.encoded`, and how many items were encoded for it.

        media    modality -> [M, ...]
        digests  modality -> of each of the M items
        returns  modality -> float[M, K, W]
        """
        found, num_encoded = {}, 0
        for modality, items in media.items():
            items = cast("Tensor", items)  # features of the feature cache are for training
            known = [self._tokens.get((modality, one)) for one in digests[modality]]
            missing = [at for at, one in enumerate(known) if one is None]
            new = items if len(missing) == len(known) else items[missing]
            made = model.encoded({modality: new}).get(modality) if missing else None  # [missing, K, W]
            for at, place in enumerate(missing):
                assert made is not None
                known[place] = made[at].clone()
                self._tokens.put((modality, digests[modality][place]), cast("Tensor", known[place]))
            if known:
                found[modality] = torch.stack(cast("list[Tensor]", known))
            num_encoded += len(missing)
        return found, num_encoded

    def forget(self) -> None:
        """Free the memory."""
        self._tokens.forget()

    def counts(self) -> CacheCounts:
        """What it holds now, and how many items were found there."""
        return self._tokens.counts()


__all__ = ["EncodedMedia"]
