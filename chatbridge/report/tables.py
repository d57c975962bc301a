"""The tables of the page: results, ablations, and confusion matrices."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence

from chatbridge.conversation.modalities import MODALITIES
from chatbridge.report.charts import bar, matrix
from chatbridge.report.confusion import confusions
from chatbridge.report.results import Ablation
from chatbridge.report.runs import CAPTION, QA, Runs, TaskRun
from chatbridge.report.score_lines import OtherScore, Published, Score, as_fraction
from chatbridge.tasks.score_text import interval_text, is_percent, score_text

RESULTS = """<i class="score"></i>score <i></i>chance level <i class="target"></i>target. An answer is correct if it
equals a reference, up to case, articles and punctuation; a caption is correct if it mentions every required attribute.
A metric in brackets has a rule of its own. The <b>chance level</b> is the score of a guess without media: always the
most frequent correct answer of each kind of question (for captions, the most frequent combination of attributes).
Intervals are 95% bootstrap intervals over the questions. A published score is the one that its source states; it is
above, inside or below the interval of this run, and was not measured here."""
REMOVED = """The same questions with one modality removed from the conversation. A score that stays the same does not
depend on it."""
REMOVED_NOTE = """Marks in the bars are chance levels. If one part of an answer can still be read from the remaining
media, the mark is the chance level of the other part; the column shows the chance level of the whole answer."""
CONFUSIONS = """Correct answers in rows, given answers in columns, shaded by the share of the row. Answers of two parts
with many combinations have a matrix per part."""


def section(key: str, title: str, lead: str, content: str) -> str:
    lead = f"<p>{lead}</p>" if lead else ""
    return f'<h2 id="{key}">{title}</h2>{lead}{content}'


def note(text: str, kind: str = "note") -> str:
    return f'<p class="{kind}">{text}</p>'


def title_of(label: str, title: str = "") -> str:
    """The heading of a task: the one of its settings, or a readable form of its label."""
    if not title and label in MODALITIES:
        return capitalized(MODALITIES.plural(label))
    return html.escape(title or label)


def title_of_media(modalities: Sequence[str]) -> str:
    """ "Images", "Videos and audio", "Images and depth maps" """
    return capitalized(" and ".join(dict.fromkeys(map(MODALITIES.plural, modalities))))


def capitalized(text: str) -> str:
    return html.escape(text[:1].upper() + text[1:])


def task_title(task: TaskRun | Score) -> str:
    """The heading of a task; captions and questions about images are two tasks with one label."""
    title = title_of(task.label, task.title)
    return f"{title}, captions" if task.group == CAPTION and not task.title else title


def score_title(score: Score) -> str:
    title = task_title(score)
    return f"{title} ({html.escape(score.metric)})" if score.metric else title


def goal(score: Score) -> str:
    """ "reaches 95%", colored; "" without a target"""
    if score.target is None:
        return ""
    kind, word = ("met", "reaches") if score.is_met else ("missed", "misses")
    return f'<span class="goal {kind}">{word} {score.target:.0%}</span>'


def results_table(lines: Sequence[Score]) -> str:
    head = ("", "score:2", "95% interval:n", "chance:n", "target", "questions:n")
    rows = (row for score in lines for row in _result_rows(score))
    return section("results", "Results", "", table(head, rows) + note(RESULTS, "note key"))


def _result_rows(score: Score) -> Iterator[str]:
    """The line of a task, of its other scores, and of published ones."""
    yield table_row(score_title(score), _result_cells(score))
    for other in score.others:
        yield table_row(html.escape(other.name), [*_value_cells(other), "<td></td>" * 3], is_sub=True)
    for one in score.published:
        yield table_row(f"published: {html.escape(one.model)}", [*_published_cells(one)], is_sub=True)


def _result_cells(score: Score) -> list[str]:
    unreadable = f" ({score.unreadable} unreadable)" if score.unreadable else ""
    return [
        number(score_text(score.score, score.unit)),
        f"<td>{_unit_bar(score.score, score.unit, score.chance, score.target)}</td>",
        number(interval_text(score.low, score.high, score.unit)),
        number("" if score.chance is None else f"{score.chance:.1%}"),
        f"<td>{goal(score)}</td>",
        number(f"{score.count}{unreadable}"),
    ]


def _value_cells(one: OtherScore) -> list[str]:
    return [
        number(score_text(one.value, one.unit)),
        f"<td>{_unit_bar(one.value, one.unit)}</td>",
        number(interval_text(one.low, one.high, one.unit)),
    ]


def _published_cells(one: Published) -> Iterator[str]:
    yield number(score_text(one.value, one.unit))
    yield f"<td>{_unit_bar(one.value, one.unit)}</td>"
    yield number(f"{one.place} ours" if one.place else "")
    told = ". ".join(filter(None, (one.metric, one.source, one.note)))
    yield f'<td colspan=3 class="told">{html.escape(told)}</td>'


def _unit_bar(value: float, unit: str, chance: float | None = None, target: float | None = None) -> str:
    """A bar for fractions and percents; other numbers have no largest value."""
    return bar(as_fraction(value, unit), chance, target) if is_percent(unit) else ""


def ablation_table(lines: Sequence[Ablation]) -> str:
    if not lines:
        return ""
    dropped = list(dict.fromkeys(name for line in lines for name in line.without))
    columns = [f"without the {html.escape(MODALITIES.noun(name))}:2" for name in dropped]
    head = ("", "all media:2", *columns, "chance:n", "questions:n")
    rows = (table_row(_line_title(line), _ablation_cells(line, dropped), bool(line.about)) for line in lines)
    content = table(head, rows) + note(REMOVED_NOTE)
    return section("modalities", "Scores without one modality", REMOVED, content)


def _line_title(line: Ablation) -> str:
    if line.about is None:
        return title_of(line.base, line.title)
    return f"{html.escape(line.field)} the {html.escape(MODALITIES.noun(line.about))}"


def _ablation_cells(line: Ablation, dropped: Iterable[str]) -> list[str]:
    cells = [number(score_text(line.full, line.unit)), f"<td>{_unit_bar(line.full, line.unit, line.chance)}</td>"]
    for kind in dropped:
        score = line.without.get(kind)
        if score is None:
            cells += ["<td></td>", "<td></td>"]
        else:
            level = line.knowing.get(kind, line.chance)
            cells += [number(score_text(score, line.unit)), f"<td>{_unit_bar(score, line.unit, level)}</td>"]
    return [*cells, number("" if line.chance is None else f"{line.chance:.1%}"), number(str(line.count))]


def confusion_matrices(runs: Runs) -> str:
    cards = [
        f'<div class="card"><h3>{task_title(task)}{_kind(one.kind)}</h3>{matrix(one.table, one.columns)}</div>'
        for task in runs.scored
        if task.group == QA and "answers" not in task.metrics  # the tables of groups have those
        for one in confusions(task.rows, task.kind_field, tuple(map(MODALITIES.noun, task.answer_parts)))
    ]
    if not cards:
        return ""
    content = f'<div class="grid dense">{"".join(cards)}</div>'
    return section("confusions", "Confusion matrices", CONFUSIONS, content)


def _kind(kind: str) -> str:
    return f' <span class="quiet">· {html.escape(kind)}</span>' if kind else ""


def number(text: str) -> str:
    return f'<td class="n">{text}</td>'


def table(head: Iterable[str], rows: Iterable[str]) -> str:
    """Head cells above a number end with ":n", those above a number and its bar with ":2"."""
    cells = "".join(_head_cell(*name.partition(":")[::2]) for name in head)
    body = "".join(rows)
    return f'<div class="card scroll"><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>'


def _head_cell(name: str, kind: str) -> str:
    return f"<th{ {'n': ' class=n', '2': ' colspan=2 class=pair'}.get(kind, '') }>{name}</th>"


def table_row(title: str, cells: Iterable[str], is_sub: bool = False) -> str:
    return f"<tr{' class=sub' if is_sub else ''}><th>{title}</th>{''.join(cells)}</tr>"
