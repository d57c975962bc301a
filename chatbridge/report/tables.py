"""The tables of the page: results, the modality table, and the confusion matrices."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from chatbridge.conversation.modalities import MODALITIES
from chatbridge.report.charts import bar, matrix
from chatbridge.report.confusion import confusions
from chatbridge.report.inputs import Runs
from chatbridge.report.results import Ablation, Score

TITLES = {"audio_video": "Videos with their audio", "audio_video_joint": "Questions that need both"}

RESULTS = """<i class="score"></i>right <i></i>chance <i class="target"></i>target. Answers are right when they say the
same as the reference, but for case, articles and punctuation; captions when they name every attribute. <b>Chance</b> is
what somebody scores who neither sees nor hears but knows how often each answer is right: always the most frequent right
answer of each kind of question (of captions, the most frequent combination)."""
DROPPED = """The same questions with one of the two media taken out of the conversation. Who does not need the medium
would not notice."""
DROPPED_NOTE = """Marks in the bars: chance. Where half of a joint answer can still be seen or heard, the mark is
what somebody scores who knows that half and guesses the other; chance of the whole answer is in its column."""
CONFUSIONS = """Right answers in rows, given ones in columns, the shade by the share of the row. Joint answers with many
combinations are shown by half."""


def section(key: str, title: str, lead: str, content: str) -> str:
    lead = f"<p>{lead}</p>" if lead else ""
    return f'<h2 id="{key}">{title}</h2>{lead}{content}'


def note(words: str, kind: str = "note") -> str:
    return f'<p class="{kind}">{words}</p>'


def title_of(label: str) -> str:
    if label in MODALITIES:
        return capitalized(MODALITIES.plural(label))
    return TITLES.get(label, html.escape(label))


def title_of_media(modalities: Sequence[str]) -> str:
    """ "Images", "Videos with their audio", "Images and depth maps" """
    if tuple(modalities) == ("video", "audio"):
        return TITLES["audio_video"]
    return capitalized(" and ".join(dict.fromkeys(map(MODALITIES.plural, modalities))))


def capitalized(words: str) -> str:
    return html.escape(words[:1].upper() + words[1:])


def score_title(score: Score) -> str:
    title = f"{title_of(score.label)}, captions" if score.group == "caption" else title_of(score.label)
    return f"{title} ({html.escape(score.metric)})" if score.metric else title


def goal(score: Score) -> str:
    """ "reaches 95%", colored; "" without a target"""
    if score.target is None:
        return ""
    kind, word = ("met", "reaches") if score.is_met else ("missed", "misses")
    return f'<span class="goal {kind}">{word} {score.target:.0%}</span>'


def results_table(lines: Sequence[Score]) -> str:
    head = ("", "right:2", "chance:n", "target", "asked:n")
    rows = (_row(score_title(score), _result_cells(score)) for score in lines)
    return section("results", "Results", "", _table(head, rows) + note(RESULTS, "note key"))


def _result_cells(score: Score) -> list[str]:
    unreadable = f" ({score.unreadable} unreadable)" if score.unreadable else ""
    return [
        number(f"{score.score:.1%}"),
        f"<td>{bar(score.score, score.chance, score.target)}</td>",
        number(f"{score.chance:.1%}"),
        f"<td>{goal(score)}</td>",
        number(f"{score.count}{unreadable}"),
    ]


def modality_table(lines: Sequence[Ablation]) -> str:
    if not lines:
        return ""
    dropped = list(dict.fromkeys(name for line in lines for name in line.without))
    ways = [f"without the {html.escape(MODALITIES.noun(name))}:2" for name in dropped]
    head = ("", "with both:2", *ways, "chance:n", "asked:n")
    rows = (_row(_line_title(line), _modality_cells(line, dropped), bool(line.about)) for line in lines)
    content = _table(head, rows) + note(DROPPED_NOTE)
    return section("modalities", "Which medium the answers come from", DROPPED, content)


def _line_title(line: Ablation) -> str:
    if line.about is None:
        return title_of(line.base)
    return f"about the {html.escape(MODALITIES.noun(line.about))}"


def _modality_cells(line: Ablation, dropped: Iterable[str]) -> list[str]:
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
        f'<div class="card"><h3>{title_of(task.label)} <span class="quiet">· {html.escape(one.kind)}</span></h3>'
        f"{matrix(one.table, one.columns)}</div>"
        for task in runs.full
        if not task.is_caption
        for one in confusions(task.rows)
    ]
    if not cards:
        return ""
    content = f'<div class="grid dense">{"".join(cards)}</div>'
    return section("confusions", "Which answers are taken for which", CONFUSIONS, content)


def number(words: str) -> str:
    return f'<td class="n">{words}</td>'


def _table(head: Iterable[str], rows: Iterable[str]) -> str:
    """Head cells over a number end with ":n", those over a number and its bar with ":2"."""
    cells = "".join(_head_cell(*name.partition(":")[::2]) for name in head)
    body = "".join(rows)
    return f'<div class="card scroll"><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>'


def _head_cell(name: str, kind: str) -> str:
    return f"<th{ {'n': ' class=n', '2': ' colspan=2 class=pair'}.get(kind, '') }>{name}</th>"


def _row(title: str, cells: Iterable[str], is_sub: bool = False) -> str:
    return f"<tr{' class=sub' if is_sub else ''}><th>{title}</th>{''.join(cells)}</tr>"
