"""How the conversations of a step become the micro-batches of a rank, so that few positions are padding.

padded    as dealt, padded to the longest of the micro-batch
grouped   sorted by length inside a window of steps, so that a micro-batch has similar lengths (order/grouping.py)
packed    as dealt; the conversations of a micro-batch share rows of at most `token_budget` positions (packing.py)

`padded` and `packed` give every micro-batch the same conversations, and `grouped` with a window of one step gives them
to the same step, so the gradient of a step is the same with all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from chatbridge.common.types import Batch, Failure
from chatbridge.datasets.collate import LayoutLike, stack
from chatbridge.datasets.draw_lengths import DrawLengths
from chatbridge.datasets.order.grouping import GroupedOrder
from chatbridge.datasets.order.mixture import Draw, Mixture, split
from chatbridge.datasets.packing import fill_rows, pack
from chatbridge.datasets.sample_reader import ReadSample
from chatbridge.datasets.shared_lengths import LengthTable, SharedLengths

BatchingKind = Literal["padded", "grouped", "packed"]
USUAL_BUDGET = 4096  # positions of a row where neither the YAML nor a shorter context length limits it


@dataclass(frozen=True)
class Batching:
    """The batching of a run.

    window        grouped: steps that are sorted together
    token_budget  packed: most positions of a row; a longer conversation has a row of its own
    """

    kind: BatchingKind = "padded"
    window: int = 1
    token_budget: int = USUAL_BUDGET


PADDED = Batching()


def default_token_budget(context_length: int | None, longest: int | None) -> int:
    """The context length, at most 4096, but never less than the longest sequence.

    Attention with a dense mask costs the square of the row, so a row is not as long as a context of 100,000 allows.
    """
    return max(min(context_length or longest or USUAL_BUDGET, USUAL_BUDGET), longest or 0)


class MicroBatchDraws:
    """Step -> the draws of each micro-batch of one rank. Picklable.

    With several streams (mix "joint") they take turns: the first micro-batch of every stream, then the second of each.

    table   of lengths that are shared with other ranks; None: the workers of this rank share one
    """

    def __init__(
        self,
        mixture: Mixture[Any],
        layout: Any,
        seed: int,
        batching: Batching,
        rank: int,
        world: int,
        accumulate: int,
        table: LengthTable | None = None,
    ):
        self.mixture, self.rank, self.world, self.accumulate = mixture, rank, world, accumulate
        self.orders: dict[str, GroupedOrder] = {}  # by stream
        if batching.kind == "grouped":
            measure = DrawLengths(mixture, layout, seed)
            lengths = SharedLengths(measure, mixture.names, table or LengthTable(), rank, world)
            self.orders = {
                name: GroupedOrder(part, lengths, world * accumulate, batching.window)
                for name, part in mixture.streams.items()
            }

    def __call__(self, step: int) -> list[tuple[str, list[Draw]]]:
        """The stream and the draws of each micro-batch.

        raises   ValueError when the conversations do not divide into ranks and micro-batches
        """
        micros = {name: self._of_stream(name, part, step) for name, part in self.mixture.streams.items()}
        return [(name, own[number]) for number in range(self.accumulate) for name, own in micros.items()]

    def _of_stream(self, name: str, part: Mixture[Any], step: int) -> list[list[Draw]]:
        if name in self.orders:
            return self.orders[name](step)[self.rank :: self.world]  # slice m * world + r is micro-batch m of rank r
        return split(part.draws(step), self.rank, self.world, self.accumulate)


def to_batch(read: Sequence[ReadSample], batching: Batching, layout: LayoutLike, stream: str = "") -> Batch:
    """The batch of one micro-batch of a stream: a row per conversation, or rows of several."""
    failures: tuple[Failure, ...] = tuple(failure for one in read for failure in one.failures)
    samples, sequences = [one.sample for one in read], [one.sequence for one in read]
    if batching.kind == "packed":
        rows = fill_rows([len(sequence) for sequence in sequences], batching.token_budget)
        samples = [samples[number] for row in rows for number in row]
        sequences = [pack([sequences[number] for number in row]) for row in rows]
    return replace(stack(samples, sequences, layout.tokenizer.pad_id, failures), stream=stream)
