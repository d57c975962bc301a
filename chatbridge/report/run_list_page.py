"""Several runs on one page: the table, the curves over each other, and the settings in which they differ."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from chatbridge.common.safe_files import replace_text
from chatbridge.common.text_repair import repaired
from chatbridge.report.charts import Series, line_chart
from chatbridge.report.run_differences import setting_differences
from chatbridge.report.run_list import ListedRun
from chatbridge.report.tables import note, section

MOST_POINTS = 500  # of a curve
CURVES = {  # entry of metrics.jsonl -> title
    "loss": "Loss, nats per supervised token",
    "lr": "Learning rate",
    "grad_norm": "Norm of the gradient",
    "samples_per_s": "Conversations per second",
    "padding_share": "Share of padding",
    "wait_share": "Share of the time waiting for data",
    "mfu": "MFU",
}
LEAD = "Point at a curve to see its values."


def write_runs_page(runs: Sequence[ListedRun], path: Path) -> Path:
    """Write the page; returns its path. raises OSError that names the file"""
    replace_text(path, repaired(runs_page(runs)))
    return path


def runs_page(runs: Sequence[ListedRun]) -> str:
    """The whole page as HTML."""
    template = files("chatbridge.report").joinpath("page.html").read_text(encoding="utf-8")
    parts = ["<h1>ChatBridge runs</h1>", _runs_table(runs), _charts(runs), _differences(runs)]
    return template.replace("{{title}}", "ChatBridge runs").replace("{{body}}", "\n".join(filter(None, parts)))


def _runs_table(runs: Sequence[ListedRun]) -> str:
    rows = [run.cells() for run in runs]
    notes = [f"{html.escape(run.name)}: {html.escape('; '.join(run.problems))}" for run in runs if run.problems]
    table = _table(list(rows[0]), ([*row.values()] for row in rows))
    return section("runs", f"{len(runs)} runs", "", table + "".join(note(text) for text in notes))


def _charts(runs: Sequence[ListedRun]) -> str:
    cards = [_card(title, _series(runs, lambda run: run.records, key)) for key, title in CURVES.items()]
    names = dict.fromkeys(name for run in runs for line in run.scores for name in line if name != "step")
    cards += [_card(str(name), _series(runs, lambda run: run.scores, name)) for name in names]
    return section("curves", "Curves", LEAD, f'<div class="grid">{"".join(cards)}</div>')


def _card(title: str, series: Sequence[Series]) -> str:
    if not any(one.points for one in series):
        return ""
    return f'<div class="card"><h3>{html.escape(title)}</h3>{line_chart(series, "step", "")}</div>'


def _series(
    runs: Sequence[ListedRun], lines: Callable[[ListedRun], Sequence[Mapping[str, Any]]], key: str
) -> list[Series]:
    """A curve per run, thinned out to `MOST_POINTS`; the last point stays."""
    found = []
    for run in runs:
        points = [(line["step"], line[key]) for line in lines(run) if isinstance(line.get(key), int | float)]
        every = -(-len(points) // MOST_POINTS) or 1
        kept = points[::every] + (points[-1:] if points and (len(points) - 1) % every else [])
        found.append(Series(run.name, tuple((float(step), float(value)) for step, value in kept)))
    return found


def _differences(runs: Sequence[ListedRun]) -> str:
    rows = setting_differences(runs) if len(runs) > 1 else {}
    if not rows:
        return ""
    table = _table(["setting", *(run.name for run in runs)], ([key, *values] for key, values in rows.items()))
    return section("settings", "Settings that differ", "", table)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of escaped texts, whose first column is a heading."""
    cells = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join(
        f"<tr><th>{html.escape(row[0])}</th>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row[1:])}</tr>"
        for row in rows
    )
    return f'<div class="card scroll"><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>'
