"""The tables of `stats` for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from chatbridge.cli.data.measure import Lengths, summary
from chatbridge.cli.data.terminal import Paint
from chatbridge.experiment.partial_data import Source

if TYPE_CHECKING:
    from chatbridge.cli.data.stats import Stats


def text(stats: Stats, paint: Paint) -> str:
    found = stats.found
    parts = ["\n".join([paint.strong(str(found.path)), f"template {stats.template}, lengths in {stats.unit}",
                        *(paint.quiet(f"note: {note}") for note in dict.fromkeys(stats.notes))])]  # fmt: skip
    if found.trained:
        parts.append(_rows(stats, paint))
    if stats.parts is not None:
        parts += [_run(stats, paint), _step(stats)]
    if found.asked:
        parts.append(_questions(stats, paint))
    if found.broken:
        parts.append("\n".join(paint.bad(f"{at}: cannot be opened, said below") for at in found.broken))
    return "\n\n".join(parts)


def _rows(stats: Stats, paint: Paint) -> str:
    head = ["source", "samples", "measured", "row", "p5", "p50", "p95", "max", "media", "text", "learned", "cut", "all"]
    lines = [_row(source, stats.lengths.get(source.name)) for source in stats.found.trained]
    note = f"row: mean length, then its percentiles; learned: {stats.unit} with a loss; all: {stats.unit} of the source"
    return "\n".join([table(head, lines, paint), paint.quiet(note), *_unusable(stats.lengths, paint)])


def _unusable(lengths: Mapping[str, Lengths], paint: Paint) -> list[str]:
    """How many samples of each source cannot be laid out, and why the first of them cannot."""
    return [
        paint.bad(
            f"{name}: some samples give no row ({len(one.unusable)} of {one.num_read}), the first: {one.unusable[0]}"
        )
        for name, one in lengths.items()
        if one.unusable
    ]


def _row(source: Source, lengths: Lengths | None) -> list[str]:
    size = len(source.dataset)
    if lengths is None or not len(lengths):
        return [source.name, f"{size:,}", "0", *["-"] * 10]
    row = summary(lengths.row)
    written = lengths.row - lengths.media
    measured = f"{len(lengths):,}" + (f" of {lengths.num_read:,}" if lengths.unusable else "")
    percentiles = (f"{row[key]:,}" for key in ("p5", "p50", "p95", "max"))
    return [
        source.name, f"{size:,}", measured, f"{row['mean']:.0f}", *percentiles,
        f"{lengths.media.mean():.0f}", f"{written.mean():.0f}", f"{lengths.learned.mean():.1f}",
        f"{(lengths.cut > 0).mean():.1%}", short(size * row["mean"]),
    ]  # fmt: skip


def _run(stats: Stats, paint: Paint) -> str:
    assert stats.parts is not None and stats.found.run is not None
    dealt = {"sample": "of draws", "step": "of steps", "micro": "of slices"}[stats.mix]
    head = ["source", dealt, "of conversations", "of learned", "conversations", stats.unit, "passes"]
    lines = [
        [name, f"{part.cards:.2%}", f"{part.conversations:.2%}", f"{part.learned:.2%}", f"{part.draws:,}",
         short(part.tokens), f"{part.passes:.2f}"]
        for name, part in ((source.name, stats.parts[source.name]) for source in stats.found.trained)
    ]  # fmt: skip
    draws, tokens = sum(part.draws for part in stats.parts.values()), sum(part.tokens for part in stats.parts.values())
    lines.append(["all", "", "", "", f"{draws:,}", short(tokens), ""])
    note = "of learned: share of the learned tokens, so of the loss; passes: how often the run sees every sample"
    title = paint.strong(f"the run: {stats.found.run.max_steps:,} steps, mix {stats.mix}")
    return "\n".join([title, table(head, lines, paint), paint.quiet(note)])


def _step(stats: Stats) -> str:
    assert stats.batches is not None
    one = stats.batches
    held = f"{one.conversations:,.0f} conversations, {one.places:,.0f} places, {one.learned:,.0f} learned {stats.unit}"
    return f"a step has on average {held}; {one.padding:.1%} of the places of its micro-batches are padding"


def _questions(stats: Stats, paint: Paint) -> str:
    head = ["task", "questions", "measured", "prompt", "p95", "max", "media", "answer", "p95", "max", "too long", "no room"]
    lines = [_question(source, stats.questions.get(source.name)) for source in stats.found.asked]
    note = (
        "answer: the first right one; too long: answers above max_new_tokens, which the model cannot give whole; no "
        "room: prompts after which the context of the language model has fewer tokens left than max_new_tokens"
    )
    return "\n".join([table(head, lines, paint), paint.quiet(note), *_unusable(stats.questions, paint)])


def _question(source: Source, lengths: Lengths | None) -> list[str]:
    if lengths is None or not len(lengths) or source.task is None:
        return [source.name, f"{len(source.dataset):,}", "0", *["-"] * 9]
    row, answer = summary(lengths.row), summary(lengths.answer)
    too_long = float((lengths.answer > source.task.max_new_tokens).mean())
    return [
        source.name, f"{len(source.dataset):,}", f"{len(lengths):,}", f"{row['mean']:.0f}", f"{row['p95']:,}",
        f"{row['max']:,}", f"{lengths.media.mean():.0f}", f"{answer['mean']:.1f}", f"{answer['p95']:,}",
        f"{answer['max']:,}", f"{too_long:.1%}", f"{(lengths.cut > 0).mean():.1%}",
    ]  # fmt: skip


def table(head: Sequence[str], lines: Sequence[Sequence[str]], paint: Paint) -> str:
    """The first column on the left, numbers on the right."""
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]

    def laid(line: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if at == 0 else cell.rjust(width) for at, (cell, width) in enumerate(zip(line, widths))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join([paint.quiet(laid(head)), *map(laid, lines)])


def short(count: float) -> str:
    """1234567 -> 1.23 M"""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {letter}"
    return f"{count:.0f}"
