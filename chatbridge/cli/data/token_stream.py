"""The row of a sample as a stream for people: one entry per id, one per media item."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from chatbridge.conversation.layout import TokenSequence
from chatbridge.cli.data.sample import Shown
from chatbridge.experiment.tokens import Tokens


@dataclass(frozen=True)
class Entry:
    """A token, or the slots of a media item (then `number` is None)."""

    at: int  # first position in the row
    text: str
    number: int | None
    learned: bool = False
    length: int = 1


def entries(row: TokenSequence, tokens: Tokens) -> Iterator[Entry]:
    learned = row.supervised()
    starts = {start: (modality, slot, length) for modality, slot, start, length in row.media_slots}
    at = 0
    while at < len(row.ids):
        if at in starts:
            modality, _, length = starts[at]
            name = f"{modality} {tokens.piece(row.ids[at])}" if modality in tokens.slot_ids else modality
            yield Entry(at, name, None, length=length)
            at += max(length, 1)
        else:
            yield Entry(at, tokens.piece(row.ids[at]), row.ids[at], at in learned)
            at += 1


def counts(shown: Shown, unit: str) -> dict[str, str]:
    """What the row amounts to, name -> number for people; empty when there is none."""
    row = shown.row
    if row is None:
        return {}
    media = sum(length for *_, length in row.media_slots)
    words = len(row.ids) - media
    found = {"row": f"{len(row.ids):,}", "media": f"{media:,}", unit: f"{words:,}"}
    if shown.source.task is None:
        found["learned"] = f"{len(row.target):,}"
    if row.is_cut:
        turns = f", {row.cut_turns} turn{'s' * (row.cut_turns > 1)}" if row.cut_turns else ""
        found[f"cut off{turns}"] = f"{row.cut_tokens:,}"
    return found


def facts(shown: Shown) -> list[str]:
    """What is to be known about the sample, a line each."""
    lines = []
    if shown.share is not None:
        lines.append(f"the source has {shown.share:.2%} of the draws, over {len(shown.source.dataset):,} samples")
    if shown.prompt:
        lines.append(f"prompt drawn from {len(shown.prompts)}: {shown.prompt!r}")
    elif shown.prompts:
        lines.append(f"one of {len(shown.prompts)} prompts was drawn")
    if shown.source.task is not None:
        lines.append(f"right answer: {shown.answer}")
        if shown.source.task.drop_media:
            lines.append(f"taken away: {', '.join(shown.source.task.drop_media)}")
    if shown.problem and shown.instead:
        lines.append(f"a run writes that down and takes {shown.instead} instead")
    return lines + shown.notes


def is_cut(shown: Shown, turn: int) -> bool:
    """Whether a message fell off the end of a row that was too long."""
    return shown.row is not None and turn >= len(shown.conversation) - shown.row.cut_turns
