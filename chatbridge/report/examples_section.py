"""The examples on the page: media with all questions about them, and the drawings of answers."""

from __future__ import annotations

import html

from chatbridge.report.examples import DrawnImage, Exchange, MediaExample, find_examples
from chatbridge.report.item_media import MediaBudget, small_image
from chatbridge.report.media import embedded
from chatbridge.report.runs import Runs
from chatbridge.report.tables import section, title_of_media

LEAD = """Chosen by rule: the first two of each combination of modalities, then the first with an incorrect answer,
if there is one."""


def examples_section(runs: Runs, budget: MediaBudget) -> str:
    """HTML of the examples of all combinations of modalities; "" without any."""
    parts = []
    for modalities, examples in find_examples(runs).items():
        title = title_of_media(modalities) or "Text"
        cards = "".join(_example(example, budget) for example in examples)
        parts.append(f'<h3 class="kind">{title}</h3><div class="examples">{cards}</div>')
    return section("examples", "Examples", LEAD, "".join(parts)) if parts else ""


def _example(example: MediaExample, budget: MediaBudget) -> str:
    exchanges = "".join(_exchange(one) for one in example.exchanges)
    media = f'<div class="media">{budget.html(example.media)}</div>' if example.media else ""
    return f'<div class="card example">{media}{exchanges}</div>'


def _exchange(one: Exchange) -> str:
    reference = "" if one.is_correct else f'<div class="r">correct: {html.escape(one.reference)}</div>'
    question, answer = html.escape(one.question), html.escape(one.answer) or "(empty)"
    kind = "exchange plain" if one.is_correct is None else "exchange" if one.is_correct else "exchange wrong"
    drawn = "".join(map(drawn_html, one.drawn))
    return f'<div class="{kind}"><div class="q">{question}</div><div class="a">{answer}</div>{drawn}{reference}</div>'


def drawn_html(one: DrawnImage) -> str:
    """An image that the model drew, with its caption."""
    image = f'<p class="quiet">{html.escape(one.problem or "no image")}</p>'
    if one.path is not None:
        image = embedded("image", small_image("image", one.path))
    return f'<figure class="drawn">{image}<figcaption>{html.escape(one.caption)}</figcaption></figure>'
