"""The token sequence of a sample for display: one piece per token, one per media item."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from chatbridge.cli.data.sample import SampleView
from chatbridge.conversation.layout import TokenSequence
from chatbridge.conversation.messages import Drawing
from chatbridge.experiment.tokens import Tokens


@dataclass(frozen=True)
class TokenPiece:
    """A token, or the slots of a media item (then `token_id` is None)."""

    at: int  # first position in the sequence
    text: str
    token_id: int | None
    supervised: bool = False
    length: int = 1


def pieces(sequence: TokenSequence, tokens: Tokens) -> Iterator[TokenPiece]:
    """Yield the pieces of a token sequence in order."""
    supervised = sequence.supervised()
    starts = {start: (modality, slot, length) for modality, slot, start, length in sequence.media_slots}
    at = 0
    while at < len(sequence.ids):
        if at in starts:
            modality, _, length = starts[at]
            name = f"{modality} {tokens.piece(sequence.ids[at])}" if modality in tokens.slot_ids else modality
            yield TokenPiece(at, name, None, length=length)
            at += max(length, 1)
        else:
            yield TokenPiece(at, tokens.piece(sequence.ids[at]), sequence.ids[at], at in supervised)
            at += 1


def counts(view: SampleView, unit: str) -> dict[str, str]:
    """Return counts for display, name -> formatted number; empty without a token sequence."""
    sequence = view.sequence
    if sequence is None:
        return {}
    media = sum(length for *_, length in sequence.media_slots)
    text = len(sequence.ids) - media
    found = {"total": f"{len(sequence.ids):,}", "media": f"{media:,}", unit: f"{text:,}"}
    if view.source.task is None:
        found["supervised"] = f"{len(sequence.target):,}"
    if sequence.is_cut:
        turns = f", {sequence.cut_turns} turn{'s' * (sequence.cut_turns > 1)}" if sequence.cut_turns else ""
        found[f"cut{turns}"] = f"{sequence.cut_tokens:,}"
    return found


def facts(view: SampleView) -> list[str]:
    """Return facts about the sample, a line each."""
    lines = []
    if view.share is not None:
        lines.append(f"the source has {view.share:.2%} of the draws and {len(view.source.dataset):,} samples")
    if view.prompt:
        lines.append(f"prompt drawn from {len(view.prompts)}: {view.prompt!r}")
    elif view.prompts:
        lines.append(f"one of {len(view.prompts)} prompts was drawn")
    if view.source.task is not None:
        lines.append(f"correct answer: {view.answer}")
        if view.source.task.drop_media:
            lines.append(f"removed: {', '.join(view.source.task.drop_media)}")
    if view.problem and view.replacement:
        lines.append(f"a run logs this failure and uses {view.replacement} instead")
    drawings = sum(isinstance(part, Drawing) for message in view.conversation for part in message.parts)
    if drawings and view.source.task is None:
        what = "1 image is" if drawings == 1 else f"{drawings} images are"
        lines.append(f"{what} drawn by the assistant: text after such an image sees the image, not its caption")
    return lines + view.notes


def is_cut(view: SampleView, turn: int) -> bool:
    """Return whether a message was cut because the sequence was too long."""
    return view.sequence is not None and turn >= len(view.conversation) - view.sequence.cut_turns
