"""The micro-batches of a planned run: their sizes for the operations of a step, and the largest for its memory."""

from __future__ import annotations

import io
import math
import wave
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from chatbridge.datasets.batching import Batching
from chatbridge.datasets.order.mixture import Draw, Mixture, split
from chatbridge.datasets.packing import fill_rows
from chatbridge.datasets.piece_counts import piece_count_of
from chatbridge.experiment.plan.sources import PlannedData, Sized
from chatbridge.processors.media_processor import taking
from chatbridge.runners.config import RunConfig
from chatbridge.runners.planned_step.synthetic_batch import PlannedBatch

NUM_MEASURED = 1024  # conversations per source (or of the mixture) whose lengths form micro-batches
ALL = "all sources"  # the name of the kind whose micro-batches hold several sources


@dataclass(frozen=True)
class Kind:
    """Micro-batches of one kind: of one source where units have one source, of one stream in mix "joint", of the whole
    mixture otherwise.

    share         of the steps; in mix "joint" every step has all kinds, each with a share of 1
    conversations of a step over all ranks
    shapes        of some micro-batches of one rank
    tokens        mean positions of a conversation; points: supervised ones; padding: share of positions
    largest       the micro-batch with the most positions and media that a long run will meet
    tokens_of     source -> mean positions of a conversation of it
    """

    name: str
    share: float
    conversations: int
    shapes: tuple[PlannedBatch, ...]
    tokens: float
    points: float
    padding: float
    largest: PlannedBatch | None
    tokens_of: Mapping[str, float] = field(default_factory=dict)


def item_shape(processor: Any, modality: str) -> tuple[tuple[int, ...], torch.dtype]:
    """Shape and dtype of one media item as this processor makes it, tried on a blank one.

    raises   ValueError for a modality whose files are not known here
    """
    known: tuple[int, ...] | None = getattr(processor, "item_shape", None)
    if known is not None:
        return known, torch.float32
    blanks: dict[str, Any] = {
        "image": torch.zeros(3, 64, 64, dtype=torch.uint8),
        "video": torch.zeros(max(1, getattr(processor, "count", 1)), 3, 64, 64, dtype=torch.uint8),
        "audio": _silence(),
    }
    if modality not in blanks:
        raise ValueError(f"the shape of {modality} is not known before an item was read")
    made = processor(blanks[modality], np.random.default_rng(0))
    return tuple(made.shape), made.dtype


def _silence() -> bytes:
    """A second of silence as a WAV file."""
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(bytes(32_000))
    return stream.getvalue()


