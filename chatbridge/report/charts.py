"""Charts of the report as inline SVG and HTML, whose colors are those of the page's light and dark style.

matplotlib chooses the ticks but does not draw: its SVG has fixed colors and fonts, no values at the pointer, ids that
collide between two charts of a page, and twice to four times the size (27 instead of 10 kB for 7 curves of 100 steps).
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.ticker import Locator, LogLocator, MaxNLocator

WIDTH, HEIGHT = 540, 300
LEFT, RIGHT, TOP, BOTTOM = 46, 18, 12, 36
NUM_COLORS = 9  # .c0 ... .c8 in page.html
LOG_FROM = 8.0  # ratio of the largest to the smallest value from which the y axis is logarithmic


@dataclass(frozen=True)
class Series:
    """One curve: (x, y) in the order of x."""

    name: str
    points: tuple[tuple[float, float], ...]
    is_main: bool = False  # drawn with a thick line over the others


@dataclass(frozen=True)
class Axis:
    """A mapping of values to SVG units, with the tick values."""

    low: float
    high: float
    from_px: float
    to_px: float
    is_log: bool = False
    is_whole: bool = False  # ticks are whole numbers

    def px(self, value: float) -> float:
        low, high, at = (self._scaled(number) for number in (self.low, self.high, value))
        return self.from_px + (self.to_px - self.from_px) * (at - low) / ((high - low) or 1.0)

    def _scaled(self, value: float) -> float:
        return math.log10(max(value, 1e-12)) if self.is_log else value

    @property
    def ticks(self) -> list[float]:
        if self.is_log:
            subs = (1, 2, 5) if self.high / self.low <= 1000 else (1,)
            locator: Locator = LogLocator(subs=subs)
        else:
            locator = MaxNLocator(nbins=6, steps=(1, 2, 5, 10), integer=self.is_whole)
        return [float(value) for value in locator.tick_values(self.low, self.high) if self.low <= value <= self.high]


def line_chart(series: Sequence[Series], x_name: str, y_name: str) -> str:
    """HTML of a chart with a legend; the script of the page shows the values at the pointer."""
    series = [one for one in series if one.points]
    if not series:
        return '<p class="quiet">no points</p>'
    x, y = _axes(series)
    lines = "".join(
        _path(one, number, x, y) for number, one in sorted(enumerate(series), key=lambda pair: pair[1].is_main)
    )
    names = f'<text class="name" x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{_text(x_name)}</text>'
    names += f'<text class="name" x="{LEFT + 6}" y="{TOP + 10}">{_text(y_name)}</text>'
    return (
        f'<figure class="chart" data-chart="{html.escape(_data(series, x, y))}">'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(y_name)} by {html.escape(x_name)}">'
        f"{_grid(x, y)}{names}{lines}"
        f'<line class="cursor" y1="{TOP}" y2="{HEIGHT - BOTTOM}" x1="-9" x2="-9"/></svg>'
        f'<div class="tip" hidden></div><figcaption>{_legend(series)}</figcaption></figure>'
    )


def _axes(series: Sequence[Series]) -> tuple[Axis, Axis]:
    xs = [x for one in series for x, _ in one.points]
    ys = [y for one in series for _, y in one.points if math.isfinite(y)] or [0.0]
    low, high = min(ys), max(ys)
    is_log = low > 0 and high / low >= LOG_FROM
    low, high = (low / 1.1, high * 1.1) if is_log else (min(low, 0.0), high * 1.05 or 1.0)
    return (
        Axis(min(xs), max(xs), LEFT, WIDTH - RIGHT, is_whole=all(x == int(x) for x in xs)),
        Axis(low, high, HEIGHT - BOTTOM, TOP, is_log),
    )


def _grid(x: Axis, y: Axis) -> str:
    out = []
    for value in y.ticks:
        at = y.px(value)
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        out.append(f'<text class="tick" x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in x.ticks:
        out.append(
            f'<text class="tick" x="{x.px(value):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{value:g}</text>'
        )
    return "".join(out)


def _path(one: Series, number: int, x: Axis, y: Axis) -> str:
    points = [f"{x.px(at):.1f},{y.px(value):.1f}" for at, value in one.points if math.isfinite(value)]
    kind = "main" if one.is_main else f"c{number % NUM_COLORS}"
    return f'<polyline class="line {kind}" points="{" ".join(points)}"/>'


def _legend(series: Sequence[Series]) -> str:
    items = []
    for number, one in enumerate(series):
        kind = "main" if one.is_main else f"c{number % NUM_COLORS}"
        items.append(f'<span><i class="{kind}"></i>{_text(one.name)}</span>')
    return "".join(items)


def _data(series: Sequence[Series], x: Axis, y: Axis) -> str:
    """JSON for the script of the page: positions in SVG units and values, rounded."""
    steps = sorted({at for one in series for at, _ in one.points})
    values = [dict(one.points) for one in series]
    rows = [{"x": round(x.px(at), 1), "step": at, "y": [_known(value.get(at)) for value in values]} for at in steps]
    return json.dumps({"names": [one.name for one in series], "rows": rows, "width": WIDTH}, separators=(",", ":"))


def _known(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 4)


def bar(score: float, chance: float | None = None, target: float | None = None) -> str:
    """HTML of a fraction as a bar, with marks at the chance level and the target."""
    marks = [("chance", chance), ("target", target)]
    inner = "".join(
        f'<b class="{name}" style="left:{100 * value:.1f}%" title="{name} {value:.1%}"></b>'
        for name, value in marks
        if value is not None
    )
    return f'<div class="bar"><i style="width:{100 * min(max(score, 0), 1):.1f}%"></i>{inner}</div>'


def matrix(table: Mapping[str, Mapping[str, int]], columns: Sequence[str]) -> str:
    """HTML of a confusion matrix; the shade of a cell is its share of the row.

    table   correct answer -> given answer -> count
    """
    head = "".join(f"<th><span>{_text(name)}</span></th>" for name in columns)
    rows = []
    for correct, given in table.items():
        total = sum(given.values()) or 1
        cells = "".join(_cell(given.get(name, 0), total, name == correct) for name in columns)
        rows.append(f"<tr><th>{_text(correct)}</th>{cells}</tr>")
    corner = '<th class="corner">correct \\ given</th>'
    body = f"<thead><tr>{corner}{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="scroll"><table class="matrix">{body}</table></div>'


def _cell(count: int, total: int, is_correct: bool) -> str:
    if not count:
        return f'<td class="{"right" if is_correct else ""}"></td>'
    kind = "right" if is_correct else "wrong"
    strong = " strong" if count / total > 0.55 else ""
    return f'<td class="{kind}{strong}" style="--share:{count / total:.3f}">{count}</td>'


def _text(text: str) -> str:
    return html.escape(text)
