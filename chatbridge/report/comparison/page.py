"""A comparison as one self-contained page: scores, settings that differ, and the changed items with their media."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from chatbridge.common.safe_files import replace_text
from chatbridge.common.text_repair import repaired
from chatbridge.report.comparison.task import ItemChange, ScoreComparison, TaskComparison
from chatbridge.report.comparison.text import HEAD, MANY, cells, coverage, num_tests
from chatbridge.report.examples import drawn_images
from chatbridge.report.examples_section import drawn_html
from chatbridge.report.item_media import ItemMedia, Media, MediaBudget
from chatbridge.report.tables import note, number, section, table, table_row
from chatbridge.tasks.metrics.base import Item
from chatbridge.tasks.score_text import score_text

TITLE = "ChatBridge comparison"
ITEMS = 20  # changed items of a task that are shown in either direction
LONGEST = 1200  # characters of a question or an answer on the page
SCORES = """B - A is the difference on the items that both have, in points of percent or in the unit of the score.
Its interval and p come from a paired bootstrap: both scores of every resample are those of the same items. The p of
items is that of McNemar's exact test for correct and incorrect answers; for graded scores, and for items that are drawn
together (questions about one image), that of the sign test."""
CHANGED = """Items whose headline score is not the same, the largest change first."""


def write_comparison(
    path: Path,
    tasks: Sequence[TaskComparison],
    labels: tuple[str, str],
    settings: Mapping[str, Sequence[str]],
    notes: Sequence[str] = (),
    items: int = ITEMS,
) -> Path:
    """Write the page; returns its path. raises OSError that names the file"""
    replace_text(path, repaired(comparison_page(tasks, labels, settings, notes, items)))
    return path


def comparison_page(
    tasks: Sequence[TaskComparison],
    labels: tuple[str, str],
    settings: Mapping[str, Sequence[str]],
    notes: Sequence[str] = (),
    items: int = ITEMS,
) -> str:
    """The whole page as HTML.

    labels     of A and of B
    settings   name -> its values in A and in B, of those that differ
    items      most items of a task in either direction
    """
    template = files("chatbridge.report").joinpath("page.html").read_text(encoding="utf-8")
    budget = MediaBudget()
    parts = [_head(labels, notes), _scores(tasks), _settings(settings)]
    parts += [_changed(position, task, items, budget) for position, task in enumerate(tasks)]
    title = f"{TITLE}: {labels[0]} and {labels[1]}"
    return template.replace("{{title}}", html.escape(title)).replace("{{body}}", "\n".join(filter(None, parts)))


def _head(labels: tuple[str, str], notes: Sequence[str]) -> str:
    names = "<br>".join(f"<b>{side}</b> {html.escape(label)}" for side, label in zip("AB", labels, strict=True))
    return f"<h1>{TITLE}</h1><p>{names}</p>" + "".join(note(html.escape(text)) for text in notes)


def _scores(tasks: Sequence[TaskComparison]) -> str:
    tests = num_tests(tasks)
    by_chance = f" About {0.05 * tests:.1f} of the {tests} tests have p &lt; 0.05 by chance." if tests >= MANY else ""
    tables = "".join(
        f'<h3 class="kind">{html.escape(task.name)} <span class="quiet">· {html.escape(coverage(task))}</span></h3>'
        + table(("", *(f"{name}:n" for name in HEAD[1:-1]), HEAD[-1]), _rows(task))
        for task in tasks
    )
    return section("scores", "Scores", SCORES + by_chance, tables)


def _rows(task: TaskComparison) -> Iterable[str]:
    for line in task.scores:
        yield table_row(html.escape(line.name), _cells(line))
    for field, groups in task.groups.items():
        for value, line in groups.items():
            yield table_row(html.escape(f"{field} {value} ({line.count})"), _cells(line), is_sub=True)


def _cells(line: ScoreComparison) -> list[str]:
    *numbers, verdict = cells(line)
    kind = {"B": "met", "A": "missed", "": "quiet"}[line.better]
    return [*(number(html.escape(text)) for text in numbers), f'<td><span class="{kind}">{verdict}</span></td>']


def _settings(settings: Mapping[str, Sequence[str]]) -> str:
    if not settings:
        return ""
    rows = (
        table_row(html.escape(name), (f"<td>{html.escape(_cut(value))}</td>" for value in values))
        for name, values in settings.items()
    )
    return section("settings", "Settings that differ", "", table(("setting", "A", "B"), rows))


def _changed(position: int, task: TaskComparison, items: int, budget: MediaBudget) -> str:
    """The items of a task that got worse, then those that got better."""
    if not task.changed:
        return section(f"changed-{position}", f"{html.escape(task.name)}: no item changed", "", "")
    node = task.a.node if task.a.node.get("dataset") else task.b.node
    media, headline, parts = ItemMedia(node, task.name), task.scores[0], []
    for title, changes in (("B is worse", task.worse), ("B is better", task.better)):
        shown = changes[:items]
        more = f" · {len(shown)} of {len(changes)} shown, the others are listed by --json"
        count = f"{len(changes)} items{more if len(shown) < len(changes) else ''}"
        cards = "".join(_card(*one, headline, budget) for one in _by_media(shown, media).items())
        content = f'<div class="examples">{cards}</div>' if cards else note("none")
        parts.append(f'<h3 class="kind">{title} <span class="quiet">· {count}</span></h3>{content}')
    title = f"{html.escape(task.name)}: {len(task.changed)} of {task.count} items changed"
    return section(f"changed-{position}", title, CHANGED, "".join(parts))


def _by_media(changes: Sequence[ItemChange], media: ItemMedia) -> dict[tuple[Media, str], list[ItemChange]]:
    """Changes about the same media together; each item without media is alone."""
    found: dict[tuple[Media, str], list[ItemChange]] = {}
    for change in changes:
        own = media.of(change.item_a.row or change.item_b.row)
        found.setdefault((own, "" if own else change.item_a.id), []).append(change)
    return found


def _card(key: tuple[Media, str], changes: Sequence[ItemChange], line: ScoreComparison, budget: MediaBudget) -> str:
    shown = budget.html(key[0])
    media = f'<div class="media">{shown}</div>' if shown else ""
    return f'<div class="card example">{media}{"".join(_change(one, line) for one in changes)}</div>'


def _change(change: ItemChange, line: ScoreComparison) -> str:
    first, second = change.item_a, change.item_b
    question = str(first.row.get("question") or second.row.get("question") or "")
    references = " / ".join((first.references or second.references)[:5]) or "(none)"
    title = f'<div class="q">{_text(question)} <code>{html.escape(first.id)}</code></div>'
    head = f'<div class="exchange plain">{title}<div class="q">correct: {_text(references)}</div></div>'
    return f"{head}{_answer('A', first, change.a, line)}{_answer('B', second, change.b, line)}"


def _answer(side: str, item: Item, value: float, line: ScoreComparison) -> str:
    kind = "plain" if not line.is_right_or_wrong else "" if value > 0 else "wrong"
    text = "(a file of scores has no answers)" if not item.row else item.prediction or "(empty)"
    text = text if item.problem is None else f"(unreadable: {item.problem})"
    score = f'<span class="s">{side} {score_text(value, line.unit)}</span>'
    drawn = "".join(map(drawn_html, drawn_images(item.folder, item.row)))
    return f'<div class="exchange {kind}">{score}<div class="a">{_text(text)}</div>{drawn}</div>'


def _text(text: str) -> str:
    return html.escape(_cut(text))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ... ({len(text):,} characters)"