@dataclass(frozen=True)
class Batches:
    """Draws -> the shape of their micro-batch.

    processors   modality -> its processor for training
    features     modality -> N and W of a piece, of modalities whose features come from a cache
    """

    data: PlannedData
    batching: Batching
    processors: Mapping[str, Any]
    features: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    sums_pairs: bool = False  # packed rows attend to their own conversations only
    _items: dict[Any, tuple[tuple[int, ...], torch.dtype]] = field(default_factory=dict)

    def kinds(self, run: RunConfig, ranks: int, count: int = NUM_MEASURED) -> list[Kind]:
        """The kinds of micro-batches of a run. count: conversations whose lengths are measured, of each kind"""
        mixture = self.data.mixture
        if mixture.mix == "sample":
            steps = range(max(1, count // mixture.global_batch))
            draws = [draw for step in steps for draw in mixture.draws(step)]
            drawn = [name for name in mixture.names if mixture.shares[name]]
            name = drawn[0] if len(drawn) == 1 else ALL
            return [self._kind(name, 1.0, mixture.global_batch, draws, run, ranks)]
        if mixture.mix == "joint":
            return [self._stream(name, part, run, ranks, count) for name, part in mixture.streams.items()]
        found = []
        for name in mixture.names:
            if mixture.shares[name]:
                size = mixture.per_unit[name] if mixture.mix == "step" else mixture.global_batch
                draws = self.data.draws_of(name, max(1, count // size) * size)
                found.append(self._kind(name, mixture.shares[name], size, draws, run, ranks))
        return found

    def _stream(self, name: str, part: Mixture[Any], run: RunConfig, ranks: int, count: int) -> Kind:
        steps = range(max(1, count // part.global_batch))
        draws = [draw for step in steps for draw in part.draws(step)]
        return self._kind(f"stream {name}", 1.0, part.global_batch, draws, run, ranks)

    def _kind(self, name: str, share: float, size: int, draws: list[Draw], run: RunConfig, ranks: int) -> Kind:
        num_slices = ranks * run.accumulate
        slices = list(self._slices(draws, size, num_slices))
        known = [one for one in self.data.sized(draws) if one.length]
        shapes = tuple(shape for one in slices if (shape := self.shape(one)) is not None)
        positions = sum(one.rows * one.length for one in shapes)
        held = sum(sized.length for one in slices for sized in self.data.sized(one)) if shapes else 0
        return Kind(
            name, share, size, shapes,
            float(np.mean([one.length for one in known])) if known else 0.0,
            float(np.mean([one.points for one in known])) if known else 0.0,
            1 - held / positions if positions else 0.0,
            self._largest(shapes, slices),
            self._tokens_of(draws),
        )  # fmt: skip

    def _tokens_of(self, draws: Sequence[Draw]) -> dict[str, float]:
        lengths: dict[str, list[int]] = {}
        for draw, one in zip(draws, self.data.sized(draws), strict=True):
            if one.length:
                lengths.setdefault(draw.source, []).append(one.length)
        return {name: float(np.mean(known)) for name, known in lengths.items()}

    def _slices(self, draws: Sequence[Draw], size: int, num_slices: int) -> Iterator[list[Draw]]:
        """The micro-batches of all ranks."""
        window = size * (self.batching.window if self.batching.kind == "grouped" else 1)
        for start in range(0, len(draws), window):
            part = list(draws[start : start + window])
            if self.batching.kind == "grouped":
                sizes = dict(zip(part, self.data.sized(part), strict=True))
                part.sort(key=lambda draw: -sizes[draw].length)
            yield from split(part, 0, 1, max(1, num_slices * len(part) // size))

    def shape(self, draws: Sequence[Draw]) -> PlannedBatch | None:
        """The micro-batch of some draws; None when a length is not known."""
        sized = self.data.sized(draws)
        if not all(one.length for one in sized):
            return None
        lengths = [one.length for one in sized]
        rows = [[number] for number in range(len(lengths))]
        if self.batching.kind == "packed":
            rows = fill_rows(lengths, self.batching.token_budget)
        longest = max(sum(lengths[number] for number in row) for row in rows)
        return self._shape(draws, sized, len(rows), longest)

    def _shape(self, draws: Sequence[Draw], sized: Sequence[Sized], rows: int, length: int) -> PlannedBatch:
        media, pixels = self._media(draws, sized)
        is_packed = rows < len(draws)
        return PlannedBatch(
            rows=rows, length=length, points=sum(one.points for one in sized), media=media, pixel_bytes=pixels,
            conversations=len(draws), is_packed=is_packed, cached=frozenset(self.features.keys() & media.keys()),
            frames={name: size[1] // self.features[name][0] for name, size in media.items() if name in self.features},
            pairs=float(sum(one.length**2 for one in sized)) if is_packed and self.sums_pairs else None,
        )  # fmt: skip

    def _media(
        self, draws: Sequence[Draw], sized: Sequence[Sized]
    ) -> tuple[dict[str, tuple[int, ...]], frozenset[str]]:
        counts, kinds = dict[str, float](), {}
        for draw, one in zip(draws, sized, strict=True):
            source: Any = self.data.mixture.sources[draw.source]
            for modality in source.modalities:
                own = piece_count_of(source.config, modality)
                processor = self.processors[modality]
                kinds[modality] = taking(processor, own.count) if own is not None else processor
                usual = getattr(source, "num_media", 1)
                number = usual if one.media is None else one.media.get(modality, 0)
                counts[modality] = counts.get(modality, 0) + number
        shapes = {name: self._item(kinds[name], name) for name, number in counts.items() if number}
        pixels = frozenset(name for name, (_, kind) in shapes.items() if kind == torch.uint8)
        return {name: (math.ceil(counts[name]), *shapes[name][0]) for name in sorted(shapes)}, pixels

    def _item(self, processor: Any, modality: str) -> tuple[tuple[int, ...], torch.dtype]:
        if modality in self.features:
            num_tokens, width = self.features[modality]
            return (getattr(processor, "count", 1) * num_tokens, width), torch.bfloat16
        key = (modality, getattr(processor, "count", 1))
        if key not in self._items:
            self._items[key] = item_shape(processor, modality)
        return self._items[key]

    def _largest(self, shapes: Sequence[PlannedBatch], slices: Sequence[Sequence[Draw]]) -> PlannedBatch | None:
        """The largest of the shapes, as long as the longest conversation of its sources."""
        if not shapes:
            return None
        largest = max(shapes, key=volume)
        names = {draw.source for one in slices for draw in one}
        seen = dict.fromkeys(names, 0)
        for one in slices:
            for draw, sized in zip(one, self.data.sized(one), strict=True):
                seen[draw.source] = max(seen[draw.source], sized.length)
        longest = max(self.data.longest(name, seen[name]) for name in names)
        if largest.is_packed:  # rows are full already
            return replace(largest, length=max(largest.length, longest))
        grown = longest - largest.length
        return largest if grown <= 0 else replace(largest, length=longest, points=largest.points + grown)


def volume(shape: PlannedBatch) -> float:
    """A rough order of memory: positions, and values of media."""
    return shape.rows * shape.length * 1e4 + sum(float(np.prod(size)) for size in shape.media.values())
