"""Sequences of ids and media items for fusions with layers inside the language model, and how they are read whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from chatbridge.common.types import Batch
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.language import GenerateOptions
from chatbridge.models.language.cache import Cache
from chatbridge.models.language.decode import Decoding
from tests.helpers.tiny_models import LANGUAGE, MEDIA

SIZES = {**LANGUAGE["architecture"], "initializer_range": 0.3}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1}
ARCHITECTURES = {
    "llama": SIZES,
    "gpt2": {
        "model_type": "gpt2", "vocab_size": 50, "n_embd": 20, "n_layer": 2, "n_head": 2, "eos_token_id": 2,
        "embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0, "initializer_range": 0.3,
    },
    "qwen2": {**SIZES, **HEADS, "model_type": "qwen2"},
    "gpt_neox": {**SIZES, "model_type": "gpt_neox"},
}  # fmt: skip
IMAGE = 50  # the first id beyond the vocabulary
Row = Sequence[int | tuple[str, int]]  # ids and media items: modality, seed
ROWS: tuple[Row, ...] = (
    (1, 5, ("image", 0), 7, 9, 4),
    (1, ("image", 1), 8, ("audio", 2), 6, 11, 12, 3),
    (1, 9, 4, 30),
    (1, 20, 21, 22, ("image", 3)),
)
TURNS: tuple[Row, ...] = ((7, ("image", 4), 5), (8, 9), (("audio", 5), 13), (14, 15, ("image", 6), 3))
SIX = GenerateOptions(max_new_tokens=6)


def media(modality: str, seed: int) -> Tensor:
    return 3 * torch.randn(MEDIA[modality], generator=torch.Generator().manual_seed(seed))


def batch_of(*rows: Row) -> Batch:
    """Rows padded on the right; the token after each one's second is supervised where there is one."""
    width = max(map(len, rows))
    found: dict[str, list[tuple[Tensor, int]]] = {}
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    for b, row in enumerate(rows):
        for t, one in enumerate(row):
            ids[b, t] = one if isinstance(one, int) else IMAGE
            if not isinstance(one, int):
                found.setdefault(one[0], []).append((media(*one), b * width + t))
    points = [
        b * width + t for b, row in enumerate(rows) for t in range(1, len(row) - 1) if isinstance(row[t + 1], int)
    ]
    return Batch(
        ids=ids, positions=torch.arange(width).repeat(len(rows), 1), lengths=torch.tensor([*map(len, rows)]),
        predict_at=torch.tensor(points), target=ids.flatten()[torch.tensor(points, dtype=torch.long) + 1],
        media={modality: torch.stack([tensor for tensor, _ in items]) for modality, items in found.items()},
        media_slots={modality: torch.tensor([[at] for _, at in items]) for modality, items in found.items()},
    )  # fmt: skip


def states(model: ChatModel, whole: Batch) -> Tensor:
    """float[B, L, D]"""
    rows, context = model.prepared(whole)
    model.fusion.show(context)
    return model.language(rows, whole.positions, whole.segments)


@torch.no_grad()
def read_again(model: ChatModel, row: Row, num_new: int = 6) -> list[int]:
    """A greedy answer without a cache: the whole sequence is read again for every token."""
    answer: list[int] = []
    while len(answer) < num_new:
        hidden = states(model, batch_of((*row, *answer)))[0, -1]
        new = int(model.language.logits(hidden).argmax())
        if new in model.language.end_ids:
            break
        answer.append(new)
    return answer


def further(model: ChatModel, cache: Cache, rows: Sequence[Row]) -> list[Row]:
    """The rows with their answers, at most six tokens each, which `cache` takes in."""
    growing: Any = model.start_generation(batch_of(*rows), SIX, cache=cache)
    while not growing.is_done:
        growing.step()
    return [(*row, *chosen) for row, chosen in zip(rows, growing.chosen, strict=True)]


def assert_asked_further(
    model: ChatModel, cache: Cache, rows: Sequence[Row], turns: Sequence[Row], unread: int
) -> None:
    """The cache holds all but the last `unread` tokens of `rows`: their answers to `turns` are those of whole rows."""
    asked = [(*row[-unread:], *turn) for row, turn in zip(rows, turns, strict=True)]
    answers = [row[len(turn) :] for row, turn in zip(further(model, cache, asked), asked, strict=True)]
    expected = [read_again(model, (*row, *turn)) for row, turn in zip(rows, turns, strict=True)]
    assert [[new for new in answer if new not in model.language.end_ids] for answer in answers] == expected


def check_admission(model: ChatModel, rows: Sequence[Row], turns: Sequence[Row] = TURNS) -> None:
    """Rows that join a running decoding at any step, and their next turns after them, are answered as alone."""
    decoding = Decoding(model.language)
    expected = {row: model.generate(batch_of(row), SIX)[0] for row in rows}
    running: dict[int, Row] = {}
    waiting: list[tuple[Row, Cache | None]] = [(row, None) for row in rows]
    num_asked = 0
    while waiting or not decoding.is_done:
        for _ in range(num_asked % 3):
            if waiting:
                row, cache = waiting.pop(0)
                prompt = model.prompts(batch_of(row[0 if cache is None else cache.length :]), cache)
                running[decoding.admit(prompt, SIX, cache=cache)] = row
        num_asked += 1
        decoding.step()
        for number in [one for one in running if one not in decoding.unfinished]:
            row, of_row = running.pop(number), decoding.rows[number]
            assert of_row.answer == expected[row], row
            cache = decoding.release(number)
            asked = [(*row, *of_row.chosen, *turns[(num_asked + at) % len(turns)]) for at in range(len(turns))]
            if row in rows:
                whole = next(one for one in asked if model.fusion.keeps_states(*changes(row, one)))
                expected[whole] = model.generate(batch_of(whole), SIX)[0]
                waiting.append((whole, cache))
    assert len(expected) > len(rows)


def changes(before: Row, after: Row) -> tuple[int, int, int]:
    """See Fusion.keeps_states: media items before, none dropped, those added."""
    numbers = [sum(not isinstance(one, int) for one in row) for row in (before, after)]
    return numbers[0], 0, numbers[1] - numbers[0]
