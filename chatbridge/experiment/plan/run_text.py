"""The plan of a run as text, which `--check` prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from chatbridge.conversation.layout import Layout
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.datasets.builders import Dataset
from chatbridge.datasets.draw_lengths import DrawLengths
from chatbridge.datasets.order.joint import JointMixture
from chatbridge.datasets.order.mixture import Mixture
from chatbridge.datasets.padding_share import padding_lines
from chatbridge.datasets.piece_counts import piece_count_of
from chatbridge.experiment.build import plain_template
from chatbridge.experiment.data import batching_of
from chatbridge.experiment.roots import Experiment
from chatbridge.models.config import ModelConfig
from chatbridge.models.trainable import TrainableReport
from chatbridge.runners.config import RunConfig, ranks_planned
from chatbridge.runners.optim import Schedule
from chatbridge.runners.resume import ResumePoint
from chatbridge.runners.sequence_lengths import length_lines


def plan(
    config: Experiment, report: TrainableReport, layout: Layout, mixture: Mixture[Dataset], start: ResumePoint | None
) -> str:
    """Parameters, media, sources and their shares, sequence lengths, steps and batches, and the start of the run."""
    run, model = config.run, config.model
    sections = {
        "parameters": str(report),
        "media": _media(layout),
        "data": _data(layout, mixture, model, run.max_steps),
        "lengths": "\n".join(length_lines(layout, mixture, run.seed)),
        "batching": _batching(config, layout, mixture),
        "steps": _steps(run, mixture, ranks_planned()),
        "start": _start(run, start),
    }
    return "\n\n".join(f"{name}\n{_indented(text)}" for name, text in sections.items())


def _media(layout: Layout) -> str:
    """Tokens of an item, or slots whose positions a fusion's own layers read."""
    lines = []
    for modality, length in layout.media_lengths.items():
        has_slots = modality in layout.slot_ids and modality not in layout.template.slot_ids
        unit = "slot" if has_slots else "token"
        lines.append(f"{modality}: {length} {unit}{'s' * (length != 1)} per item")
    return "\n".join(lines)


def _data(layout: Layout, mixture: Mixture[Dataset], model: ModelConfig, steps: int) -> str:
    longest = layout.limit or "any"
    unit = {"sample": "source per conversation", "step": "source per step", "micro": "source per micro-batch",
            "joint": "stream per micro-batch"}[mixture.mix]  # fmt: skip
    title = f"template {plain_template(layout)['name']}, longest sequence {longest}, one {unit}"
    return "\n".join([title, *_streams(mixture), *_table(source_rows(mixture, model, steps))])


def _streams(mixture: Mixture[Dataset]) -> Iterator[str]:
    """A line per stream of mix "joint"."""
    for name, part in mixture.streams.items():
        if isinstance(mixture, JointMixture):
            kind = "defines the epoch" if name == mixture.epoch else "endless"
            yield f"stream {name}: {part.global_batch} conversations per step, {kind}"


def source_rows(mixture: Mixture[Dataset], model: ModelConfig, steps: int) -> list[dict[str, str]]:
    """A table row per source: heading -> share, passes and batch of a run of so many steps.

    Shares of steps and of conversations differ where sources have their own batch.
    """
    expected = mixture.expected(steps)
    total = sum(expected.values())
    return [
        {
            "source": name,
            **({"stream": mixture.stream_of[name]} if isinstance(mixture, JointMixture) else {}),
            "media": ", ".join(sorted(mixture.sources[name].modalities)) or "text-only",
            "samples": f"{mixture.sizes[name]:,}",
            **({"of steps": f"{mixture.shares[name]:.1%}"} if mixture.mix == "step" else {}),
            "of conversations": f"{expected[name] / total:.1%}",
            "passes": f"{expected[name] / max(1, mixture.sizes[name]):.2f}",
            **({"batch": str(mixture.per_unit[name])} if mixture.mix == "step" else {}),
            "notes": "; ".join(_notes(mixture, name, model, expected[name])),
        }
        for name in mixture.sources
    ]


