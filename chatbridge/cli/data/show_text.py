"""A sample on a terminal."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Sequence

from chatbridge.conversation.messages import Message, Text
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.cli.data.sample import Medium, Segment, Shown
from chatbridge.cli.data.token_stream import counts, entries, facts
from chatbridge.cli.data.terminal import Paint
from chatbridge.experiment.tokens import Tokens
from chatbridge.processors.media_source import name_of

WIDEST = 120


def text(shown: Shown, tokens: Tokens, paint: Paint) -> str:
    """Everything but the pictures. Without colours, [[ ]] stands around what is learned, ~~ ~~ around what is cut."""
    width = min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns)
    head = [f"{paint.strong(shown.source.name)}  {shown.id}", paint.quiet(shown.place), *facts(shown)]
    if shown.problem:
        head.append(paint.bad(f"cannot be used: {shown.problem}"))
    if tokens.note:
        head.append(paint.quiet(f"{tokens.note}; shown in words"))
    parts = ["\n".join(head), *_media(shown, paint)]
    if shown.segments:
        parts.append(f"{paint.strong(f'what the model reads (template {tokens.template})')}\n"
                     + "".join(gap + _segment(one, paint) for gap, one in spaced(shown.segments)))  # fmt: skip
    elif shown.conversation:
        parts.append("\n".join(_turn(message, paint) for message in shown.conversation))
    if shown.row is not None:
        said = ", ".join(f"{name} {number}" for name, number in counts(shown, tokens.unit).items())
        parts.append("\n".join([paint.strong(said), *_stream(shown, tokens, paint, width)]))
    return "\n\n".join(parts)


def _media(shown: Shown, paint: Paint) -> Iterator[str]:
    if shown.media:
        yield "\n".join(_medium(one, paint) for one in shown.media)


def _medium(medium: Medium, paint: Paint) -> str:
    return f"{paint.media(medium.modality)}  {name_of(medium.ref)}  {about(medium)}"


def about(medium: Medium) -> str:
    """ "frames 3, 9, 14, 20 of 24; uint8[4, 3, 224, 224]" """
    if medium.tensor is None:
        return "cannot be read"
    shape = f"{str(medium.tensor.dtype).removeprefix('torch.')}{list(medium.tensor.shape)}"
    if medium.chosen is None or (medium.modality == "audio" and medium.chosen[0] < 2):
        return shape
    length, taken = medium.chosen
    what = MODALITIES.get(medium.modality).pieces
    return f"{what} {', '.join(map(str, taken))} of {length} (from 0); {shape}"


def _turn(message: Message, paint: Paint) -> str:
    """For want of a template: who speaks, and what."""
    words = (
        part.text if isinstance(part, Text) else f"<{getattr(part, 'modality', 'drawing')}>" for part in message.parts
    )
    return f"{paint.strong(message.role)}: {' '.join(words)}"


def spaced(segments: Sequence[Segment]) -> Iterator[tuple[str, Segment]]:
    """Every segment with what is put before it: a blank between a word and a media item beside it, for people."""
    last = None
    for one in segments:
        is_beside = last is not None and bool(last.modality) != bool(one.modality)
        edges = (last.words[-1:], one.words[:1]) if is_beside and last is not None else ("", "")
        yield (" " if any(edge.isalnum() for edge in edges) else ""), one
        last = one


def _segment(one: Segment, paint: Paint) -> str:
    if one.modality:
        return paint.media(f"<{one.modality}>")
    if one.gone:
        return paint.quiet(one.words) if paint.is_on else f"~~{one.words}~~"
    if one.learned:
        return paint.learned(one.words) if paint.is_on else f"[[{one.words}]]"
    return one.words


def _stream(shown: Shown, tokens: Tokens, paint: Paint, width: int) -> Iterator[str]:
    """Pieces with their ids, wrapped; colours are put in after wrapping, because they have no width."""
    assert shown.row is not None
    number = (lambda one: f"/{one.number}") if tokens.unit == "tokens" else (lambda one: "")  # words have no ids
    words, kinds = [], []
    for one in entries(shown.row, tokens):
        word = f"<{one.text}x{one.length}>" if one.number is None else f"{one.text}{number(one)}"
        words.append((f"[[{word}]]" if one.learned and not paint.is_on else word).replace(" ", "\u00a0"))
        kinds.append("media" if one.number is None else "learned" if one.learned else "")
    at = 0
    for line in textwrap.wrap(" ".join(words), width, break_long_words=False, break_on_hyphens=False):
        count = len(line.split(" "))
        yield " ".join(_coloured(word, kind, paint) for word, kind in zip(line.split(" "), kinds[at : at + count]))
        at += count


def _coloured(word: str, kind: str, paint: Paint) -> str:
    return {"media": paint.media, "learned": paint.learned}.get(kind, str)(word)
