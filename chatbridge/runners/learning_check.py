"""A run that cannot learn ends early: its gradient is exactly zero, step after step, from the first one on.

Rounding never makes a gradient exactly zero; a trainable tensor that the loss does not reach does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from chatbridge.common.dist import Dist
from chatbridge.common.errors import TrainingError
from chatbridge.models.component_tensors import component_of
from chatbridge.runners.progress import StepResult

STEPS = 10  # at least so many in a row
CONVERSATIONS = 1000  # and so many: even if 1 in 100 had media, the chance to meet none would be 1 in 20,000


@dataclass
class _Seen:
    """What the steps with a zero gradient held, on one rank."""

    sources: set[str] = field(default_factory=set)
    modalities: set[str] = field(default_factory=set)
    conversations: int = 0

    def add(self, other: _Seen) -> None:
        self.sources |= other.sources
        self.modalities |= other.modalities
        self.conversations += other.conversations


class LearningCheck:
    """Give it every step of a run from step 0 on; after the first gradient that is not zero it looks no more.

    trained    names of the tensors that train
    sources    names of the sources of the data: one that has not been drawn yet may bring a gradient
    max_steps  of the run: at its end nothing is waited for
    """

    def __init__(self, trained: Iterable[str], sources: Iterable[str], max_steps: int, dist: Dist) -> None:
        self.parts = sorted({component_of(name) for name in trained})
        self.sources = set(sources)
        self.max_steps = max_steps
        self.dist = dist
        self.steps = 0
        self.seen = _Seen()  # on all ranks

    def update(self, result: StepResult) -> bool:
        """Whether to go on looking. Every rank calls it.

        raises  TrainingError with the reason when the run cannot learn
        """
        if result.grad_norm != 0.0:
            return False
        self.steps += 1
        own = _Seen()
        for batch in result.batches:
            held = {modality for modality, media in batch.media.items() if len(media)}
            own.add(_Seen(set(batch.sources), held, len(batch.ids)))
        for seen in self.dist.gather(own):
            self.seen.add(seen)
        if result.step == self.max_steps or self._has_seen_enough():
            told = f"step {result.step}: the gradient was exactly zero in all {self.steps} steps: {self._reason()}"
            raise TrainingError(told if self.dist.is_main else "stopped together with rank 0, which says why")
        return True

    def _has_seen_enough(self) -> bool:
        is_every_source = self.sources <= self.seen.sources
        return self.steps >= STEPS and self.seen.conversations >= CONVERSATIONS and is_every_source

    def _reason(self) -> str:
        parts, seen = ", ".join(self.parts), self.seen
        what = f"the {seen.conversations:,} conversations (sources: {', '.join(sorted(seen.sources)) or 'unnamed'})"
        if not seen.modalities and "language" not in self.parts:
            return (
                f"none of {what} has media, and only {parts} can train, which text alone does not reach. Add a source "
                "with media, or let the language model train too (model.trainable)"
            )
        held = f"hold {', '.join(sorted(seen.modalities))}" if seen.modalities else "hold no media"
        return (
            f"{what} {held}, but the loss does not depend on what trains ({parts}). Check that model.trainable names "
            "parts on the routes of these media (model.routes), that the media come before the answers, and that no "
            "frozen layer multiplies them by zero"
        )
