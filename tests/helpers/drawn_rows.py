"""Answers of tiny models that draw often, and the same answers by reading everything again for each token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast
from zlib import crc32

import torch
from torch import Tensor

from chatbridge.common.types import Batch
from chatbridge.conversation.layout import Layout
from chatbridge.conversation.templates.base import Template
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.drawing import Artist, start_drawing
from chatbridge.models.drawing.start import DrawingDecoding, SeparateDrawings
from chatbridge.models.generators import Generator, GeneratorConfig
from chatbridge.models.language import GenerateOptions
from tests.helpers.tiny_models import MEDIA

OPENING, CLOSING = 30, 31
Item = tuple[str, int]  # modality, seed of its values
Row = Sequence[int | Item]


class Marks(Template):
    """Ids 30 and 31 open and close a caption; ids stand for themselves."""

    can_draw = True
    drawing_ids = (OPENING, CLOSING)  # pyright: ignore
    stops = ()  # pyright: ignore

    def write(self, conversation, out, reply) -> None:
        raise NotImplementedError


class Numbers:
    """A tokenizer whose text is its ids."""

    bos_id, eos_id, pad_id = None, 2, 0

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))


class Numbered(Generator):
    """An image of one pixel, which tells the caption: see `number`. Captions with `broken` in them fail."""

    def __init__(self, broken: str | None = None) -> None:
        super().__init__(GeneratorConfig())
        self.broken, self.rendered = broken, []

    def render(self, captions: Sequence[str], seeds: Sequence[int]) -> list[Tensor]:
        self.rendered.append(list(captions))
        if any(fails(caption, self.broken) for caption in captions):
            raise RuntimeError("no paint")
        return [torch.tensor([*number(one).to_bytes(3, "big")], dtype=torch.uint8).view(3, 1, 1) for one in captions]


def fails(caption: str, broken: str | None) -> bool:
    return broken is not None and broken in caption.split()


def number(caption: str) -> int:
    return crc32(caption.encode()) % 2**24


def encoder_input(image: Tensor) -> Tensor:
    """The input of the encoder for an image of Numbered."""
    return values(("image", int.from_bytes(bytes(image.flatten().tolist()), "big")))


def values(item: Item) -> Tensor:
    return 3 * torch.randn(MEDIA[item[0]], generator=torch.Generator().manual_seed(item[1]))


def drawing_layout(model: ChatModel) -> Layout:
    lengths = model.media_lengths()
    ids = dict.fromkeys(lengths, 50) if model.slot_tokens() else {}
    return Layout(Marks(None), cast("Any", Numbers()), lengths, slot_ids=ids)


def batch_of(model: ChatModel, *rows: Row) -> Batch:
    """Prompts padded on the right; an item has as many positions as the model needs."""
    layout = drawing_layout(model)
    ids: list[list[int]] = []
    found: dict[str, list[tuple[Tensor, int, list[int]]]] = {}
    for b, row in enumerate(rows):
        ids.append([])
        for one in row:
            if isinstance(one, int):
                ids[-1].append(one)
                continue
            slots = layout.media(one[0]).ids
            at = list(range(len(ids[-1]), len(ids[-1]) + len(slots)))
            found.setdefault(one[0], []).append((values(one), b, at))
            ids[-1] += slots
    width = max(map(len, ids))
    return Batch(
        ids=torch.tensor([row + [0] * (width - len(row)) for row in ids]),
        positions=torch.arange(width).repeat(len(rows), 1),
        lengths=torch.tensor([*map(len, ids)]),
        predict_at=torch.zeros(0, dtype=torch.long),
        target=torch.zeros(0, dtype=torch.long),
        media={name: torch.stack([one[0] for one in items]) for name, items in found.items()},
        media_slots={
            name: torch.tensor([[b * width + t for t in at] for _, b, at in items]) for name, items in found.items()
        },
    )  # fmt: skip


@dataclass
class Likely:
    """In place of `language.logits`: marks of captions are likelier than they are, so answers draw often."""

    real: Any
    opening: float = 1.5
    closing: float = 2.5

    def __call__(self, hidden: Tensor) -> Tensor:
        logits = self.real(hidden)
        scale = logits.std(-1)
        logits[..., OPENING] += self.opening * scale
        logits[..., CLOSING] += self.closing * scale
        return logits


def drawn_together(
    model: ChatModel, rows: Sequence[Row], options: Any, generator: Generator | None
) -> DrawingDecoding | SeparateDrawings:
    """The finished generation of answers to all rows in one batch."""
    batch, layout = batch_of(model, *rows), drawing_layout(model)
    growing = start_drawing(model, layout, batch, options, Artist(generator), encoder_input)
    while not growing.is_done:
        growing.step()
    return growing


@torch.no_grad()
def drawn_again(model: ChatModel, row: Row, options: GenerateOptions, broken: str | None = None) -> list[int]:
    """A greedy answer without a cache: for every token the prompt is read, with what the answer has so far; a caption
    that is complete is not read, but its image."""
    answer: list[int] = []
    so_far: list[int | Item] = list(row)
    begun: int | None = None
    while len(answer) < options.max_new_tokens:
        batch = batch_of(model, so_far)
        embeds, context = model.prepared(batch)
        model.fusion.show(context)
        new = int(model.language.logits(model.language(embeds, batch.positions)[0, -1]).argmax())
        if new in model.language.end_ids:
            break
        answer.append(new)
        so_far.append(new)
        if begun is None and new == OPENING:
            begun = len(so_far) - 1
        elif begun is not None and new == CLOSING:
            caption = " ".join(str(one) for one in so_far[begun + 1 : -1] if one != OPENING)
            if not fails(caption, broken):
                so_far[begun:] = [("image", number(caption))]
            begun = None
    return answer
