"""A tiny model of two modalities and its batches, for tests of the runner."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from zlib import crc32

import torch
from torch import Tensor, nn

from chatbridge.common.types import Batch, LossSum

MODALITIES = ("image", "audio")
WIDTH, CLASSES = 4, 5


class TinyModel(nn.Module):
    """A frozen linear encoder, a trainable linear bridge per modality and a trainable output layer."""

    def __init__(self, dropout: float = 0.0, modalities: Sequence[str] = MODALITIES) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({"vision": nn.Linear(WIDTH, WIDTH)})
        self.bridges = nn.ModuleDict({name: nn.Linear(WIDTH, WIDTH) for name in modalities})
        self.output = nn.Linear(WIDTH, CLASSES)
        self.language = nn.Embedding(CLASSES, WIDTH)
        self.dropout = nn.Dropout(dropout)
        for name, parameter in self.named_parameters():  # values depend on the name only, not on other parts
            make = torch.Generator().manual_seed(crc32(name.encode()))
            parameter.data = torch.randn(parameter.shape, generator=make) * 0.5
        self.encoders.requires_grad_(False)
        self.language.requires_grad_(False)

    def forward(self, batch: Batch) -> LossSum:
        hidden = self.language(batch.ids)
        for modality, media in batch.media.items():
            hidden = hidden + self.bridges[modality](self.encoders["vision"](media)).unsqueeze(1)
        logits = self.output(self.dropout(torch.tanh(hidden))).flatten(0, 1)[batch.predict_at]
        losses = nn.functional.cross_entropy(logits, batch.target, reduction="none")
        sequence = batch.predict_at // batch.ids.shape[1]
        per_source = {}
        for source in dict.fromkeys(batch.sources):
            of_source = torch.tensor([name == source for name in batch.sources])[sequence]
            per_source[source] = (losses.detach()[of_source].sum(), int(of_source.sum()))
        return LossSum(losses.sum(), len(losses), per_source)


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def rows(seed: int, count: int, modality: str | None) -> list[dict]:
    """Conversations with different numbers of supervised tokens, each with one media item or none."""
    make = torch.Generator().manual_seed(seed)
    return [
        {
            "id": f"{modality}-{seed}-{number}",
            "ids": torch.randint(CLASSES, (6,), generator=make),
            "supervised": 1 + (seed + number) % 5,
            "media": torch.randn(WIDTH, generator=make),
            "modality": modality,
        }
        for number in range(count)
    ]


def batch_of(conversations: Iterable[dict]) -> Batch:
    """A batch of conversations of one modality."""
    conversations = list(conversations)
    (modality,) = {row["modality"] for row in conversations}
    length = len(conversations[0]["ids"])
    points = [(b, t) for b, row in enumerate(conversations) for t in range(row["supervised"])]
    return Batch(
        ids=torch.stack([row["ids"] for row in conversations]),
        positions=torch.arange(length).repeat(len(conversations), 1),
        lengths=torch.full((len(conversations),), length),
        predict_at=torch.tensor([b * length + t for b, t in points]),
        target=torch.stack([conversations[b]["ids"][t + 1] for b, t in points]),
        media={modality: torch.stack([row["media"] for row in conversations])} if modality else {},
        sources=tuple(modality or "text" for _ in conversations),
        sample_ids=tuple(row["id"] for row in conversations),
    )


def loss_of(model: nn.Module, batches: Iterable[Batch]) -> tuple[Tensor, int]:
    """Summed loss and count of several batches."""
    losses = [model(batch) for batch in batches]
    return torch.stack([loss.total for loss in losses]).sum(), sum(loss.count for loss in losses)


class TinyLoader:
    """Steps of mixed batches as a pure function of the step: (start, stop) -> micro-batches of this rank.

    Slice m * world + r of a step goes to rank r as micro-batch m, as in the real loader.
    """

    def __init__(self, rank: int = 0, world: int = 1, accumulate: int = 1, slices: int = 4) -> None:
        self.rank, self.world, self.accumulate, self.slices = rank, world, accumulate, slices

    def __call__(self, start: int, stop: int) -> Iterator[list[Batch]]:
        for step in range(start, stop):
            yield self.batches(step)

    def batches(self, step: int) -> list[Batch]:
        every = [batch_of(rows(17 * step + s, 2, (*MODALITIES, None)[(step + s) % 3])) for s in range(self.slices)]
        return [every[micro * self.world + self.rank] for micro in range(self.accumulate)]


STREAMS = {"visual": 1.0, "language": 0.5}


class JointLoader(TinyLoader):
    """Steps of two streams in turn, with media and text-only, whose micro-batches have different numbers of tokens."""

    def batches(self, step: int) -> list[Batch]:
        return [
            replace(batch_of(rows(seed, 1 + (seed + number) % 3, (kind, None)[number])), stream=stream)
            for micro in range(self.accumulate)
            for number, stream in enumerate(STREAMS)
            for seed in [17 * step + micro * self.world + self.rank]
            for kind in [MODALITIES[seed % 2]]
        ]