def _notes(mixture: Mixture[Dataset], name: str, model: ModelConfig, expected: float) -> Iterator[str]:
    """Pieces per item, limits of the share, and the order of the samples."""
    source, size = mixture.sources[name], mixture.sizes[name]
    for modality in MODALITIES:
        route, own = model.routes.get(modality.name), piece_count_of(source.config, modality.name)
        if modality.name in source.modalities and route is not None:
            count = own.count if own else route.pieces_config.count
            if count > 1 or own or getattr(route, route.pieces_key) is not None:
                yield f"{count} {modality.pieces if count > 1 else modality.piece}"
    if source.config.cap is not None and source.config.cap < size:
        yield f"counts as {source.config.cap:,}"
    limit = source.config.max_passes
    if limit is not None and expected > (limit - 1e-6) * size:
        yield f"limited to {limit:g} passes"
    if len(held := mixture.held_out[name]):
        yield f"{len(held):,} {'more ' * (size > 0)}held out for validation"
    yield from filter(None, [getattr(mixture.shuffles[name], "description", "")])


def _table(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Lines of a table: text left-aligned, numbers right-aligned."""
    widths = {key: max(len(key), *(len(row[key]) for row in rows)) for key in rows[0]}
    left = ("source", "stream", "media", "notes")
    for row in ({key: key for key in widths}, *rows):
        cells = [row[key].ljust(width) if key in left else row[key].rjust(width) for key, width in widths.items()]
        yield "  ".join(cells).rstrip()


def _batches(run: RunConfig, mixture: Mixture[Dataset], world_size: int) -> Iterator[str]:
    """Conversations of the run, and how they form batches."""
    total = sum(mixture.expected(run.max_steps).values())
    own = {name: batch for name, batch in mixture.per_unit.items() if mixture.mix == "step" and mixture.shares[name]}
    sizes = sorted(set(own.values()) or {mixture.global_batch})
    if len(sizes) == 1:
        yield f"{run.max_steps:,} steps of {sizes[0]} conversations = {run.max_steps * sizes[0]:,}"
    else:
        mean = f"{total / run.max_steps:.1f} on average"
        yield f"{run.max_steps:,} steps of {sizes[0]} to {sizes[-1]} conversations, {mean} = about {total:,.0f}"
    if mixture.mix == "joint":
        parts = run.accumulate * world_size
        micro = ", ".join(f"{name} {part.global_batch // parts}" for name, part in mixture.streams.items())
        yield f"micro-batches of a step: accumulate {run.accumulate} x ranks {world_size} of each stream, of {micro}"
    elif mixture.global_batch in sizes:
        parts = f"micro_batch {run.micro_batch} x accumulate {run.accumulate} x ranks {world_size}"
        yield f"global batch {mixture.global_batch} = {parts}"
    if others := [size for size in sizes if size != mixture.global_batch]:
        parts = run.accumulate * world_size
        micro = ", ".join(f"{size} -> {size // parts}" for size in others)
        yield f"batches of the sources / (accumulate {run.accumulate} x ranks {world_size}) = micro-batch: {micro}"


def _batching(config: Experiment, layout: Layout, mixture: Mixture[Dataset]) -> str:
    run, lengths = config.run, DrawLengths(mixture, layout, config.run.seed)
    num_slices = run.accumulate * ranks_planned()
    batching = batching_of(config.data, layout)
    return "\n".join(padding_lines(mixture, lengths, batching, num_slices, run.max_steps))


def _steps(run: RunConfig, mixture: Mixture[Dataset], world_size: int) -> str:
    rate = Schedule(run.schedule, run.optimizer.lr, run.max_steps)
    points = sorted({0, run.schedule.warmup_steps, run.max_steps // 2, run.max_steps - 1})
    rates = ", ".join(f"{rate(step):.2e} at step {step}" for step in points)
    lines = [
        *_batches(run, mixture, world_size),
        *([f"max_epochs {run.max_epochs:g} ends the run at step {run.max_steps:,}"] if run.max_epochs else []),
        f"learning rate ({run.schedule.kind}): {rates}",
        f"checkpoint every {run.save_every} steps, {run.keep} kept, in {run.output_dir}",
    ]
    return "\n".join(lines)


def _start(run: RunConfig, start: ResumePoint | None) -> str:
    if start is not None:
        return f"resumes from {start}"
    if run.init_from is not None:
        return f"at step 0 from the trained tensors of {run.init_from}"
    return "at step 0; parts without a weights file are freshly initialised"


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
