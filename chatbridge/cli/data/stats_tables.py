"""The tables of `chatbridge data stats`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from chatbridge.cli.data.measure import Lengths, summary
from chatbridge.cli.data.run_shares import SourceShare, StepAverages
from chatbridge.cli.data.terminal import Paint
from chatbridge.common.text_table import text_table
from chatbridge.datasets.order.mixture import SHARES
from chatbridge.experiment.partial_data import PartialData, Source


@dataclass
class Stats:
    """The results of `stats`. Lengths are in `unit`: tokens, or words if there is no tokenizer yet.

    shares, averages   None if the file does not state the length of the run, or has mistakes in data or run
    """

    found: PartialData
    template: str
    unit: str
    notes: list[str] = field(default_factory=list)
    lengths: dict[str, Lengths] = field(default_factory=dict)
    questions: dict[str, Lengths] = field(default_factory=dict)
    shares: dict[str, SourceShare] | None = None
    averages: StepAverages | None = None
    mix: str = ""


def stats_text(stats: Stats, paint: Paint) -> str:
    """Return all tables as text."""
    found = stats.found
    parts = ["\n".join([paint.strong(str(found.path)), f"template {stats.template}, lengths in {stats.unit}",
                        *(paint.quiet(f"note: {note}") for note in dict.fromkeys(stats.notes))])]  # fmt: skip
    if found.trained:
        parts.append(_source_table(stats, paint))
    if stats.shares is not None:
        parts += [_run_table(stats, paint), _step_line(stats)]
    if found.asked:
        parts.append(_task_table(stats, paint))
    if found.broken:
        parts.append("\n".join(paint.bad(f"{at}: cannot be opened, see below") for at in found.broken))
    return "\n\n".join(parts)


def short(count: float) -> str:
    """1234567 -> 1.23 M"""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {letter}"
    return f"{count:.0f}"


def _source_table(stats: Stats, paint: Paint) -> str:
    head = ["source", "samples", "measured", "length", "p5", "p50", "p95", "max", "media", "text", "supervised", "cut",
            "all"]  # fmt: skip
    rows = [_source_row(source, stats.lengths.get(source.name)) for source in stats.found.trained]
    note = (
        f"length: mean, then percentiles; supervised: {stats.unit} that the loss counts; cut: share of cut sequences; "
        f"all: {stats.unit} of the whole source"
    )
    return "\n".join([text_table(head, rows, paint.is_on), paint.quiet(note), *_unusable(stats.lengths, paint)])


def _unusable(lengths: Mapping[str, Lengths], paint: Paint) -> list[str]:
    """Return a line per source with samples that cannot be laid out, with the first reason."""
    return [
        paint.bad(f"{name}: {len(one.unusable)} of {one.num_read} samples cannot be laid out, first: {one.unusable[0]}")
        for name, one in lengths.items()
        if one.unusable
    ]


def _source_row(source: Source, lengths: Lengths | None) -> list[str]:
    size = len(source.dataset)
    if lengths is None or not len(lengths):
        return [source.name, f"{size:,}", "0", *["-"] * 10]
    total = summary(lengths.total)
    text = lengths.total - lengths.media
    measured = f"{len(lengths):,}" + (f" of {lengths.num_read:,}" if lengths.unusable else "")
    percentiles = (f"{total[key]:,}" for key in ("p5", "p50", "p95", "max"))
    return [
        source.name, f"{size:,}", measured, f"{total['mean']:.0f}", *percentiles,
        f"{lengths.media.mean():.0f}", f"{text.mean():.0f}", f"{lengths.supervised.mean():.1f}",
        f"{(lengths.cut > 0).mean():.1%}", short(size * total["mean"]),
    ]  # fmt: skip


def _run_table(stats: Stats, paint: Paint) -> str:
    assert stats.shares is not None and stats.found.run is not None
    last = "of the loss" if stats.mix == "joint" else "of supervised"
    head = ["source", SHARES[stats.mix], "of conversations", last, "conversations", stats.unit, "passes"]
    rows = [
        [name, f"{one.share:.2%}", f"{one.conversations:.2%}", f"{one.loss:.2%}", f"{one.draws:,}",
         short(one.tokens), f"{one.passes:.2f}"]
        for name, one in ((source.name, stats.shares[source.name]) for source in stats.found.trained)
    ]  # fmt: skip
    draws, tokens = sum(one.draws for one in stats.shares.values()), sum(one.tokens for one in stats.shares.values())
    rows.append(["all", "", "", "", f"{draws:,}", short(tokens), ""])
    note = "of supervised: share of the supervised tokens, hence of the loss; passes: times that each sample is drawn"
    if stats.mix == "joint":
        note = (
            "of the loss: share of the supervised tokens of its stream, times the weight of the stream; passes: times "
            "that each sample is drawn"
        )
    title = paint.strong(f"the run: {stats.found.run.max_steps:,} steps, mix {stats.mix}")
    return "\n".join([title, text_table(head, rows, paint.is_on), paint.quiet(note)])


def _step_line(stats: Stats) -> str:
    assert stats.averages is not None
    one = stats.averages
    content = (
        f"{one.conversations:,.0f} conversations, {one.tokens:,.0f} {stats.unit}, {one.supervised:,.0f} supervised"
    )
    return f"average step: {content}; {one.padding:.1%} of the positions of its micro-batches are padding"


def _task_table(stats: Stats, paint: Paint) -> str:
    head = [
        "task",
        "questions",
        "measured",
        "prompt",
        "p95",
        "max",
        "media",
        "answer",
        "p95",
        "max",
        "too long",
        "no room",
    ]
    rows = [_task_row(source, stats.questions.get(source.name)) for source in stats.found.asked]
    note = (
        "answer: the first correct one; too long: share of answers above max_new_tokens; no room: share of prompts "
        "that leave fewer than max_new_tokens of the context length"
    )
    return "\n".join([text_table(head, rows, paint.is_on), paint.quiet(note), *_unusable(stats.questions, paint)])


def _task_row(source: Source, lengths: Lengths | None) -> list[str]:
    if lengths is None or not len(lengths) or source.task is None:
        return [source.name, f"{len(source.dataset):,}", "0", *["-"] * 9]
    prompt, answer = summary(lengths.total), summary(lengths.answer)
    too_long = float((lengths.answer > source.task.max_new_tokens).mean())
    return [
        source.name, f"{len(source.dataset):,}", f"{len(lengths):,}", f"{prompt['mean']:.0f}", f"{prompt['p95']:,}",
        f"{prompt['max']:,}", f"{lengths.media.mean():.0f}", f"{answer['mean']:.1f}", f"{answer['p95']:,}",
        f"{answer['max']:,}", f"{too_long:.1%}", f"{(lengths.cut > 0).mean():.1%}",
    ]  # fmt: skip
