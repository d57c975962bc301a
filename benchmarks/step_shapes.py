"""The sizes of the networks of `benchmarks.step`, and batches whose lengths are like those of real data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from chatbridge.common.types import Batch, Sample
from chatbridge.conversation.messages import Media, Text, assistant, user
from chatbridge.conversation.token_sequence import MediaSlot, TokenSequence
from chatbridge.datasets.collate import stack
from chatbridge.datasets.packing import fill_rows, pack

Kind = Literal["captions", "dialogues", "video"]
Drawn = tuple[Sample, TokenSequence]
SPREAD = 1.0
LONGEST = 160  # tokens of a text
PACKED_ROW = 256  # positions of a packed row: on a CPU, a dense mask costs the square of it


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """ViT 6 x 256, Q-Former 6 x 256 with 32 queries, Llama 8 x 512 with a vocabulary of 32,000."""

    vision_depth: int = 6
    vision_width: int = 256
    vision_heads: int = 4
    image_size: int = 224
    patch: int = 14
    bridge_depth: int = 6
    bridge_width: int = 256
    bridge_heads: int = 4
    num_queries: int = 32
    depth: int = 8
    width: int = 512
    heads: int = 8
    mlp_width: int = 1376
    vocabulary: int = 32_000
    frames: int = 4

    @property
    def num_features(self) -> int:
        """N, the class token included."""
        return (self.image_size // self.patch) ** 2 + 1


SMALL = Shapes(
    vision_depth=1, vision_width=32, vision_heads=2, image_size=28, bridge_depth=2, bridge_width=32, bridge_heads=2,
    num_queries=4, depth=2, width=48, heads=4, mlp_width=64, vocabulary=500, frames=2,
)  # fmt: skip


def samples(
    kind: Kind,
    count: int,
    shapes: Shapes,
    seed: int,
    spread: float = SPREAD,
    as_bytes: bool = False,
    longest: int = LONGEST,
) -> list[Drawn]:
    """Random conversations: a caption (14 tokens in the median), or 1 to 3 turns whose answers have 35 and whose
    questions have 15. Lengths are log-normal.

    spread   standard deviation of the logarithm of a caption's or answer's length. Captions of CC12M have 0.71 (mean
             20.2 words, standard deviation 16.3: Changpinyo et al. 2021); alt texts of LAION, most of the published
             mix, vary more
    longest  tokens of a text, above which it is cut; the reference cuts captions at 32 (max_txt_len)
    as_bytes  pixels are uint8, which the model normalises
    """
    draw = np.random.default_rng(seed)
    return [_sample(kind, f"{kind} {number}", shapes, draw, spread, as_bytes, longest) for number in range(count)]


def _sample(
    kind: Kind, name: str, shapes: Shapes, draw: np.random.Generator, spread: float, as_bytes: bool, longest: int
) -> tuple[Sample, TokenSequence]:
    modality, num_frames = ("video", (shapes.frames,)) if kind == "video" else ("image", ())
    sequence = TokenSequence(ids=[1] + [0] * shapes.num_queries)
    sequence.media_slots = [MediaSlot(modality, 0, 1, shapes.num_queries)]
    for _ in range(int(draw.integers(1, 4)) if kind == "dialogues" else 1):
        if kind == "dialogues":
            sequence.ids += _text(draw, 15, 0.5, shapes, longest)
        answer = [*_text(draw, 35 if kind == "dialogues" else 14, spread, shapes, longest), 2]
        sequence.predict_at += range(len(sequence.ids) - 1, len(sequence.ids) + len(answer) - 1)
        sequence.target += answer
        sequence.ids += answer
    sequence.positions = list(range(len(sequence.ids)))
    size = (*num_frames, 3, shapes.image_size, shapes.image_size)
    pixels = draw.integers(0, 256, size, np.uint8) if as_bytes else draw.standard_normal(size, dtype=np.float32)
    conversation = (user(Media(modality, name), Text("")), assistant(""))
    return Sample(name, kind, conversation, (torch.from_numpy(pixels),)), sequence


def _text(draw: np.random.Generator, median: float, sigma: float, shapes: Shapes, longest: int) -> list[int]:
    length = min(max(1, round(float(np.exp(draw.normal(np.log(median), sigma))))), longest)
    return draw.integers(3, shapes.vocabulary, length).tolist()


def padded(drawn: Sequence[Drawn], size: int) -> list[Batch]:
    """Batches of `size` conversations in the given order, padded to the longest."""
    parts = [drawn[start : start + size] for start in range(0, len(drawn), size)]
    return [stack([sample for sample, _ in part], [sequence for _, sequence in part], pad_id=0) for part in parts]


def grouped(drawn: Sequence[Drawn], size: int) -> list[Batch]:
    """The same conversations, sorted by length over all batches (`data.batching: grouped` with a window of them)."""
    return padded(sorted(drawn, key=lambda one: -len(one[1])), size)


def packed(drawn: Sequence[Drawn], size: int) -> list[Batch]:
    """Batches of the same conversations, several in a row of at most PACKED_ROW positions (`data.batching: packed`)."""
    batches = []
    for start in range(0, len(drawn), size):
        part = drawn[start : start + size]
        rows = fill_rows([len(sequence) for _, sequence in part], PACKED_ROW)
        sequences = [pack([part[number][1] for number in row]) for row in rows]
        batches.append(stack([part[number][0] for row in rows for number in row], sequences, pad_id=0))
    return batches


def pairs(batch: Batch) -> float:
    """Pairs of positions of one conversation, which attention needs; those of a padded row are all of its square."""
    if batch.segments is None:
        return float(batch.ids.shape[0] * batch.ids.shape[1] ** 2)
    rows = torch.arange(len(batch.ids))[:, None] * batch.ids.shape[1]
    _, counts = (batch.segments.conversation + rows).unique(return_counts=True)
    return float(counts.double().square().sum())


def padding(batches: Sequence[Batch]) -> float:
    """The share of positions that are padding."""
    return 1.0 - sum(int(one.lengths.sum()) for one in batches) / sum(one.ids.numel() for one in batches)


def reference_inputs(batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What the other two networks take: media, ids int64[B, L], is_slot and is_token bool[B, L], labels int64[B, L]"""
    (media,), (slots,) = batch.media.values(), batch.media_slots.values()
    is_slot = torch.zeros(batch.ids.shape, dtype=torch.bool)
    is_slot.view(-1)[slots.flatten()] = True
    is_token = torch.arange(batch.ids.shape[1]) < batch.lengths[:, None]
    labels = torch.full(batch.ids.shape, -100)
    labels.view(-1)[batch.predict_at + 1] = batch.target
    return cast("Tensor", media), batch.ids, is_slot, is_token, labels
