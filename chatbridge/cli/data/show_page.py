"""A sample as one HTML page that needs nothing but itself, in the dress of the report."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from chatbridge.common.text_repair import repaired
from chatbridge.conversation.messages import Drawing, Media, Message, Text
from chatbridge.cli.data.sample import Medium, Segment, Shown
from chatbridge.cli.data.show_text import about, spaced
from chatbridge.cli.data.token_stream import Entry, counts, entries, facts, is_cut
from chatbridge.experiment.tokens import Tokens
from chatbridge.processors.media_source import name_of
from chatbridge.report.media import embedded

NAMES = {"row": "places in the row", "media": "of them media", "tokens": "of them tokens", "words": "of them words"}
READS = """The template's exact string. Coloured is what the model learns to say, struck out what did not fit; ⏎ is a
line break."""
STREAM = """Every place of the row, with the id under it. What is learned is predicted from the place before it."""


def page(shown: Shown, tokens: Tokens, pngs: Mapping[int, bytes], originals: Mapping[int, Path]) -> str:
    """The whole page.

    pngs, originals   number of a medium -> its picture, and the file it came from
    """
    report, data = files("chatbridge.report"), files("chatbridge.cli.data")
    style = data.joinpath("show.css").read_text(encoding="utf-8")
    template = report.joinpath("page.html").read_text(encoding="utf-8").replace("</style>", f"{style}</style>", 1)
    cards = [_card(shown, number, pngs.get(number), originals.get(number)) for number in range(len(shown.media))]
    body = [_head(shown, tokens)]
    if cards:
        body.append(f'<h2>Media</h2><div class="seen">{"".join(cards)}</div>')
    body.append(f"<h2>Conversation</h2>{''.join(_turn(shown, at, one) for at, one in enumerate(shown.conversation))}")
    if shown.segments:
        words = "".join(gap + _segment(one) for gap, one in spaced(shown.segments))
        title = f'What the model reads <span class="quiet">· template {html.escape(tokens.template)}</span>'
        body.append(f'<h2>{title}</h2><p class="quiet">{READS}</p><div class="card string">{words}</div>')
    if shown.row is not None:
        chips = "".join(_chip(one, tokens.unit == "tokens") for one in entries(shown.row, tokens))
        title = "Words" if tokens.unit == "words" else "Tokens"
        note = html.escape(f"{tokens.note}. Counted in words.") if tokens.note else STREAM
        body.append(f'<h2>{title}</h2><p class="quiet">{note}</p><div class="card stream">{chips}</div>')
    title = html.escape(f"{shown.source.name} {shown.id}")
    return repaired(template.replace("{{title}}", title).replace("{{body}}", "\n".join(body)))


def _head(shown: Shown, tokens: Tokens) -> str:
    name, where = html.escape(shown.source.name), html.escape(shown.place)
    title = f'<h1>{name} <span class="quiet">{html.escape(shown.id)}</span></h1><p class="quiet">{where}</p>'
    title += "".join(f'<p class="fact">{html.escape(line)}</p>' for line in facts(shown))
    if shown.problem:
        title += f'<p class="card wrong">This sample cannot be used: {html.escape(shown.problem)}</p>'
    tiles = "".join(
        f'<div class="tile"><span>{NAMES.get(name, html.escape(name))}</span><b>{number}</b></div>'
        for name, number in counts(shown, tokens.unit).items()
    )
    return f'{title}<div class="tiles">{tiles}</div>'


def _card(shown: Shown, number: int, png: bytes | None, original: Path | None) -> str:
    medium = shown.media[number]
    place = f'<p class="quiet">{_place(shown, number)}</p>'
    title = f'<h3>{html.escape(medium.modality)} <span class="quiet">· {html.escape(_short(medium))}</span></h3>'
    seen = f'<p class="missing">{html.escape(about(medium))}</p>'
    if png is not None:
        source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
        seen = f'<img class="given" src="{source}" alt="what the encoder gets">'
        seen += f'<p class="quiet">{html.escape(about(medium))}</p>'
    if original is not None:
        file = f"<summary>the file</summary><div class='media'>{embedded(medium.modality, original)}</div>"
        place += f"<details>{file}</details>"
    kind = "card" if medium.modality == "image" else "card wide"
    return f'<div class="{kind}">{title}{seen}{place}</div>'


def _short(medium: Medium) -> str:
    return Path(medium.ref).name if isinstance(medium.ref, (str, Path)) else name_of(medium.ref)


def _place(shown: Shown, number: int) -> str:
    """Where the tokens of a medium stand. Slots count the media that were read."""
    if shown.row is None or shown.media[number].tensor is None:
        return ""
    slot = sum(one.tensor is not None for one in shown.media[:number])
    for _, found, start, length in shown.row.media_slots:
        if found == slot:
            return f"{length} tokens, places {start} to {start + length - 1}"
    return "in a turn that was cut off"


def _turn(shown: Shown, at: int, message: Message) -> str:
    cut = " gone" if is_cut(shown, at) else ""
    learned = " learned" if message.is_supervised else ""
    remark = ' <span class="tag frozen">cut off</span>' if cut else ""
    parts = "".join(_part(part) for part in message.parts)
    return f'<div class="turn{cut}{learned}"><b>{message.role}{remark}</b><div>{parts}</div></div>'


def _part(part: Text | Media | Drawing) -> str:
    if isinstance(part, Media):
        return f'<span class="medium">{html.escape(part.modality)}</span>'
    if isinstance(part, Drawing):
        return f'<span class="medium">drawing</span>{html.escape(part.caption)}'
    return html.escape(part.text)


def _segment(one: Segment) -> str:
    if one.modality:
        return f'<span class="medium">{html.escape(one.modality)}</span>'
    kind = "gone" if one.gone else "learned" if one.learned else "plain"
    words = html.escape(one.words).replace("\n", '<i class="break">⏎</i>\n')
    return f'<span class="{kind}">{words}</span>'


def _chip(one: Entry, has_id: bool) -> str:
    """A token with its id below it; a word that stands in for tokens has none."""
    if one.number is None:
        return (
            f'<span class="chip medium">{html.escape(one.text)}<small>{one.length} places from {one.at}</small></span>'
        )
    kind, below = " learned" if one.learned else "", f"<small>{one.number}</small>" if has_id else ""
    return f'<span class="chip{kind}" title="place {one.at}">{html.escape(one.text)}{below}</span>'
