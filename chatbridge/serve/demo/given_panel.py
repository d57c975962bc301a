"""The panel "What the model was given": its HTML. All text is escaped, pictures are part of the page."""

from __future__ import annotations

import html
from base64 import b64encode
from collections.abc import Iterator, Sequence

from chatbridge.common.text_repair import repaired
from chatbridge.serve.demo.answering import Side
from chatbridge.serve.demo.chat_state import Chat
from chatbridge.serve.session import ChatTurn
from chatbridge.serve.what_it_saw import PromptPiece, SeenMedia, what_it_saw

EMPTY = "<p class=note>Nothing yet: ask a question. Later, a click on a message shows what its answer was made of.</p>"
MOST_PICTURES = 16  # of one panel; further media are listed without theirs


def given_html(sides: Sequence[Side], chat: Chat, number: int = -1) -> str:
    """The panel of one question, for every model.

    number   of the question, from 0; negative ones from the end
    """
    if not chat.questions:
        return EMPTY
    number = range(len(chat.questions))[number]
    parts = [f"<p class=note>Question {number + 1} of {len(chat.questions)}</p>"]
    for at, side in enumerate(sides):
        parts += [f"<h2>{escaped(side.name)}</h2>"] if side.name else []
        parts += _of_side(side, chat, at, number)
    return "".join(parts)


def counts_text(sides: Sequence[Side], turns: Sequence[ChatTurn]) -> str:
    """One line about the answers so far: "12 tokens, the first one after 0.21 s, 35.1 tokens/s"."""
    found = [(side.name, line) for side, turn in zip(sides, turns, strict=True) if (line := _counts(turn))]
    return "; ".join(f"{name}: {line}" if name else line for name, line in found)


def escaped(text: str) -> str:
    """Text for use within the HTML of a gradio component, which reads ${...} and {{...}} as templates."""
    shown = html.escape(repaired(text))
    return shown.replace("$", "&#36;").replace("{", "&#123;").replace("}", "&#125;")


def _of_side(side: Side, chat: Chat, at: int, number: int) -> Iterator[str]:
    seen = what_it_saw(side.engine, chat.session(at), number)
    yield from (f"<p class=note>{escaped(note)}</p>" for note in seen.notes)
    if seen.media:
        pictures = {id(one) for one in sorted(seen.media, key=lambda one: not one.is_new)[:MOST_PICTURES]}
        items = "".join(_media(one, id(one) in pictures) for one in seen.media)
        yield f"<h3>Media</h3><ol>{items}</ol>"
    if seen.prompt:
        yield f"<h3>Prompt</h3><pre>{''.join(map(_piece, seen.prompt))}</pre>"
    if seen.counts:
        rows = "".join(f"<tr><td>{escaped(what)}</td><td>{escaped(much)}</td></tr>" for what, much in seen.counts)
        yield f"<h3>Counts</h3><table>{rows}</table>"


def _media(item: SeenMedia, has_picture: bool) -> str:
    """A list item; media of earlier questions are folded."""
    title = f"{escaped(item.modality)}: {escaped(item.name)}"
    tokens = f"{item.num_tokens:,} token{'s' if item.num_tokens != 1 else ''}"
    inside = ""
    if has_picture and item.png is not None:
        source = b64encode(item.png).decode()
        inside = f'<img alt="what the encoder read of {title}" src="data:image/png;base64,{source}">'
    inside += f"<div class=note>{escaped(item.about)}, {tokens}</div>"
    if item.is_new:
        return f"<li>{title}{inside}</li>"
    return f"<li><details><summary>{title} (of an earlier question)</summary>{inside}</details></li>"


def _piece(piece: PromptPiece) -> str:
    if not piece.modality:
        return escaped(piece.text)
    return f"<span class=media>&lt;{escaped(piece.modality)} x {piece.num_tokens}&gt;</span>"


def _counts(turn: ChatTurn) -> str:
    if not turn.num_tokens:
        return ""
    line = f"{turn.num_tokens} token{'s' if turn.num_tokens != 1 else ''}"
    if turn.timing.first_token_s is not None:
        line += f", the first one after {turn.timing.first_token_s:.2f} s"
    if (speed := turn.timing.tokens_per_s(turn.num_tokens)) is not None:
        line += f", {speed:.1f} tokens/s"
    return line


__all__ = ["EMPTY", "counts_text", "escaped", "given_html"]
