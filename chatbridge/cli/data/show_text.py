"""A sample as text for a terminal."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator

from chatbridge.cli.data.sample import SampleView
from chatbridge.cli.data.terminal import Paint
from chatbridge.cli.data.token_stream import counts, facts, pieces
from chatbridge.conversation.messages import Message, Text
from chatbridge.experiment.prompt_segments import Segment, spaced
from chatbridge.experiment.tokens import Tokens
from chatbridge.processors.media_source import name_of
from chatbridge.serve.media_pictures.media_png import ReadMedia, about

WIDEST = 120


def sample_text(view: SampleView, tokens: Tokens, paint: Paint) -> str:
    """Return everything except the images. Without colors, [[ ]] marks supervised text and ~~ ~~ cut text."""
    width = min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns)
    head = [f"{paint.strong(view.source.name)}  {view.id}", paint.quiet(view.place), *facts(view)]
    if view.problem:
        head.append(paint.bad(f"cannot be used: {view.problem}"))
    if tokens.note:
        head.append(paint.quiet(f"{tokens.note}; shown as words"))
    parts = ["\n".join(head), *_media(view, paint)]
    if view.segments:
        parts.append(f"{paint.strong(f'input of the model (template {tokens.template})')}\n"
                     + "".join(gap + _segment(one, paint) for gap, one in spaced(view.segments)))  # fmt: skip
    elif view.conversation:
        parts.append("\n".join(_turn(message, paint) for message in view.conversation))
    if view.sequence is not None:
        summary = ", ".join(f"{name} {number}" for name, number in counts(view, tokens.unit).items())
        parts.append("\n".join([paint.strong(summary), *_stream(view, tokens, paint, width)]))
    return "\n\n".join(parts)


def _media(view: SampleView, paint: Paint) -> Iterator[str]:
    if view.media:
        yield "\n".join(_media_line(one, paint) for one in view.media)


def _media_line(item: ReadMedia, paint: Paint) -> str:
    return f"{paint.media(item.modality)}  {name_of(item.ref)}  {about(item)}"


def _turn(message: Message, paint: Paint) -> str:
    """Return role and text of a message, without a template."""
    parts = (
        part.text if isinstance(part, Text) else f"<{getattr(part, 'modality', 'drawing')}>" for part in message.parts
    )
    return f"{paint.strong(message.role)}: {' '.join(parts)}"


def _segment(one: Segment, paint: Paint) -> str:
    if one.modality:
        return paint.media(f"<{one.modality}>")
    if one.is_cut:
        return paint.quiet(one.text) if paint.is_on else f"~~{one.text}~~"
    if one.supervised:
        return paint.supervised(one.text) if paint.is_on else f"[[{one.text}]]"
    return one.text


def _stream(view: SampleView, tokens: Tokens, paint: Paint, width: int) -> Iterator[str]:
    """Yield wrapped lines of pieces with their ids; colors are added after wrapping, because they have no width."""
    assert view.sequence is not None
    suffix = (lambda one: f"/{one.token_id}") if tokens.unit == "tokens" else (lambda one: "")  # words have no ids
    words, kinds = [], []
    for one in pieces(view.sequence, tokens):
        word = f"<{one.text}x{one.length}>" if one.token_id is None else f"{one.text}{suffix(one)}"
        words.append((f"[[{word}]]" if one.supervised and not paint.is_on else word).replace(" ", "\u00a0"))
        kinds.append("media" if one.token_id is None else "supervised" if one.supervised else "")
    at = 0
    for line in textwrap.wrap(" ".join(words), width, break_long_words=False, break_on_hyphens=False):
        count = len(line.split(" "))
        yield " ".join(_colored(word, kind, paint) for word, kind in zip(line.split(" "), kinds[at : at + count]))
        at += count


def _colored(word: str, kind: str, paint: Paint) -> str:
    return {"media": paint.media, "supervised": paint.supervised}.get(kind, str)(word)
