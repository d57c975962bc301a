"""A plan as text for one screen, and as values for JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from chatbridge.experiment.plan.data_table import data, padding_share, tokens
from chatbridge.experiment.plan.figures import aligned, short_count, tera
from chatbridge.experiment.plan.planner import Plan
from chatbridge.experiment.plan.request import show_size
from chatbridge.experiment.plan.sources import AssumedSource
from chatbridge.models.flops import total
from chatbridge.models.flops_parts import Flops
from chatbridge.runners.gpus import GPUS
from chatbridge.runners.planned_step.live_storage import ACTIVATIONS, COPIES
from chatbridge.runners.planned_step.synthetic_batch import PlannedBatch

NO_LENGTHS = (
    "no conversation has a known length: its data are remote, or cannot be used (`chatbridge data check` says why)"
)


def report(plan: Plan) -> str:
    """The whole plan."""
    return f"{up_to_verdict(plan)}\n\n{after_verdict(plan)}"


def up_to_verdict(plan: Plan) -> str:
    """Parameters, operations, and memory with whether it fits, each with its heading."""
    return "\n\n".join([title(plan), parameters(plan), operations(plan), memory(plan)])


def after_verdict(plan: Plan) -> str:
    """Data and time, what was assumed, and what is missing."""
    return "\n\n".join([data(plan), time(plan), *_notes(plan)])


def title(plan: Plan) -> str:
    request, gpu = plan.request, GPUS.get(plan.request.gpu or "")
    machine = f"{request.ranks} rank{'s' * (request.ranks > 1)}"
    if gpu is not None:
        machine += f", {gpu.name} ({gpu.flops / 1e12:.0f} TFLOP/s bf16)"
    if request.budget is not None:
        machine += f", {show_size(request.budget)} each"
    return f"plan of {plan.run.opened.path}: {machine}, {plan.dtype_name}"


def parameters(plan: Plan) -> str:
    rows = [["parameters", "all", "frozen", "trained", "adapters", "weights", "stored as"]]
    for one in plan.planner.components:
        kind = f"{one.bits} bit" if one.bits else one.dtype if one.frozen else "float32"
        kind += ", trained float32" if one.frozen and one.trained + one.adapted else ""
        counts = [one.frozen + one.trained + one.adapted, one.frozen, one.trained, one.adapted]
        rows.append([one.name, *map(short_count, counts), show_size(one.bytes), kind])
    sums = [sum(getattr(one, key) for one in plan.planner.components) for key in ("frozen", "trained", "adapted")]
    weights = sum(one.bytes for one in plan.planner.components)
    rows.append(["total", *map(short_count, [sum(sums), *sums]), show_size(weights), ""])
    return aligned(rows, left=(0, 6))


def operations(plan: Plan) -> str:
    rows = [["TFLOP per step and rank", "forward", "backward", "repeated", "share"]]
    whole = plan.work.step.executed or 1.0
    for name, cost in [*plan.work.parts.items(), ("total", plan.work.step)]:
        values = [tera(one) for one in (cost.forward, cost.backward, cost.repeated)]
        rows.append([name, *values, f"{cost.executed / whole:.1%}"])
    return aligned(rows)


def memory(plan: Plan) -> str:
    found = plan.memory
    if found is None:
        reason = next((one.partition("memory: ")[2] for one in plan.assumed if "memory: " in one), "")
        return f"memory of one rank: not known: {reason or NO_LENGTHS}"
    rows = [["memory of one rank at its peak", "bytes", "share"]]
    for name, size in sorted(found.parts.items(), key=lambda part: -part[1]):
        rows.append([_part_text(name, plan), show_size(size), f"{size / found.total:.1%}"])
    rows.append(["total", show_size(found.total), ""])
    lines = [aligned(rows)]
    if found.shape is not None:
        lines.append(
            f"  largest micro-batch: {shape_text(found.shape)}; most memory: {_part_text(found.dominant, plan)}"
        )
    if found.freed:
        size = show_size(found.freed)
        lines.append(f"  the peak is in the optimizer step; what a micro-batch needs, {size}, is free again by then")
    if offloaded := plan.planner.offloaded(plan.settings, plan.request.ranks):
        lines.append(f"  in the memory of the CPU, per rank (run.sharding.offload): {show_size(offloaded)}")
    lines += [f"  {line}" for line in _own_batches(plan)]
    if plan.request.budget is not None:
        budget = show_size(plan.request.budget)
        lines.append(f"  {'fits into' if plan.fits else 'DOES NOT FIT into'} {budget}")
    size, keep = plan.planner.checkpoint_bytes(plan.settings), plan.settings.keep
    lines.append(f"  checkpoint {show_size(size)}; {keep} kept: {show_size(size * keep)}")
    return "\n".join(lines)


def _part_text(name: str, plan: Plan) -> str:
    """A part of the memory for people."""
    others = {
        ACTIVATIONS: "activations: chat_model (joined texts and media, loss)",
        COPIES: f"copies of weights (in {plan.dtype_name}, by autocast)",
    }
    return others.get(name, name)


def _own_batches(plan: Plan) -> Iterator[str]:
    """How the batches of sources that have their own become micro-batches."""
    own, run, ranks = plan.data.own_batches, plan.settings, plan.request.ranks
    if own:
        sizes = sorted({batch // (run.accumulate * ranks) for batch in own.values()})
        micro = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
        kind = "streams" if plan.data.mixture.mix == "joint" else "sources"
        counts = f"is for the other {kind}" if plan.data.has_usual_batches else "changes no training step"
        yield (
            f"data.{kind}.*.batch / (accumulate {run.accumulate} x ranks {ranks}) = micro-batches of {micro}; "
            f"run.micro_batch ({run.micro_batch}) {counts}"
        )


def time(plan: Plan) -> str:
    hours, run = plan.hours, plan.settings
    if hours is None:
        return "time: name a GPU for the hours of the run: `chatbridge plan ... --gpu NAME`"
    seconds, request = hours * 3600 / run.max_steps, plan.request
    conversations = sum(one.share * one.conversations for one in plan.kinds)
    return (
        f"time: {hours:,.1f} hours at {request.mfu:.0%} of the rate of {request.gpu} (--mfu), "
        f"{hours * request.ranks:,.1f} GPU hours\n"
        f"  {seconds:.3g} s per step, {conversations / seconds:,.0f} samples/s on all ranks; "
        "without reading data, evaluation and checkpoints"
    )


def _notes(plan: Plan) -> Iterator[str]:
    if plan.settings.parallel == "shard" and plan.request.ranks == 1:
        yield (
            "this run does not start on 1 rank: run.parallel is shard\n"
            "  `chatbridge plan ... --ranks N` plans it on N ranks; on one rank it needs run.parallel=replicate"
        )
    if plan.assumed:
        yield "\n".join(["assumed", *(f"  {line}" for line in plan.assumed)])
    if plan.absent:
        step = "  (`chatbridge weights fetch YAML` brings the weights that have an address)"
        tail = [step] if any(line.startswith("model.") for line in plan.absent) else []
        yield "\n".join(["missing before a run can start", *(f"  {line}" for line in plan.absent), *tail])


def shape_text(shape: PlannedBatch) -> str:
    """A micro-batch in words."""
    media = ", ".join(f"{size[0]} {name} of {'x'.join(map(str, size[1:]))}" for name, size in shape.media.items())
    rows = f"{shape.rows} row{'s' * (shape.rows != 1)} of {shape.length} positions"
    packed = f" with {shape.conversations} conversations" if shape.is_packed else ""
    return f"{rows}{packed}, {shape.points} supervised{'; ' * bool(media)}{media}"


def as_dict(plan: Plan) -> dict[str, Any]:
    """The plan as JSON values: bytes, operations, seconds."""
    request, mixture = plan.request, plan.data.mixture
    expected = mixture.expected(plan.settings.max_steps)
    return {
        "config": str(plan.run.opened.path),
        "ranks": request.ranks,
        "gpu": request.gpu,
        "gpu_memory": request.budget,
        "mfu": request.mfu,
        "dtype": plan.dtype_name,
        "components": [vars(one) for one in plan.planner.components],
        "flops_per_step": {name: _flops(cost) for name, cost in plan.work.parts.items()},
        "flops_total": total(plan.work.parts).total,
        "memory": None if plan.memory is None else {
            "parts": dict(plan.memory.parts), "total": plan.memory.total, "dominant": plan.memory.dominant,
        },
        "fits": plan.fits,
        "checkpoint_bytes": plan.planner.checkpoint_bytes(plan.settings),
        "sources": {
            name: {"samples": mixture.sizes[name], "conversations": expected[name],
                   "passes": expected[name] / max(1, mixture.sizes[name]),
                   "is_assumed": isinstance(source, AssumedSource)}
            for name, source in mixture.sources.items()
        },
        "batches": [
            {"name": one.name, "share_of_steps": one.share, "conversations": one.conversations, "tokens": one.tokens,
             "supervised": one.points, "padding": one.padding}
            for one in plan.kinds
        ],
        "max_steps": plan.settings.max_steps,
        "tokens": tokens(plan),
        "padding": padding_share(plan.kinds),
        "hours": plan.hours,
        "assumed": list(plan.assumed),
        "missing": list(plan.absent),
    }  # fmt: skip


def _flops(cost: Flops) -> dict[str, float]:
    return {"forward": cost.forward, "backward": cost.backward, "repeated": cost.repeated}
