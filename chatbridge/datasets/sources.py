"""The data section of a run: which sources, in which proportion, laid out how."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from chatbridge.common.errors import Problem, nearest
from chatbridge.common.schema import Choice, Length, Part, Range
from chatbridge.conversation.templates import TEMPLATES
from chatbridge.datasets.builders import BUILDERS, Dataset
from chatbridge.datasets.mixture import Mixture

SourceChoice = Annotated[Choice[Dataset], Part(BUILDERS)]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What a run reads."""

    sources: Annotated[dict[str, SourceChoice], Length(low=1)]  # name -> a builder with its settings
    template: str | None = None  # chat template; null: the one of the language model
    mix: Literal["sample", "step"] = "sample"  # one source per conversation, or one per step as the published runs
    max_tokens: Annotated[int, Range(low=1)] | None = None  # longest row, media included; null: no limit
    num_workers: Annotated[int, Range(low=0)] = (
        2  # processes per rank that read and decode; results do not depend on it
    )

    def problems(self) -> Iterator[Problem]:
        names = TEMPLATES.names()
        if self.template is not None and self.template not in names:
            message = f"there is no template named {self.template!r}"
            yield Problem("template", message, allowed=names, nearest=nearest(self.template, names))
        if not any(choice.config.weight for choice in self.sources.values()):
            yield Problem("sources", "all weights are 0; give at least one source a weight above 0")

    @property
    def weights(self) -> dict[str, float]:
        return {name: choice.config.weight for name, choice in self.sources.items()}

    @property
    def failure_budgets(self) -> dict[str, float]:
        return {name: choice.config.failure_budget for name, choice in self.sources.items()}


def build_mixture(config: DataConfig, sources: dict[str, Dataset], seed: int, global_batch: int) -> Mixture:
    """The order of a run's data; `global_batch` is conversations per step over all ranks and micro-batches."""
    return Mixture(sources, config.weights, seed, global_batch, config.mix)
