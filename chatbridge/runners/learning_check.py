"""Ends a run that cannot learn: its gradient has been exactly zero in every step from the first one on.

Rounding never makes a gradient exactly zero, but it is zero if the loss does not depend on any trainable tensor.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from chatbridge.common.dist import Dist
from chatbridge.common.errors import TrainingError
from chatbridge.models.component_tensors import component_of
from chatbridge.runners import OTHER_RANKS
from chatbridge.runners.progress import StepResult

MIN_STEPS = 10  # with a zero gradient
MIN_CONVERSATIONS = 1000  # if 1 in 100 has media, the probability that none of these does is 1 in 20,000


@dataclass
class _Content:
    """Sources, modalities and number of conversations of the steps with a zero gradient."""

    sources: set[str] = field(default_factory=set)
    modalities: set[str] = field(default_factory=set)
    conversations: int = 0

    def add(self, other: _Content) -> None:
        self.sources |= other.sources
        self.modalities |= other.modalities
        self.conversations += other.conversations


class LearningCheck:
    """Checks the steps of a run from step 0 on, until the first gradient that is not zero.

    trainable  names of the trainable tensors
    sources    names of the data sources; one that has not been sampled yet may still give a gradient
    max_steps  of the run; at its end the run fails even if less was seen
    """

    def __init__(self, trainable: Iterable[str], sources: Iterable[str], max_steps: int, dist: Dist) -> None:
        self.parts = sorted({component_of(name) for name in trainable})
        self.sources = set(sources)
        self.max_steps = max_steps
        self.dist = dist
        self.steps = 0
        self.seen = _Content()  # on all ranks

    def update(self, result: StepResult) -> bool:
        """Whether further steps must be checked. Every rank calls it.

        raises  TrainingError with the reason if the run cannot learn
        """
        if result.grad_norm != 0.0:
            return False
        self.steps += 1
        own = _Content()
        for batch in result.batches:
            modalities = {modality for modality, media in batch.media.items() if len(media)}
            own.add(_Content(set(batch.sources), modalities, batch.num_conversations))
        for seen in self.dist.gather(own):
            self.seen.add(seen)
        if result.step == self.max_steps or self._has_seen_enough():
            message = f"step {result.step}: the gradient was exactly zero in all {self.steps} steps: {self._reason()}"
            raise TrainingError(message if self.dist.is_main else OTHER_RANKS)
        return True

    def _has_seen_enough(self) -> bool:
        is_every_source = self.sources <= self.seen.sources
        return self.steps >= MIN_STEPS and self.seen.conversations >= MIN_CONVERSATIONS and is_every_source

    def _reason(self) -> str:
        parts, seen = ", ".join(self.parts), self.seen
        what = f"the {seen.conversations:,} conversations (sources: {', '.join(sorted(seen.sources)) or 'unnamed'})"
        if not seen.modalities and "language" not in self.parts:
            return (
                f"none of {what} has media, and a text-only loss does not depend on any trainable part ({parts}). Add "
                "a source with media, or make the language model trainable too (model.trainable)"
            )
        has = f"have {', '.join(sorted(seen.modalities))}" if seen.modalities else "have no media"
        return (
            f"{what} {has}, but the loss does not depend on any trainable part ({parts}). Check that model.trainable "
            "matches parts on the routes of these media (model.routes), that the media precede the answers, and that "
            "no frozen layer multiplies them by zero"
        )
