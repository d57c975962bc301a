"""A sample as one self-contained HTML page in the style of the report."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from chatbridge.cli.data.sample import SampleView
from chatbridge.cli.data.token_stream import TokenPiece, counts, facts, is_cut, pieces
from chatbridge.common.text_repair import repaired
from chatbridge.conversation.messages import Drawing, Media, Message, Text
from chatbridge.experiment.prompt_segments import Segment, spaced
from chatbridge.experiment.tokens import Tokens
from chatbridge.processors.media_source import name_of
from chatbridge.report.media import embedded
from chatbridge.serve.media_pictures.media_png import ReadMedia, about

NAMES = {"total": "positions in total", "media": "media slots", "tokens": "text tokens", "words": "words of text"}
READS = """The template's exact string. Supervised text is colored, cut text is struck through; ⏎ is a line break."""
STREAM = (
    """Every position of the token sequence with its id. A supervised token is predicted from the position before it."""
)


def sample_page(view: SampleView, tokens: Tokens, pngs: Mapping[int, bytes], originals: Mapping[int, Path]) -> str:
    """Return the page.

    pngs, originals   number of a media item -> its PNG, and its file
    """
    report, data = files("chatbridge.report"), files("chatbridge.cli.data")
    style = data.joinpath("show.css").read_text(encoding="utf-8")
    template = report.joinpath("page.html").read_text(encoding="utf-8").replace("</style>", f"{style}</style>", 1)
    cards = [_media_card(view, number, pngs.get(number), originals.get(number)) for number in range(len(view.media))]
    body = [_head(view, tokens)]
    if cards:
        body.append(f'<h2>Media</h2><div class="seen">{"".join(cards)}</div>')
    body.append(f"<h2>Conversation</h2>{''.join(_turn(view, at, one) for at, one in enumerate(view.conversation))}")
    if view.segments:
        text = "".join(gap + _segment(one) for gap, one in spaced(view.segments))
        title = f'Input of the model <span class="quiet">· template {html.escape(tokens.template)}</span>'
        body.append(f'<h2>{title}</h2><p class="quiet">{READS}</p><div class="card string">{text}</div>')
    if view.sequence is not None:
        chips = "".join(_chip(one, tokens.unit == "tokens") for one in pieces(view.sequence, tokens))
        title = "Words" if tokens.unit == "words" else "Tokens"
        note = html.escape(f"{tokens.note}. Counted in words.") if tokens.note else STREAM
        body.append(f'<h2>{title}</h2><p class="quiet">{note}</p><div class="card stream">{chips}</div>')
    title = html.escape(f"{view.source.name} {view.id}")
    return repaired(template.replace("{{title}}", title).replace("{{body}}", "\n".join(body)))


def _head(view: SampleView, tokens: Tokens) -> str:
    name, where = html.escape(view.source.name), html.escape(view.place)
    title = f'<h1>{name} <span class="quiet">{html.escape(view.id)}</span></h1><p class="quiet">{where}</p>'
    title += "".join(f'<p class="fact">{html.escape(line)}</p>' for line in facts(view))
    if view.problem:
        title += f'<p class="card wrong">This sample cannot be used: {html.escape(view.problem)}</p>'
    tiles = "".join(
        f'<div class="tile"><span>{NAMES.get(name, html.escape(name))}</span><b>{number}</b></div>'
        for name, number in counts(view, tokens.unit).items()
    )
    return f'{title}<div class="tiles">{tiles}</div>'


def _media_card(view: SampleView, number: int, png: bytes | None, original: Path | None) -> str:
    item = view.media[number]
    place = f'<p class="quiet">{_place(view, number)}</p>'
    title = f'<h3>{html.escape(item.modality)} <span class="quiet">· {html.escape(_short(item))}</span></h3>'
    seen = f'<p class="missing">{html.escape(about(item))}</p>'
    if png is not None:
        source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
        seen = f'<img class="given" src="{source}" alt="encoder input">'
        seen += f'<p class="quiet">{html.escape(about(item))}</p>'
    if original is not None:
        file = f"<summary>the file</summary><div class='media'>{embedded(item.modality, original)}</div>"
        place += f"<details>{file}</details>"
    kind = "card" if item.modality == "image" else "card wide"
    return f'<div class="{kind}">{title}{seen}{place}</div>'


def _short(item: ReadMedia) -> str:
    return Path(item.ref).name if isinstance(item.ref, (str, Path)) else name_of(item.ref)


def _place(view: SampleView, number: int) -> str:
    """Return the positions of an item's tokens. Slots count the items that were read."""
    if view.sequence is None or view.media[number].tensor is None:
        return ""
    slot = sum(one.tensor is not None for one in view.media[:number])
    for _, found, start, length in view.sequence.media_slots:
        if found == slot:
            return f"{length} tokens, positions {start} to {start + length - 1}"
    return "in a turn that was cut"


def _turn(view: SampleView, at: int, message: Message) -> str:
    cut = " cut" if is_cut(view, at) else ""
    supervised = " supervised" if message.is_supervised else ""
    remark = ' <span class="tag frozen">cut</span>' if cut else ""
    parts = "".join(_part(part) for part in message.parts)
    return f'<div class="turn{cut}{supervised}"><b>{message.role}{remark}</b><div>{parts}</div></div>'


def _part(part: Text | Media | Drawing) -> str:
    if isinstance(part, Media):
        return f'<span class="media-item">{html.escape(part.modality)}</span>'
    if isinstance(part, Drawing):
        return f'<span class="media-item">drawing</span>{html.escape(part.caption)}'
    return html.escape(part.text)


def _segment(one: Segment) -> str:
    if one.modality:
        return f'<span class="media-item">{html.escape(one.modality)}</span>'
    kind = "cut" if one.is_cut else "supervised" if one.supervised else "plain"
    text = html.escape(one.text).replace("\n", '<i class="break">⏎</i>\n')
    return f'<span class="{kind}">{text}</span>'


def _chip(one: TokenPiece, has_id: bool) -> str:
    """Return a token with its id below it; a word in place of tokens has no id."""
    if one.token_id is None:
        where = f"{one.length} positions from {one.at}"
        return f'<span class="chip media-item">{html.escape(one.text)}<small>{where}</small></span>'
    kind, below = " supervised" if one.supervised else "", f"<small>{one.token_id}</small>" if has_id else ""
    return f'<span class="chip{kind}" title="position {one.at}">{html.escape(one.text)}{below}</span>'
