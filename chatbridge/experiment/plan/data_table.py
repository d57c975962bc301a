"""The data of a plan as a table: every source, or every stream, with its share, batch, length and cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chatbridge.datasets.order.mixture import SHARES, Mixture
from chatbridge.experiment.plan.figures import aligned, short_count, tera
from chatbridge.experiment.plan.micro_batches import ALL, Kind
from chatbridge.experiment.plan.planner import Plan
from chatbridge.experiment.plan.sources import AssumedSource


def data(plan: Plan) -> str:
    """The sources with their sizes and shares, what a step of each costs, and the sums over the run."""
    run, mixture = plan.settings, plan.data.mixture
    expected = mixture.expected(run.max_steps)
    rows = [["source", "media", "samples", SHARES[mixture.mix], "batch", "passes", "tokens", "padding", "TFLOP"]]
    for name, source in mixture.sources.items():
        star = "*" * isinstance(source, AssumedSource)
        is_unknown = isinstance(source, AssumedSource) and not source.is_known
        passes = expected[name] / max(1, mixture.sizes[name])
        batch, *others = _kind_cells(plan, name, star)
        rows.append([
            name, ", ".join(sorted(source.modalities)) or "text-only",
            "unknown" if is_unknown else f"{mixture.sizes[name]:,}{star}", f"{mixture.shares[name]:.1%}", batch,
            "unknown" if is_unknown else f"{passes:.2f}", *others,
        ])  # fmt: skip
    wholes = [one.name for one in plan.kinds if one.name not in mixture.sources]
    for name in wholes:
        batch, *others = _kind_cells(plan, name, "")
        rows.append([_whole_name(name), "-", "-", _whole_share(name, mixture), batch, "-", *others])
    positions = padding_share(plan.kinds)
    lines = [aligned(rows, left=(0, 1))]
    counts = f"{sum(expected.values()):,.0f} conversations, {short_count(round(tokens(plan)))} tokens"
    summary = f"  {run.max_steps:,} steps, {counts}"
    if positions is not None:
        summary += f", {positions:.1%} of positions are padding ({plan.run.config.data.batching})"
    starred = any(isinstance(one, AssumedSource) for one in mixture.sources.values())
    cells = [cell for row in rows for cell in row]
    of_stream = "of a stream " if mixture.mix == "joint" else ""
    reasons = [
        *["  * assumed"] * starred,
        *[f"  -: known for all sources {of_stream}together, since a micro-batch holds several"] * bool(wholes),
        *["  -: a source with a weight of 0 is not drawn"] * ("-" in cells and not wholes),
        *["  unknown: neither a file to measure nor a data card tells it"] * ("unknown" in cells),
    ]
    return "\n".join([*lines, summary, *reasons])


def _whole_name(name: str) -> str:
    return "all" if name == ALL else name


def _whole_share(name: str, mixture: Mixture[Any]) -> str:
    """The share of the draws that a kind of several sources has."""
    part = mixture.streams.get(name.removeprefix("stream "), mixture)
    return f"{part.global_batch / mixture.global_batch:.1%}"


def _kind_cells(plan: Plan, name: str, star: str) -> list[str]:
    """Batch, tokens, padding and TFLOP of the steps of one source, or of all."""
    kind = next((one for one in plan.kinds if one.name == name), None)
    if kind is None:
        known = next((one.tokens_of[name] for one in plan.kinds if name in one.tokens_of), None)
        return ["-", "-" if known is None else f"{known:.0f}{star}", "-", "-"]
    return [
        str(kind.conversations), f"{kind.tokens:.0f}{star}" if kind.tokens else "unknown",
        f"{kind.padding:.1%}" if kind.shapes else "unknown",
        tera(plan.work.kinds[name].executed) if name in plan.work.kinds else "unknown",
    ]  # fmt: skip


def tokens(plan: Plan) -> float:
    """Positions with a token in the whole run, media included."""
    return sum(plan.settings.max_steps * one.share * one.conversations * one.tokens for one in plan.kinds)


def padding_share(kinds: Sequence[Kind]) -> float | None:
    """The share of padding over the run; None when no length is known."""
    held = sum(one.share * one.conversations * one.tokens for one in kinds)
    full = sum(one.share * one.conversations * one.tokens / max(1e-9, 1 - one.padding) for one in kinds)
    return 1 - held / full if full else None
