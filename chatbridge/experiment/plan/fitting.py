"""The smallest changes of settings with which a run fits into the memory of a rank, each planned again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice

from chatbridge.common.errors import ConfigError
from chatbridge.experiment.plan.planner import Plan, Planner
from chatbridge.experiment.plan.request import show_size
from chatbridge.models.memory import components, layers_of
from chatbridge.runners.config import ShardingConfig

MOST_SHOWN = 4
MOST_RANKS, MOST_TIMES = 64, 8  # that are proposed, and as many times the present ones


@dataclass(frozen=True)
class Lever:
    """A change of settings.

    cost    what it changes beside memory
    joins   whether it is combined with later ones
    family  levers of one family come from the mildest to the strongest; none is needed once a milder one fits
    """

    options: tuple[str, ...]
    cost: str
    joins: bool = True
    family: str = ""


@dataclass(frozen=True)
class Change:
    """Options with which the plan fits. total: bytes at the peak; slower: time of the run by that of the first plan"""

    options: tuple[str, ...]
    cost: str
    total: int
    slower: float


def changes_that_fit(planner: Planner, plan: Plan, options: Sequence[str]) -> list[Change]:
    """Up to four changes, those first that change results and speed least."""
    return list(islice(search(planner, plan, options), MOST_SHOWN))


def search(planner: Planner, plan: Plan, options: Sequence[str]) -> Iterator[Change]:
    """The changes, each as soon as it is found.

    Every lever is tried alone, then together with those before it, each with the largest micro-batch that fits; the
    global batch stays as it is.
    """
    first = list(_startable(plan))
    taken: list[Lever] = [*first]
    settled: set[str] = set()
    for lever in _levers(plan):
        if lever.family in settled:
            continue
        for added in dict.fromkeys([(*first, lever), (*taken, lever)]):
            change = _smallest(planner, plan, options, added)
            if change is not None:
                yield change
                settled |= {lever.family} - {""}
                break
        taken += [lever] if lever.joins else []


def _levers(plan: Plan) -> Iterator[Lever]:
    """From the one that changes least to the one that changes what is trained."""
    config, run, model = plan.run.config, plan.settings, plan.planner.model
    yield Lever((), "the same results; smaller products")
    parts = components(model)
    deep = [name for name in parts if name not in plan.planner.checkpointed(run) and len(layers_of(parts[name])) > 1]
    if "language" in deep:
        listed = _listed([*run.activation_checkpointing, "language"])
        yield Lever((f"run.activation_checkpointing={listed}",), "the same results; a second forward pass")
    if config.data.batching != "packed":
        yield Lever(("data.batching=packed",), "the same results; less padding", joins=False)
    trained = [name for name, one in model.language.named_parameters() if one.requires_grad]
    trains_base = any("lora_" not in name for name in trained)
    yield from _sharding(plan, bool(trained))
    if trained and run.optimizer.kind == "adamw" and (run.parallel != "shard" or plan.request.ranks == 1):
        yield Lever(("run.optimizer.kind=adamw_8bit",), "moments of AdamW in 8 bit", joins=plan.request.ranks == 1)
    if trains_base and not config.model.adapters:  # others would be replaced
        yield from _adapters(plan)
    elif not trains_base and plan.run.bits is None:
        under = " under its adapters" * bool(trained)
        for bits in (8, 4):
            cost = f"the frozen language model{under} is rounded to {bits} bit"
            yield Lever((f"model.language.load_in_{bits}bit=true",), cost, joins=False, family="bits")


def _startable(plan: Plan) -> Iterator[Lever]:
    """What one rank needs to start at all: there is nothing over which it could spread layers."""
    run, usual = plan.settings, ShardingConfig()
    if run.parallel != "shard" or plan.request.ranks > 1:
        return
    values = {one.name: getattr(usual, one.name) for one in fields(usual)}
    changed = {name: value for name, value in values.items() if getattr(run.sharding, name) != value}
    texts = (f"run.sharding.{name}={str(value).lower()}" for name, value in changed.items())
    yield Lever(("run.parallel=replicate", *texts), "the same results; one rank cannot share layers")


def _sharding(plan: Plan, trains_language: bool) -> Iterator[Lever]:
    """Settings of `run.parallel: shard`: less in the memory of a rank for more exchanges, then the CPU's memory."""
    run, ranks = plan.settings, plan.request.ranks
    if ranks == 1:
        return
    if run.parallel == "shard":
        if not run.sharding.reshard_after_forward:
            cost = "the same results; layers are gathered again for the backward pass"
            yield Lever(("run.sharding.reshard_after_forward=true",), cost)
        if run.sharding.reduce == "step" and run.accumulate > 1:
            cost = "the same results; gradients are summed over ranks after every micro-batch"
            yield Lever(("run.sharding.reduce=micro",), cost)
    else:
        cost = "the same results; layers are gathered over the ranks"
        yield Lever(("run.parallel=shard",), cost, family="shard")
    if not trains_language or run.sharding.offload == "cpu" or not plan.request.has_gpu:
        return
    offloaded = replace(run, parallel="shard", sharding=replace(run.sharding, offload="cpu"))
    size = show_size(plan.planner.offloaded(offloaded, ranks))
    cost = f"the same results, slower: weights travel, the optimizer runs on the CPU with {size} of its memory per rank"
    options = ("run.sharding.offload=cpu",)
    yield Lever(options if run.parallel == "shard" else ("run.parallel=shard", *options), cost, family="shard")


