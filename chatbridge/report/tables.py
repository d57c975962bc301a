"""The tables of the page: results, ablations, and confusion matrices."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from chatbridge.conversation.modalities import MODALITIES
from chatbridge.report.charts import bar, matrix
from chatbridge.report.confusion import confusions
from chatbridge.report.results import Ablation, Score
from chatbridge.report.runs import CAPTION, QA, Runs

RESULTS = """<i class="score"></i>score <i></i>chance level <i class="target"></i>target. An answer is correct if it
equals a reference, up to case, articles and punctuation; a caption is correct if it mentions every required attribute.
A metric in brackets has a rule of its own. The <b>chance level</b> is the score of a guess without media: always the
most frequent correct answer of each kind of question (for captions, the most frequent combination of attributes)."""
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


def score_title(score: Score) -> str:
    title = title_of(score.label, score.title)
    if score.group == CAPTION and not score.title:
        title = f"{title}, captions"
    return f"{title} ({html.escape(score.metric)})" if score.metric else title


def goal(score: Score) -> str:
    """ "reaches 95%", colored; "" without a target"""
    if score.target is None:
        return ""
    kind, word = ("met", "reaches") if score.is_met else ("missed", "misses")
    return f'<span class="goal {kind}">{word} {score.target:.0%}</span>'


def results_table(lines: Sequence[Score]) -> str:
    head = ("", "score:2", "chance:n", "target", "questions:n")
    rows = (table_row(score_title(score), _result_cells(score)) for score in lines)
    return section("results", "Results", "", table(head, rows) + note(RESULTS, "note key"))


def _result_cells(score: Score) -> list[str]:
    unreadable = f" ({score.unreadable} unreadable)" if score.unreadable else ""
    return [
        number(f"{score.score:.1%}"),
        f"<td>{bar(score.score, score.chance, score.target)}</td>",
        number(f"{score.chance:.1%}"),
        f"<td>{goal(score)}</td>",
        number(f"{score.count}{unreadable}"),
    ]


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
    cells = [number(f"{line.full:.1%}"), f"<td>{bar(line.full, line.chance)}</td>"]
    for kind in dropped:
        score = line.without.get(kind)
        if score is None:
            cells += ["<td></td>", "<td></td>"]
        else:
            cells += [number(f"{score:.1%}"), f"<td>{bar(score, line.knowing.get(kind, line.chance))}</td>"]
    return [*cells, number(f"{line.chance:.1%}"), number(str(line.count))]


def confusion_matrices(runs: Runs) -> str:
    cards = [
        f'<div class="card"><h3>{title_of(task.label, task.title)}{_kind(one.kind)}</h3>'
        f"{matrix(one.table, one.columns)}</div>"
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
