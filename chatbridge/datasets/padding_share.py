"""How many positions of a run's batches are padding, from the lengths of its conversations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from chatbridge.datasets.batching import Batching, BatchingKind
from chatbridge.datasets.draw_lengths import UNKNOWN
from chatbridge.datasets.order.grouping import GroupedOrder, Lengths
from chatbridge.datasets.order.mixture import Draw, Mixture, split
from chatbridge.datasets.packing import fill_rows

NUM_MEASURED = 4096  # conversations
MIN_WINDOWS = 8  # windows of steps among them, so that most sources occur where a step has one source


@dataclass(frozen=True)
class PaddingShare:
    """Positions of some micro-batches, and how many of them hold a token."""

    conversations: int = 0
    positions: int = 0
    tokens: int = 0
    rows: int = 0

    @property
    def share(self) -> float:
        return 1 - self.tokens / self.positions if self.positions else 0.0

    def __add__(self, other: PaddingShare) -> PaddingShare:
        return PaddingShare(
            self.conversations + other.conversations,
            self.positions + other.positions,
            self.tokens + other.tokens,
            self.rows + other.rows,
        )


def padding_of(lengths: Sequence[int], batching: Batching) -> PaddingShare:
    """The padding of one micro-batch of conversations with these lengths."""
    rows = [[number] for number in range(len(lengths))]
    if batching.kind == "packed":
        rows = fill_rows(lengths, batching.token_budget)
    sizes = [sum(lengths[number] for number in row) for row in rows]
    return PaddingShare(len(lengths), max(sizes, default=0) * len(rows), sum(sizes), len(rows))


def measured_padding(
    mixture: Mixture[Any], lengths: Lengths, batching: Batching, num_slices: int, steps: Iterable[int]
) -> PaddingShare:
    """The padding in some steps over all ranks, without micro-batches that hold a conversation of unknown length.

    num_slices   micro-batches of a step, over all ranks; with streams, of each
    """
    slices = slices_of(mixture, lengths, batching, num_slices)
    found = PaddingShare()
    for step in steps:
        for draws in slices(step):
            own = lengths(draws)
            if UNKNOWN not in own:
                found += padding_of(own, batching)
    return found


def slices_of(
    mixture: Mixture[Any], lengths: Lengths, batching: Batching, num_slices: int
) -> Callable[[int], list[list[Draw]]]:
    """Step -> the draws of its micro-batches, over all ranks and streams."""
    parts = [_slices_of_stream(part, lengths, batching, num_slices) for part in mixture.streams.values()]
    return lambda step: [draws for part in parts for draws in part(step)]


def _slices_of_stream(
    part: Mixture[Any], lengths: Lengths, batching: Batching, num_slices: int
) -> Callable[[int], list[list[Draw]]]:
    if batching.kind == "grouped":
        return GroupedOrder(part, lengths, num_slices, batching.window)
    return lambda step: split(part.draws(step), 0, 1, num_slices)


def padding_lines(
    mixture: Mixture[Any], lengths: Lengths, batching: Batching, num_slices: int, max_steps: int
) -> Iterator[str]:
    """Lines of a plan: the batching, its padding in some steps of the run, and that of the other batchings."""
    chosen = measured_steps(mixture.global_batch, batching.window, max_steps)
    remembered = _Remembered(lengths)
    kinds = {kind: replace(batching, kind=kind) for kind in get_args(BatchingKind)}
    found = {kind: measured_padding(mixture, remembered, one, num_slices, chosen) for kind, one in kinds.items()}
    yield {
        "padded": "padded: every conversation has a row, as long as the longest of its micro-batch",
        "grouped": f"grouped: sorted by length inside windows of {batching.window} step{'s' * (batching.window > 1)}",
        "packed": f"packed: conversations share rows of at most {batching.token_budget:,} positions",
    }[batching.kind]
    own = found[batching.kind]
    if not own.positions:
        yield "padding not measured: the lengths of remote shards and of unreadable records are not known"
        return
    others = ", ".join(f"{kind} {one.share:.1%}" for kind, one in found.items() if kind != batching.kind)
    yield f"{own.share:.1%} of the positions are padding ({others}), measured on {own.conversations:,} conversations"
    if batching.kind == "packed":
        yield f"{own.conversations / own.rows:.1f} conversations per row, rows of {own.positions / own.rows:,.0f}"


def measured_steps(global_batch: int, window: int, max_steps: int) -> list[int]:
    """Steps of whole windows, evenly spaced over the run; all of a short run."""
    num_windows = max(MIN_WINDOWS, NUM_MEASURED // (global_batch * window))
    firsts = {at * max_steps // num_windows // window * window for at in range(num_windows)}
    return [step for first in sorted(firsts) for step in range(first, min(first + window, max_steps))]


class _Remembered:
    """Lengths that are measured once per draw."""

    def __init__(self, lengths: Lengths):
        self._lengths = lengths
        self._found: dict[Draw, int] = {}

    def __call__(self, draws: Sequence[Draw]) -> list[int]:
        new = [draw for draw in draws if draw not in self._found]
        self._found.update(zip(new, self._lengths(new), strict=True))
        return [self._found[draw] for draw in draws]
