"""The worst, random and best items of every task on the page, with their media."""

from __future__ import annotations

import html
from collections.abc import Sequence

from chatbridge.report.chosen_items import ChosenItems, ScoresFile, chosen_items, item_score
from chatbridge.report.examples import drawn_images, is_right
from chatbridge.report.examples_section import drawn_html
from chatbridge.report.item_media import ItemMedia, Media, MediaBudget
from chatbridge.report.runs import Runs
from chatbridge.report.score_lines import unit_of
from chatbridge.report.tables import note, section, task_title
from chatbridge.tasks import Prediction
from chatbridge.tasks.score_text import score_text

LEAD = """By the headline score of each item; among equal ones, and for the random ones, a fixed seed decides. Items
that could not be read are counted by reason."""
LONGEST = 1200  # characters of a question or an answer on the page
MOST_REFERENCES = 3
Card = tuple[Media, list[Prediction]]


def items_section(runs: Runs, budget: MediaBudget) -> str:
    """HTML of the chosen items of all scored tasks with all their media; "" without any. The examples show others."""
    parts = []
    for task in runs.scored:
        file = ScoresFile(task)
        if shown := _task(chosen_items(task, higher_is_better=file.higher_is_better), budget):
            reasons = ", ".join(f"{count} {html.escape(reason)}" for reason, count in file.unreadable.items())
            title = f'<h3 class="kind">{task_title(task)}</h3>'
            parts.append(title + shown + (note(f"unreadable: {reasons}") if reasons else ""))
    return section("items", "Worst, random and best items", LEAD, "".join(parts)) if parts else ""


def _task(chosen: ChosenItems, budget: MediaBudget) -> str:
    media, parts = ItemMedia(chosen.task.node, chosen.task.name), []
    for title, rows in (("worst", chosen.worst), ("random", chosen.random), ("best", chosen.best)):
        if rows:
            cards = "".join(_card(chosen, one, budget) for one in _by_media(rows, media))
            parts.append(f'<h4 class="quiet">{title}</h4><div class="examples">{cards}</div>')
    return "".join(parts)


def _by_media(rows: Sequence[Prediction], media: ItemMedia) -> list[Card]:
    """Items about the same media together; an item without media is alone."""
    found: dict[tuple[Media, str], Card] = {}
    for row in rows:
        own = media.of(row)
        found.setdefault((own, "" if own else str(row["id"])), (own, []))[1].append(row)
    return list(found.values())


def _card(chosen: ChosenItems, card: Card, budget: MediaBudget) -> str:
    shown = budget.html(card[0])
    media = f'<div class="media">{shown}</div>' if shown else ""
    return f'<div class="card example">{media}{"".join(_exchange(chosen, row) for row in card[1])}</div>'


def _exchange(chosen: ChosenItems, row: Prediction) -> str:
    task = chosen.task
    right, score = is_right(task, row), item_score(task, row)
    kind = "plain" if right is None else "" if right else "wrong"
    value = "" if score is None else f'<span class="s">{score_text(score, unit_of(task.metrics, task.metric))}</span>'
    references = " / ".join(row["references"][:MOST_REFERENCES])
    told = f'<div class="q">correct: {_text(references)}</div>' if references and not right else ""
    drawn = "".join(map(drawn_html, drawn_images(task.folder, row)))
    return (
        f'<div class="exchange {kind}">{value}<div class="q">{_text(row["question"])}</div>'
        f'<div class="a">{_text(row["prediction"]) or "(empty)"}</div>{drawn}{told}</div>'
    )


def _text(text: str) -> str:
    return html.escape(text if len(text) <= LONGEST else f"{text[:LONGEST]} ... ({len(text):,} characters)")
