"""From the `data:` section and the opened sources to the mixture of a run: weights, temperature, max_passes."""

from __future__ import annotations

from collections.abc import Mapping

from chatbridge.common.errors import ConfigError, DataError, Problem
from chatbridge.datasets.builders import Dataset
from chatbridge.datasets.config import DataConfig
from chatbridge.datasets.order.mixture import Mixture
from chatbridge.datasets.order.shares import filled, sized_weight, tempered


def build_mixture(
    config: DataConfig,
    sources: Mapping[str, Dataset],
    seed: int,
    global_batch: int,
    *,
    micro_batch: int | None = None,
    max_steps: int | None = None,
) -> Mixture[Dataset]:
    """The mixture of a run.

    global_batch  conversations per step over all ranks and micro-batches, for sources without their own `batch`
    micro_batch   of one rank; needed for mix "micro"
    max_steps     of the run; needed where a source sets max_passes
    raises        ConfigError when max_passes of all sources together do not fill the run
    """
    own = {name: choice.config for name, choice in config.sources.items()}
    sizes = {name: len(sources[name]) for name in own}
    sized = {name: sized_weight(one.weight, one.cap, sizes[name]) for name, one in own.items()}
    weights = tempered(sized, config.temperature)

    def mixture(shares: Mapping[str, float]) -> Mixture[Dataset]:
        return Mixture(sources, shares, seed, global_batch, config.mix, batches=config.batches, micro_batch=micro_batch)

    plain = mixture(weights)
    most = {name: one.max_passes * sizes[name] for name, one in own.items() if one.max_passes is not None}
    if not most:
        return plain
    if max_steps is None:
        raise ValueError("max_passes needs the length of the run; pass max_steps")
    units = max_steps * plain.units_per_step
    limits = {name: conversations / (units * plain.per_unit[name]) for name, conversations in most.items()}
    try:
        return mixture(filled(weights, limits))
    except DataError as error:
        raise ConfigError([_too_few(limits, weights, max_steps, str(error))]) from error


def _too_few(limits: Mapping[str, float], weights: Mapping[str, float], max_steps: int, message: str) -> Problem:
    listed = ", ".join(f"{name} {limits[name]:.1%}" for name in sorted(limits) if weights[name] > 0)
    steps = int(max_steps * sum(limits[name] for name in limits if weights[name] > 0))
    hint = f"raise max_passes, remove it for one source, or set run.max_steps to at most {steps}"
    return Problem("data.sources", f"max_passes leaves too little data: {message} ({listed})", hint=hint)
