"""The loss on the held-out samples: per source and over all of them, exact per supervised token."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing

import torch
from torch import Tensor, nn

from chatbridge.common.dist import Dist
from chatbridge.common.errors import DataError
from chatbridge.common.log import get_logger
from chatbridge.common.types import Batch
from chatbridge.datasets.validation_loader import HeldOutBatch, HeldOutSamples, load_held_out
from chatbridge.runners import OTHER_RANKS
from chatbridge.runners.step_loss import ONE_STREAM

log = get_logger(__name__)
PREFIX = "validation/"  # of the names of its losses among the scores of a run


class Validator:
    """Computes the validation loss of a model. Every rank calls it at the same step.

    The batches are shared among ranks, every rank runs the same number of forward passes (a sharded model needs that),
    and sums are added over ranks. Dropout is off, and no random number is drawn: the training continues as without it.

    samples      the held-out samples
    num_workers  processes that read and decode ahead, for the time of one validation
    streams      stream -> factor on its mean loss, as in training
    """

    def __init__(
        self,
        model: nn.Module,
        samples: HeldOutSamples,
        dist: Dist,
        num_workers: int = 0,
        streams: Mapping[str, float] = ONE_STREAM,
    ) -> None:
        self.model = model
        self.samples = samples
        self.dist = dist
        self.num_workers = num_workers
        self.streams = streams
        self.has_reported = False
        self.sources = [name for name, held in samples.mixture.held_out.items() if len(held)]

    def run(self) -> dict[str, float]:
        """{"validation/loss": over all tokens, "validation/<source>": ...}, in nats per supervised token.

        With streams validation/loss is the sum of their means, each times its weight, and validation/stream/<name> is
        such a mean; a stream without held-out samples is left out of both.
        A source without a readable sample is absent. Leaves the model in the mode in which it was.
        raises   DataError on every rank when a source cannot be read
        """
        was_training = self.model.training
        self.model.eval()
        sums, unreadable, problem = self._sums()
        self.model.train(was_training)
        problems = dict.fromkeys(one for one in self.dist.gather(problem) if one)
        if problems:
            raise DataError("\n".join(problems) if self.dist.is_main else OTHER_RANKS)
        self._report([line for part in self.dist.gather(unreadable) for line in part])
        self.dist.all_reduce(sums)
        found = {name: (total, count) for name, (total, count) in zip(self.sources, sums.tolist()) if count}
        per_source = {f"{PREFIX}{name}": total / count for name, (total, count) in found.items()}
        return {**self._over_sources(found), **per_source}

    def _over_sources(self, found: Mapping[str, tuple[float, float]]) -> dict[str, float]:
        """The loss over all sources, and that of each stream. found: source -> its summed loss and its tokens"""
        means: dict[str, float] = {}
        for stream, part in self.samples.mixture.streams.items():
            if own := [found[name] for name in part.names if name in found]:
                totals, counts = [sum(column) for column in zip(*own, strict=True)]
                means[stream] = totals / counts
        if not means:
            return {}
        of_streams = {f"{PREFIX}stream/{name}": mean for name, mean in means.items() if name}
        return {f"{PREFIX}loss": sum(self.streams[name] * mean for name, mean in means.items()), **of_streams}

    @torch.no_grad()
    def _sums(self) -> tuple[Tensor, list[str], str | None]:
        """Summed loss and count of this rank, float64[sources, 2]; unreadable samples; the error of its data."""
        sums = torch.zeros(len(self.sources), 2, dtype=torch.float64, device=self.dist.device)
        unreadable: list[str] = []
        problem: str | None = None
        own = range(self.dist.rank, len(self.samples), self.dist.world_size)
        passes = 0
        try:
            with closing(load_held_out(self.samples, own, self.num_workers)) as batches:
                for one in batches:
                    if isinstance(one, DataError):
                        raise one
                    unreadable += [f"{one.source}, {line}" for line in one.unreadable]
                    self._add(sums, one)
                    passes += 1
        except DataError as error:
            problem = str(error)
        if self.dist.world_size > 1:
            for _ in range(-(-len(self.samples) // self.dist.world_size) - passes):
                self.model(_nothing().to(self.dist.device))  # a sharded model waits for every rank
        return sums, unreadable, problem

    def _add(self, sums: Tensor, one: HeldOutBatch) -> None:
        batch = one.batch or _nothing()
        loss = self.model(batch.to(self.dist.device))
        if one.batch is not None:
            row = sums[self.sources.index(one.source)]
            row += torch.stack([loss.total.double(), torch.tensor(loss.count).to(sums)])

    def _report(self, unreadable: list[str]) -> None:
        """Name the samples that are left out, once per process."""
        if unreadable and not self.has_reported:
            listed = "\n".join(f"  {line}" for line in unreadable[:10])
            log.warning("%d held-out samples cannot be read and are left out:\n%s", len(unreadable), listed)
            self.has_reported = True


def _nothing() -> Batch:
    """A batch of one token, whose loss is not used."""
    one = torch.zeros(1, dtype=torch.int64)
    return Batch(ids=one[None], positions=one[None], lengths=one + 1, predict_at=one, target=one)