def _adapters(plan: Plan) -> Iterator[Lever]:
    """LoRA in place of a language model that is trained itself."""
    others = [one for one in plan.run.config.model.trainable if not one.startswith("language")]
    adapters = '[{targets: ["language.*_proj"], rank: 16}]'
    options = (f"model.adapters={adapters}", f"model.trainable={_listed(others)}")
    yield Lever(options, "LoRA in place of full tuning: fewer values are trained", family="LoRA")
    if plan.run.bits is None:
        options = (*options, "model.language.load_in_4bit=true")
        yield Lever(
            options, "LoRA over a language model rounded to 4 bit, in place of full tuning", joins=False, family="LoRA"
        )


def _listed(values: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{one}"' for one in values) + "]"


def _smallest(planner: Planner, plan: Plan, options: Sequence[str], levers: Sequence[Lever]) -> Change | None:
    """The levers with the largest micro-batch that fits; None when none does."""
    added = tuple(dict.fromkeys(option for lever in levers for option in lever.options))
    costs = [lever.cost for lever in levers if lever.options]
    for factor in _factors(planner, plan, (*options, *added)):
        sizes = () if factor == 1 else _smaller(plan, factor)
        if not (*added, *sizes):
            continue
        try:
            other = planner.plan([*options, *added, *sizes])
        except ConfigError:  # batches that do not divide
            continue
        if other.fits and other.memory is not None:
            slower = other.work.step.executed / max(plan.work.step.executed, 1.0)
            cost = "; ".join([*_together(costs), *[f"{factor} x as many micro-batches per step"] * (factor > 1)])
            return Change((*added, *sizes), cost, other.memory.total, slower)
    return None


def _together(costs: Sequence[str]) -> list[str]:
    """What several levers cost; "the same results" only where it is true of all of them."""
    same = "the same results"
    rest = [cost.removeprefix(same).lstrip(",; ") for cost in costs]
    return [same, *rest] if costs and all(cost.startswith(same) for cost in costs) else rest


def _smaller(plan: Plan, factor: int) -> tuple[str, ...]:
    """Micro-batches of an n-th. A source's own batch is divided by run.accumulate, whatever run.micro_batch is."""
    run = plan.settings
    accumulate = f"run.accumulate={run.accumulate * factor}"
    return (
        (f"run.micro_batch={run.micro_batch // factor}", accumulate) if plan.data.has_usual_batches else (accumulate,)
    )


def _divisors(plan: Plan) -> list[int]:
    """The factors by which every micro-batch can shrink while steps hold the same conversations, ascending."""
    run, data = plan.settings, plan.data
    if run.loss_mean == "micro_batch" or run.clip_every == "micro":
        return [1]  # the results depend on the micro-batches
    parts = run.accumulate * plan.request.ranks
    common = math.gcd(*(batch // parts for batch in data.own_batches.values()))
    if data.has_usual_batches:
        common = math.gcd(common, run.micro_batch)
    return [factor for factor in range(1, common + 1) if common % factor == 0]


def _factors(planner: Planner, plan: Plan, options: Sequence[str]) -> Iterator[int]:
    """The least factor by which micro-batches shrink until they fit by the estimate, and the next; at most two"""
    budget = plan.request.budget
    if plan.memory is None or plan.memory.shape is None or budget is None:
        return
    try:
        run, memory = planner.settings(options)
    except ConfigError:  # a setting that this model does not take
        return
    ranks, shape = plan.request.ranks, plan.memory.shape
    if memory.still(run, ranks) > budget:
        return
    fitting = (one for one in _divisors(plan) if memory.estimate(run, shape, 1 / one, ranks) <= budget)
    yield from islice(fitting, 2)


def ranks_that_fit(plan: Plan) -> tuple[int, int] | None:
    """The least multiple of the ranks (by 2, 4, ...) on which a sharded run fits as it is, and bytes at the peak there.

    None: there is none up to 8 times the ranks and 64 in all, or more ranks change nothing
    """
    run, budget, ranks = plan.settings, plan.request.budget, plan.request.ranks
    if run.parallel != "shard" or budget is None or plan.memory is None or plan.memory.shape is None:
        return None
    most = min(MOST_RANKS, MOST_TIMES * ranks)
    while (ranks := 2 * ranks) <= most:
        total = plan.planner.peak(run, plan.memory.shape, ranks).total
        if total <= budget:
            return ranks, total
    return None


def ranks_text(plan: Plan) -> str:
    """`ranks_that_fit` as lines; "" when there are none. A step has more conversations then, or fewer micro-batches."""
    if (found := ranks_that_fit(plan)) is None:
        return ""
    ranks, total = found
    run, factor = plan.settings, ranks // plan.request.ranks
    batch = sum(one.share * one.conversations for one in plan.kinds)
    steps = f"steps of {batch * factor:,.0f} conversations in place of {batch:,.0f}"
    if factor > 1 and run.accumulate % factor == 0:
        steps += f"; the same steps with run.accumulate={run.accumulate // factor}"
    return f"fits as it is on more ranks\n  --ranks {ranks}\n      {show_size(total)}; {steps}"


def fitting_text(changes: Sequence[Change]) -> str:
    """The changes as lines to copy."""
    if not changes:
        return "no change of these settings fits: choose a GPU with more memory, or a smaller model"
    lines = ["changes that fit, each planned again; the first ones change least"]
    for one in changes:
        text = " ".join(f"'{option}'" if any(mark in option for mark in ' "[{*') else option for option in one.options)
        time = f", {one.slower:.2f} x the operations" if abs(one.slower - 1) > 0.02 else ""
        lines += [f"  --options {text}", f"      {show_size(one.total)}{time}; {one.cost}"]
    return "\n".join(lines)
