"""The loss of a batch by data source."""

from __future__ import annotations

import torch
from torch import Tensor

from chatbridge.common.types import Batch


def per_source(losses: Tensor, batch: Batch) -> dict[str, tuple[Tensor, int]]:
    """The loss sum and the number of supervised points of each data source.

    losses   float[S], one per supervised point
    returns  source -> (float[], count); counts come from the batch, so nothing waits for the device
    """
    if not batch.sources:
        return {}
    counts = batch.num_points or _counted(batch)
    sums = losses.new_zeros(len(batch.sources)).index_add_(0, source_of_point(batch), losses)
    found: dict[str, tuple[Tensor, int]] = {}
    for source, loss, count in zip(batch.sources, sums.unbind(), counts, strict=True):
        before = found.get(source)
        found[source] = (loss, count) if before is None else (before[0] + loss, before[1] + count)
    return found


def source_of_point(batch: Batch) -> Tensor:
    """int64[S], the index into batch.sources of each supervised point"""
    return batch.predict_at // batch.ids.shape[1] if batch.source_of_point is None else batch.source_of_point


def _counted(batch: Batch) -> tuple[int, ...]:
    return tuple(torch.bincount(source_of_point(batch).cpu(), minlength=len(batch.sources)).tolist())
