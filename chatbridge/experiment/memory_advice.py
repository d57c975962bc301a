"""Which settings would fit after an allocation failed: those that the plan's search finds (memory_search.py), or
estimated from what the failed step used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from chatbridge.common.dist import Dist
from chatbridge.experiment.memory_search import searched_settings
from chatbridge.experiment.roots import Experiment
from chatbridge.experiment.validate_levers import components_in_backward
from chatbridge.models.memory import matching
from chatbridge.runners.memory_use import MemoryUse, gib

SHARE = 0.92  # of the capacity that a step may use: allocators waste some
RECOMPUTED = 0.35  # of the activations that remain with activation checkpointing, as measured on small models


@dataclass(frozen=True)
class Change:
    """Settings, what they cost, and the bytes that a step would need with them."""

    settings: str
    effect: str
    needed: float


def advice_of(path: Path, options: Sequence[str], config: Experiment, dist: Dist) -> Callable[[MemoryUse], list[str]]:
    """What answers a failed allocation of a run of this file: planned settings, and where there are none, estimated
    ones."""

    def advice(use: MemoryUse) -> list[str]:
        on_gpu, stall_s = dist.device.type == "cuda", config.run.stall_timeout_s
        planned = searched_settings(path, options, dist.world_size, on_gpu, use, stall_s)
        return planned or memory_advice(config, dist.world_size, use)

    return advice


def memory_advice(config: Experiment, ranks: int, use: MemoryUse) -> list[str]:
    """Three changes of settings, those that fit first, in the order of what they cost; fewer if there are no more."""
    changes = [*_same_results(config, ranks, use), *_other_results(config, ranks, use)]
    fitting = [one for one in changes if one.needed <= SHARE * use.capacity]
    rest = sorted((one for one in changes if one not in fitting), key=lambda one: one.needed)
    texts = [f"{one.settings}: {one.effect}; about {gib(one.needed)}" for one in fitting]
    texts += [f"{one.settings}: {one.effect}; about {gib(one.needed)}, with another of these" for one in rest]
    return texts[:3]


def _same_results(config: Experiment, ranks: int, use: MemoryUse) -> Iterator[Change]:
    """Changes that leave the losses of the run as they are."""
    run, activations = config.run, use.rest + use.missing
    own = config.data.batches.values()  # run.accumulate divides them, whatever run.micro_batch is
    pools = config.data.streams if config.data.mix == "joint" else config.data.sources
    has_usual = len(own) < len(pools)
    is_same = config.data.mix != "micro" and run.loss_mean == "token" and run.clip_every == "step"
    common = math.gcd(*(batch // (run.accumulate * ranks) for batch in own), run.micro_batch if has_usual else 0)
    parts = [n for n in range(2, common + 1) if common % n == 0]
    enough = [n for n in parts if use.fixed + activations / n <= SHARE * use.capacity] or parts[-1:]
    if enough and is_same and config.data.batching != "packed":
        micro = f"run.micro_batch={run.micro_batch // enough[0]} " if has_usual else ""
        effect = "the same batch in smaller parts"
        settings = f"{micro}run.accumulate={run.accumulate * enough[0]}"
        yield Change(settings, effect, use.fixed + activations / enough[0])
    active = components_in_backward(config.model)
    if left := [name for name in active if name not in matching(run.activation_checkpointing, active)]:
        names = ", ".join([*run.activation_checkpointing, *left])
        effect = "computes activations again in the backward pass, about 30 % more time"
        yield Change(f"run.activation_checkpointing=[{names}]", effect, use.fixed + RECOMPUTED * activations)


def _other_results(config: Experiment, ranks: int, use: MemoryUse) -> Iterator[Change]:
    """Changes of the data, of rounding, or of where tensors are."""
    run, data, activations = config.run, config.data, use.rest + use.missing
    if data.batching == "packed":
        effect = "shorter rows; data.token_budget is at least the longest sequence"
        budget = f"{data.token_budget // 2}" if data.token_budget else "<half of the present rows>"
        yield Change(f"data.token_budget={budget}", effect, use.fixed + activations / 2)
    else:
        limit = f"{data.max_tokens // 2}" if data.max_tokens else "<half of the longest sample above>"
        effect = "cuts the longest samples, and with them the longest batches"
        yield Change(f"data.max_tokens={limit}", effect, use.fixed + activations / 2)
    if run.parallel == "replicate" and ranks > 1:
        effect = "spreads the layers of the language model over the ranks"
        yield Change("run.parallel=shard", effect, use.fixed / ranks + activations)
    if run.precision == "fp32":
        effect = "activations and frozen weights in 2 bytes"
        yield Change("run.precision=bf16", effect, use.fixed + activations / 2)
    if run.optimizer.kind == "adamw" and use.optimizer > use.needed / 10:
        yield Change("run.optimizer.kind=adamw_8bit", "moments in 2 bytes per value", use.needed - 0.75 * use.optimizer)
