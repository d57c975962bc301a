"""Cross-attention in the manner of Flamingo, small: every text position sees the latest media item before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chatbridge.common.types import Batch
from chatbridge.conversation.attention import visible
from chatbridge.models.fusion import FUSIONS, Context, Fusion, FusionConfig, change_layer_input
from chatbridge.models.language import LanguageModel

NEVER = 2**40  # start of what fills up rows with fewer media tokens


@dataclass(frozen=True)
class Seen(Context):
    """
    tokens  float[B, T, D]    media tokens of each row
    start   int64[B, T]       position of the slot of their item
    sees    bool[B, L, T]     which of them a position may look at, before the latest item is chosen
    """

    tokens: Tensor
    start: Tensor
    sees: Tensor

    def at(self, positions: Tensor) -> Seen:
        return replace(self, sees=self.start[:, None] <= positions[..., None])

    def select(self, rows: Tensor) -> Seen:
        return Seen(self.tokens[rows], self.start[rows], self.sees[rows])

    def followed_by(self, later: Seen) -> Seen:
        before = later.sees.new_ones(*later.sees.shape[:2], self.start.shape[1]) & (self.start < NEVER)[:, None]
        tokens, start = torch.cat([self.tokens, later.tokens], 1), torch.cat([self.start, later.start], 1)
        return Seen(tokens, start, torch.cat([before, later.sees], 2))

    def crop(self, length: int | Tensor) -> Seen:
        return replace(self, start=self.start.masked_fill(self.start >= length, NEVER)).at(self.start.new_zeros(1, 1))

    @classmethod
    def join(cls, contexts: Sequence[Seen]) -> Seen:
        most = max(one.tokens.shape[1] for one in contexts)
        tokens = torch.cat([F.pad(one.tokens, (0, 0, 0, most - one.tokens.shape[1])) for one in contexts])
        start = torch.cat([F.pad(one.start, (0, most - one.start.shape[1]), value=NEVER) for one in contexts])
        return cls(tokens, start, start[:, None] < NEVER)

    @property
    def mask(self) -> Tensor:
        """bool[B, L, T], True for the tokens of the latest item that a position may look at"""
        start = self.start[:, None].masked_fill(~self.sees, -1)
        return self.sees & (start == start.amax(-1, keepdim=True))


class GatedAttention(nn.Module):
    def __init__(self, width: int, gate: float) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gate = nn.Parameter(torch.tensor([gate]))

    def forward(self, hidden: Tensor, seen: Seen) -> Tensor:
        tokens, mask = seen.tokens.to(hidden.dtype), seen.mask
        has_media = mask.any(-1, keepdim=True)  # [B, L, 1]
        query, key, value = self.query(hidden), self.key(tokens), self.value(tokens)
        read = self.out(F.scaled_dot_product_attention(query, key, value, mask | ~has_media))
        return hidden + (self.gate.tanh() * read * has_media).to(hidden.dtype)


@FUSIONS.register("toy_cross_attention")
class ToyCrossAttention(Fusion):
    @dataclass(frozen=True, kw_only=True)
    class Config(FusionConfig):
        gate: float = 0.0  # start value; 0: the language model starts as it is
        slot_token: str = "<image>"

    config: ToyCrossAttention.Config

    def attach(self, language: LanguageModel) -> None:
        self.layers = nn.ModuleList(GatedAttention(self.width, self.config.gate) for _ in language.decoder_layers)
        for number, layer in enumerate(language.decoder_layers):
            change_layer_input(layer, partial(self._look, number))

    def _look(self, number: int, hidden: Tensor) -> Tensor:
        return hidden if self.shown is None else self.layers[number](hidden, self.shown)

    def num_slots(self, num_tokens: int) -> int:
        return 1

    def slot_token(self, modality: str) -> str:
        return self.config.slot_token

    def prepare(self, embeds: Tensor, media_tokens: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor, Seen]:
        tokens, slot = _flat(media_tokens, batch, embeds)  # [all, D], [all]
        row = slot // batch.ids.shape[1]
        counts = row.bincount(minlength=len(embeds))
        at = (row, torch.arange(len(row)) - (counts.cumsum(0) - counts)[row])
        shape = (len(embeds), max(int(counts.max()), 1))
        table = tokens.new_zeros(*shape, tokens.shape[1]).index_put(at, tokens)
        start = batch.ids.new_full(shape, NEVER).index_put(at, batch.positions.flatten()[slot])
        seen = Seen(table, start, start[:, None] <= batch.positions[..., None])
        if batch.segments is not None:
            column = batch.ids.new_zeros(shape).index_put(at, slot % batch.ids.shape[1])
            reach = visible(batch.segments).gather(2, column[:, None].expand(-1, batch.ids.shape[1], -1))
            seen = replace(seen, sees=reach & (start < NEVER)[:, None])
        return embeds, seen


def _flat(media_tokens: Mapping[str, Tensor], batch: Batch, embeds: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens of all items in the order of their slots, and the flat position of the slot of each."""
    tokens, slots = [embeds.new_zeros(0, embeds.shape[2])], [batch.ids.new_zeros(0)]
    for modality, media in media_tokens.items():
        tokens.append(media.flatten(0, 1))
        slots.append(batch.media_slots[modality].repeat_interleave(media.shape[1]))
    order = torch.cat(slots).argsort(stable=True)
    return torch.cat(tokens)[order], torch.cat(slots)[order]
