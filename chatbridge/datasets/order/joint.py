"""Several streams of data at once (mix "joint"): every step has conversations of each, every micro-batch of one.

A stream is a mixture of its own sources, drawn conversation by conversation. One stream defines the epoch, the others
are endless: each of their sources starts its next pass when it is through. The order of a stream is a pure function of
(seed, stream, step), so streams do not influence each other, and a resume is an integer here too.

A rank reads, `accumulate` times per step, one micro-batch of each stream in turn. Source: the joint training of
Multimodal-GPT (train_one_epoch), which takes a visual batch and a language batch in every iteration.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any, TypeVar

from chatbridge.datasets.order.mixture import Draw, Mixture, Sized

Source = TypeVar("Source", bound=Sized)


class JointMixture(Mixture[Source]):
    """Draws from several mixtures, all of them in every step.

    streams   name -> its mixture, in the order of the micro-batches; no source is in two of them
    epoch     the stream whose samples an epoch counts
    """

    def __init__(self, streams: Mapping[str, Mixture[Source]], epoch: str):
        parts = list(streams.values())
        self._streams = dict(streams)
        self.epoch = epoch
        self.mix, self.stream, self.seed = "joint", "", parts[0].seed
        self.global_batch = sum(part.global_batch for part in parts)  # conversations of a step, all streams together
        self.sources = _merged([part.sources for part in parts])
        self.names = tuple(sorted(self.sources))
        self.shuffles = _merged([part.shuffles for part in parts])
        self.held_out = _merged([part.held_out for part in parts])
        self.sizes = _merged([part.sizes for part in parts])
        self.stream_of = {name: stream for stream, part in streams.items() for name in part.names}
        shares = {
            name: share * part.global_batch / self.global_batch for part in parts for name, share in part.shares.items()
        }
        self.shares = {name: shares[name] for name in self.names}  # of the conversations
        self.per_unit = dict.fromkeys(self.names, 1)
        self.units_per_step = self.global_batch

    @property
    def streams(self) -> Mapping[str, Mixture[Source]]:
        return self._streams

    def draws(self, step: int) -> list[Draw]:
        """The draws of one step, one stream after the other; `MicroBatchDraws` takes turns between them."""
        return list(chain.from_iterable(part.draws(step) for part in self._streams.values()))

    def counts(self, step: int) -> dict[str, int]:
        found = _merged([part.counts(step) for part in self._streams.values()])
        return {name: found[name] for name in self.names}

    def expected(self, steps: int) -> dict[str, float]:
        found = _merged([part.expected(steps) for part in self._streams.values()])
        return {name: found[name] for name in self.names}


def _merged(parts: list[Any]) -> dict[str, Any]:
    """One mapping of several that share no key."""
    merged = {key: value for part in parts for key, value in part.items()}
    assert len(merged) == sum(map(len, parts)), "a source is in two streams"
    return merged
