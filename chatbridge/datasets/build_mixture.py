"""From the `data:` section and the opened sources to the mixture of a run: weights, temperature, max_passes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from chatbridge.common.errors import ConfigError, DataError, Problem
from chatbridge.datasets.builders import Dataset
from chatbridge.datasets.config import DataConfig
from chatbridge.datasets.order.held_out import can_hold_out
from chatbridge.datasets.order.joint import JointMixture
from chatbridge.datasets.order.mixture import Mixture
from chatbridge.datasets.order.shares import filled, sized_weight, tempered
from chatbridge.datasets.order.shuffle import shuffle_of


def build_mixture(
    config: DataConfig,
    sources: Mapping[str, Dataset],
    seed: int,
    global_batch: int,
    *,
    micro_batch: int | None = None,
    max_steps: int | None = None,
    is_limited: bool = True,
) -> Mixture[Dataset]:
    """The mixture of a run.

    global_batch  conversations per step over all ranks and micro-batches, for sources (in mix "joint", for streams)
                  without their own `batch`
    micro_batch   of one rank; needed for mix "micro"
    max_steps     of the run; needed where a source sets max_passes
    is_limited    False: as if no source set max_passes, to count the steps of an epoch
    raises        ConfigError when max_passes of all sources together do not fill the run, or validation leaves a source
                  no sample
    """
    if config.mix == "joint":
        return _joint(config, sources, seed, global_batch, max_steps, is_limited)
    return _single(config, sources, seed, global_batch, micro_batch, max_steps, is_limited)


def _joint(
    config: DataConfig,
    sources: Mapping[str, Dataset],
    seed: int,
    global_batch: int,
    max_steps: int | None,
    is_limited: bool,
) -> JointMixture[Dataset]:
    """A mixture per stream, drawn conversation by conversation. raises ConfigError with the problems of all streams"""
    streams: dict[str, Mixture[Dataset]] = {}
    problems: list[Problem] = []
    for name, own in config.pools.items():
        part, opened = replace(config, mix="sample", sources=own), {source: sources[source] for source in own}
        batch = config.streams[name].batch or global_batch
        try:
            streams[name] = _single(part, opened, seed, batch, None, max_steps, is_limited, name)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return JointMixture(streams, config.epoch_stream or next(iter(streams)))


def _single(
    config: DataConfig,
    sources: Mapping[str, Dataset],
    seed: int,
    global_batch: int,
    micro_batch: int | None,
    max_steps: int | None,
    is_limited: bool,
    stream: str = "",
) -> Mixture[Dataset]:
    """See build_mixture. stream: whose mixture it is; "" without streams"""
    own = {name: choice.config for name, choice in config.sources.items()}
    held_out = held_out_samples(config, sources, seed)
    sizes = {name: len(sources[name]) - held_out[name] for name in own}
    sized = {name: sized_weight(one.weight, one.cap, sizes[name]) for name, one in own.items()}
    weights = tempered(sized, config.temperature)

    def mixture(shares: Mapping[str, float]) -> Mixture[Dataset]:
        return Mixture(
            sources, shares, seed, global_batch, config.mix,
            batches=config.batches, micro_batch=micro_batch, held_out=held_out, stream=stream,
        )  # fmt: skip

    plain = mixture(weights)
    most = {name: one.max_passes * sizes[name] for name, one in own.items() if one.max_passes is not None}
    if not most or not is_limited:
        return plain
    if max_steps is None:
        raise ValueError("a source sets max_passes, so its share depends on the number of steps; pass max_steps")
    units = max_steps * plain.units_per_step
    limits = {name: conversations / (units * plain.per_unit[name]) for name, conversations in most.items()}
    try:
        return mixture(filled(weights, limits))
    except DataError as error:
        raise ConfigError([_too_few(limits, weights, max_steps, str(error), stream)]) from error


def steps_of_epochs(epochs: float, mixture: Mixture[Any]) -> int:
    """The steps in which a run draws `epochs` times as many conversations as its sources with a share have samples.

    mixture   the order of the run; max_passes does not matter for it. In mix "joint", one stream defines the epoch
    """
    if isinstance(mixture, JointMixture):
        mixture = mixture.streams[mixture.epoch]
    samples = sum(size for name, size in mixture.sizes.items() if mixture.shares[name] > 0)
    return max(1, math.ceil(round(epochs * samples / sum(mixture.expected(1).values()), 9)))


def held_out_samples(config: DataConfig, sources: Mapping[str, Dataset], seed: int) -> dict[str, int]:
    """source -> number of samples kept for validation; 0 for remote shards, whose samples come as a stream.

    A source of weight 0 is never trained on: a validation file of its own, of which all samples may be held out.
    raises   ConfigError when a source would have no sample left to train on
    """
    found, problems = {}, []
    for name, wanted in config.held_out.items():
        size = len(sources[name])
        found[name] = wanted if can_hold_out(shuffle_of(sources[name], name, size, seed)) else 0
        if config.sources[name].config.weight == 0:
            found[name] = min(found[name], size)
        elif found[name] >= size:
            own = config.sources[name].config.validation is not None
            path = f"data.sources.{name}.validation" if own else "data.validation.samples"
            hint = f"hold out fewer: data.sources.{name}.validation={size // 10}; or 0 for none"
            problems.append(Problem(path, f"is {wanted}, but {name} has {size:,} samples: none is left", hint=hint))
    if problems:
        raise ConfigError(problems)
    return found


def _too_few(
    limits: Mapping[str, float], weights: Mapping[str, float], max_steps: int, message: str, stream: str
) -> Problem:
    listed = ", ".join(f"{name} {limits[name]:.1%}" for name in sorted(limits) if weights[name] > 0)
    steps = int(max_steps * sum(limits[name] for name in limits if weights[name] > 0))
    shorter = f", or set run.max_steps to at most {steps}" if steps else ""
    hint = f"raise max_passes, or remove it for one source{shorter}"
    place = f"data.streams.{stream}" if stream else "data.sources"
    return Problem(place, f"max_passes leaves too little data: {message} ({listed})", hint=hint)
