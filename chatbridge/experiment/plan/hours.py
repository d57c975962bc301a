"""Operations of a step, and the hours that a run takes at a stated share of the rate of a GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chatbridge.experiment.plan.micro_batches import Kind
from chatbridge.models.flops import BatchShape, StepFlops, total
from chatbridge.models.flops_parts import Flops
from chatbridge.runners.gpus import GPU


@dataclass(frozen=True)
class Work:
    """Operations of a step of one rank, on average over the run.

    parts   component -> operations; of all micro-batches of the step
    kinds   kind of micro-batch -> operations of a step of that kind
    """

    parts: Mapping[str, Flops]
    kinds: Mapping[str, Flops]

    @property
    def step(self) -> Flops:
        return total(self.parts)


def work_of(kinds: Sequence[Kind], flops: StepFlops, accumulate: int) -> Work:
    """The mean over the kinds, weighted by their share of the steps. Kinds of unknown length count as the others do."""
    known = [one for one in kinds if one.shapes]
    shares, of_step = sum(one.share for one in known), max(1, round(sum(one.share for one in kinds)))  # kinds per step
    parts: dict[str, Flops] = {}
    by_kind: dict[str, Flops] = {}
    for one in known:
        whole = flops(together(one.shapes))
        mean = {name: cost * (accumulate / len(one.shapes)) for name, cost in whole.items()}
        by_kind[one.name] = total(mean)
        for name, cost in mean.items():
            parts[name] = parts.get(name, Flops()) + cost * (one.share / shares * of_step)
    return Work(parts, by_kind)


def together(shapes: Sequence[BatchShape]) -> BatchShape:
    """One shape with the operations of several with the same kinds of media: they are linear in everything it sums."""
    media: dict[str, tuple[int, ...]] = {}
    for shape in shapes:
        for name, size in shape.media.items():
            media[name] = (media[name][0] + size[0] if name in media else size[0], *size[1:])
    return BatchShape(
        rows=sum(one.rows * one.length for one in shapes), length=1, points=sum(one.points for one in shapes),
        media=media, cached=shapes[0].cached, pairs=float(sum(one.num_pairs for one in shapes)), batches=len(shapes),
    )  # fmt: skip


def hours(work: Work, steps: int, gpu: GPU, mfu: float) -> float:
    """Hours of a run: every rank computes its share of each step. mfu: share of the GPU's rate that the model's own
    operations reach; repeated forward passes take their time on top."""
    return work.step.executed * steps / (gpu.flops * mfu) / 3600
