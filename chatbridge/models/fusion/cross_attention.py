"""Text reads media through gated blocks before every n-th decoder layer (Flamingo, Alayrac et al. 2022).

An item has one position in the token sequence, that of `token`; its bridge tokens stay outside. The blocks are hooked
to the language model, whose tensors keep their names and values: `fusion.layers.<number of the decoder layer>.*`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Literal, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from chatbridge.common.errors import DataError, Problem, nearest
from chatbridge.common.types import Batch
from chatbridge.config.constraints import Range
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.models.fusion._gated_block import GatedBlock
from chatbridge.models.fusion._seen_media import NEVER, Reach, SeenMedia, seen, seen_in_segments
from chatbridge.models.fusion.base import FUSIONS, Context, Fusion, FusionConfig, Reader, change_layer_input
from chatbridge.models.language import LanguageModel

Positive = Annotated[int, Range(low=1)]


@FUSIONS.register("cross_attention")
class CrossAttention(Fusion):
    fp32_residuals = True

    @dataclass(frozen=True, kw_only=True)
    class Config(FusionConfig):
        every: Positive = 4  # a block before decoder layers every - 1, 2 * every - 1, ... counted from 0
        heads: Positive = 8
        head_width: Positive = 64  # channels of a head
        feed_forward_mult: Positive = 4  # hidden channels of a block's feed-forward part, in multiples of its width
        media_width: Positive | None = None  # channels of the bridge's tokens; null: those of the language model
        # The items that a text position reads; that of an item always reads the item itself. next: the one item that
        # comes next, and none after the last, so answers read none (Multimodal-GPT's released weights). previous: the
        # latest one (OpenFlamingo's). all: every item up to the position
        media: Reach = "previous"
        # A coin for each training batch between next and previous, as OpenFlamingo v1 can train. Answers use `media`
        placement_augmentation: bool = False
        # The token at the position of an item, of the tokenizer or of model.added_tokens; or one for each modality
        token: str | dict[str, str] = "<image>"
        # skip: the blocks leave conversations without media as they are, alone and in a batch. feed_forward: in a batch
        # where others have media, the feed-forward part changes them, as in the reference
        text_only: Literal["skip", "feed_forward"] = "skip"

        def route_problems(self, modalities: Collection[str]) -> Iterator[Problem]:
            for modality in modalities:
                if isinstance(self.token, dict) and modality not in self.token:
                    known = tuple(self.token)
                    hint = f"add {modality}: <{modality}>, also to model.added_tokens; or give one token for all"
                    guess = nearest(modality, known)
                    message = f"has none for {modality}, which has a route"
                    yield Problem("token", message, allowed=known, nearest=guess, hint=hint)
            for modality in self.token if isinstance(self.token, dict) else ():
                if modality not in MODALITIES.names():
                    guess, hint = nearest(modality, modalities), "remove it, or name a modality of a route"
                    message = "is a token of no modality"
                    yield Problem(f"token.{modality}", message, allowed=tuple(modalities), nearest=guess, hint=hint)

        def problems(self) -> Iterator[Problem]:
            if self.placement_augmentation and self.media == "all":
                hint = "set media to the one that answers shall use, or remove placement_augmentation"
                yield Problem(
                    "placement_augmentation", "chooses between next and previous, but media is all", hint=hint
                )
            tokens = self.token.items() if isinstance(self.token, dict) else [("", self.token)]
            for modality, token in tokens:
                if not token:
                    path = f"token.{modality}" if modality else "token"
                    yield Problem(path, "is empty; an item needs a token at its position", hint="for example <image>")

    config: CrossAttention.Config
    layers: nn.ModuleDict

    @property
    def media_width(self) -> int:
        return self.config.media_width or self.width

    def attach(self, language: LanguageModel) -> None:
        """Build the blocks and hook them to their decoder layers.

        raises   ValueError when the decoder layers cannot be found, or are fewer than `every`
        """
        decoder, every = list(language.decoder_layers), self.config.every
        if len(decoder) < every:
            raise ValueError(
                f"every: {every}, but the language model has {len(decoder)} decoder layers, so no block would be "
                f"built; set it to at most {len(decoder)}"
            )
        sizes = (self.config.heads, self.config.head_width, self.config.feed_forward_mult)
        numbers = range(every - 1, len(decoder), every)
        self.layers = nn.ModuleDict({str(n): GatedBlock(self.width, self.media_width, *sizes) for n in numbers})
        for number in numbers:
            change_layer_input(decoder[number], partial(self._look, str(number)))

    def _look(self, number: str, hidden: Tensor) -> Tensor:
        if self.shown is None and not self.runs_always:
            return hidden
        return self.layers[number](hidden, self.shown)

    def units(self) -> list[nn.Module]:
        return list(self.layers.values())

    def readers(self) -> dict[int, Reader]:
        return {int(number): cast("GatedBlock", block).reader() for number, block in self.layers.items()}

    def num_slots(self, num_tokens: int) -> int:
        return 1

    def slot_token(self, modality: str) -> str:
        """The token at the position of an item. raises ValueError for a modality without one"""
        token = self.config.token
        if isinstance(token, str):
            return token
        if modality not in token:
            raise ValueError(f"token: there is none for {modality}, which has a route; given are {token}")
        return token[modality]

    def prepare(
        self, embeds: Tensor, media_tokens: Mapping[str, Tensor], batch: Batch
    ) -> tuple[Tensor, SeenMedia | None]:
        """The embeddings as they are, and the media of each row; None when no row has any: then no block runs.

        embeds        float[B, L, D]
        media_tokens  modality -> float[M, K, W], K may differ between modalities
        batch         its media_slots: modality -> int64[M, 1], flat positions b * L + t
        """
        if not any(len(media) for media in media_tokens.values()):
            return embeds, None
        if not _has_values(batch.ids):
            batch = replace(batch, positions=torch.arange(batch.ids.shape[1]).expand_as(batch.ids))
        tokens, start, column = _tables(media_tokens, batch)
        reach, everywhere = self._reach(_has_values(tokens)), self.config.text_only == "feed_forward"
        if batch.segments is None:
            return embeds, seen(tokens, start, reach, everywhere, batch.positions)
        return embeds, seen_in_segments(tokens, start, column, reach, everywhere, batch.positions, batch.segments)

    def _reach(self, has_values: bool) -> Reach:
        if self.config.placement_augmentation and self.is_learning and has_values:
            return "next" if float(torch.rand(())) < 0.5 else "previous"
        return self.config.media

    def keeps_states(self, kept: int, dropped: int, added: int) -> bool:
        """Whether positions read earlier stay as they are. With `next` they read the item that follows them; and the
        blocks change no conversation before its first item is there."""
        if not dropped and not added:
            return True
        return self.config.media != "next" and (kept > 0 or bool(dropped) == bool(added))

    def check_continued(self, context: Context | None, batch: Batch) -> None:
        """raises   DataError when media that come, or were cropped, change what was read before them"""
        num_rows, length = batch.ids.shape
        rows = torch.cat([batch.ids.new_zeros(0), *(one.flatten() // length for one in batch.media_slots.values())])
        is_new = rows.bincount(minlength=num_rows) > 0  # [B]
        was_changed = has_lost = torch.zeros_like(is_new)
        will_be = is_new
        if context is not None:
            earlier = cast("SeenMedia", context)
            was_changed, has_lost = earlier.was_changed, earlier.has_lost
            is_apart = torch.zeros_like(is_new) if earlier.is_apart is None else earlier.is_apart
            will_be = is_new | (earlier.num_tokens > 0) | (~is_apart if earlier.everywhere else is_apart)
        if self.config.media == "next":
            self._refuse(is_new | has_lost, "media: next lets earlier text read the item that comes next")
        self._refuse(was_changed != will_be, "the blocks change a whole conversation as soon as it has media")

    @staticmethod
    def _refuse(rows: Tensor, reason: str) -> None:
        """raises   DataError when one of the rows, bool[B], is True"""
        if bool(rows.any()):
            raise DataError(
                f"media of a conversation that the cache holds cannot change: {reason}; read the whole conversation "
                "again with a new cache"
            )


def _tables(media_tokens: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Per row the tokens of its media in the order of their slots, float[B, N, W], and of each the position and the
    column of its slot, int64[B, N]: NEVER and 0 where a row is filled up."""
    (num_rows, length), device = batch.ids.shape, batch.ids.device
    found = [(media.flatten(0, 1), batch.media_slots[modality].repeat_interleave(media.shape[1]))
             for modality, media in media_tokens.items() if len(media)]  # fmt: skip
    slots = torch.cat([slot for _, slot in found])  # [all]
    order = slots.argsort(stable=True)
    slots, tokens = slots[order], torch.cat([token for token, _ in found])[order]
    row = slots // length
    counts = row.new_zeros(num_rows).index_add(0, row, torch.ones_like(row))
    at = (row, torch.arange(len(row), device=device) - (counts.cumsum(0) - counts)[row])
    shape = (num_rows, _most_tokens(media_tokens, batch, counts))
    table = tokens.new_zeros(*shape, tokens.shape[1]).index_put(at, tokens)
    start = batch.ids.new_full(shape, NEVER).index_put(at, batch.positions.flatten()[slots])
    return table, start, batch.ids.new_zeros(shape).index_put(at, slots % length)


def _most_tokens(media_tokens: Mapping[str, Tensor], batch: Batch, counts: Tensor) -> int:
    """Media tokens of the row with most of them; the device is asked only where the batch does not know.

    counts   int64[B], of each row
    """
    num_rows, found = len(counts), Counter[int]()
    for modality, media in media_tokens.items():
        rows = (0,) * len(media) if num_rows == 1 else batch.media_rows.get(modality, ())
        if len(rows) != len(media):
            every = sum(media.shape[0] * media.shape[1] for media in media_tokens.values())
            return int(counts.max()) if _has_values(counts) else -(-every // num_rows)
        for row in rows:
            found[row] += media.shape[1]
    return max(found.values())


def _has_values(tensor: Tensor) -> bool:
    """Whether a tensor is no placeholder of a simulated step, whose rows have equally many media and count from 0."""
    return not isinstance(tensor, FakeTensor)
