"""What a run is going to do, for `train.py --check`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from chatbridge.conversation.layout import Layout
from chatbridge.datasets.builders import Dataset
from chatbridge.datasets.mixture import Mixture
from chatbridge.models.trainable import TrainableReport
from chatbridge.runners.config import RunConfig, ranks_planned
from chatbridge.runners.launch import global_batch, plain_template
from chatbridge.runners.optim import Schedule


def plan(run: RunConfig, report: TrainableReport, layout: Layout, mixture: Mixture[Dataset], start: Path | None) -> str:
    """Parts and what trains, sources and their shares, steps and batches, where it starts: a page for people."""
    sections = {
        "parameters": str(report),
        "media": _media(layout.media_lengths),
        "data": _data(layout, mixture, run.max_steps),
        "steps": _steps(run, ranks_planned()),
        "start": _start(run, start),
    }
    return "\n\n".join(f"{name}\n{_indented(text)}" for name, text in sections.items())


def _media(lengths: Mapping[str, int]) -> str:
    return "\n".join(f"{modality}: {length} tokens per item" for modality, length in lengths.items())


def _data(layout: Layout, mixture: Mixture[Dataset], steps: int) -> str:
    longest = layout.max_tokens or "any"
    lines = [f"template {plain_template(layout)['name']}, longest row {longest}, one source per {mixture.mix}"]
    width = max(map(len, mixture.names))
    for name in mixture.names:
        size, share = mixture.sizes[name], mixture.shares[name]
        media = ", ".join(sorted(mixture.sources[name].modalities)) or "words alone"
        passes = share * steps * mixture.global_batch / size
        lines.append(f"{name:<{width}}  {media:<14} {size:>12,} samples  share {share:6.1%}  {passes:.2f} passes")
    return "\n".join(lines)


def _steps(run: RunConfig, world_size: int) -> str:
    batch = global_batch(run, world_size)
    rate = Schedule(run.schedule, run.optimizer.lr, run.max_steps)
    points = sorted({0, run.schedule.warmup_steps, run.max_steps // 2, run.max_steps - 1})
    rates = ", ".join(f"{rate(step):.2e} at step {step}" for step in points)
    lines = [
        f"{run.max_steps:,} steps of {batch} conversations = {run.max_steps * batch:,}",
        f"global batch {batch} = micro_batch {run.micro_batch} x accumulate {run.accumulate} x ranks {world_size}",
        f"learning rate ({run.schedule.kind}): {rates}",
        f"checkpoint every {run.save_every} steps, {run.keep} kept, in {run.output_dir}",
    ]
    return "\n".join(lines)


def _start(run: RunConfig, start: Path | None) -> str:
    if start is not None:
        return f"goes on from {start}"
    if run.init_from is not None:
        return f"at step 0 with the trained tensors of {run.init_from}"
    return "at step 0 with fresh weights where no file gives them"


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
