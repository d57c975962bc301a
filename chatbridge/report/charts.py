"""Pictures as inline SVG and HTML: no library, no request. Colors come from the page's style (light and dark)."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 540, 300
LEFT, RIGHT, TOP, BOTTOM = 46, 18, 12, 36
NUM_COLORS = 9  # .c0 ... .c8 in page.html
LOG_FROM = 8.0  # ratio of the largest to the smallest value from which the axis is logarithmic


@dataclass(frozen=True)
class Series:
    """A line: (x, y) in order of x."""

    name: str
    points: tuple[tuple[float, float], ...]
    is_main: bool = False  # drawn strong, over the others


@dataclass(frozen=True)
class Axis:
    """Values to pixels, with round numbers to write beside it."""

    low: float
    high: float
    from_px: float
    to_px: float
    is_log: bool = False

    def px(self, value: float) -> float:
        low, high, at = (self._scaled(number) for number in (self.low, self.high, value))
        return self.from_px + (self.to_px - self.from_px) * (at - low) / ((high - low) or 1.0)

    def _scaled(self, value: float) -> float:
        return math.log10(max(value, 1e-12)) if self.is_log else value

    @property
    def ticks(self) -> list[float]:
        if not self.is_log:
            return _round_steps(self.low, self.high, 5)
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        decades = range(first, last + 1)
        steps = (1, 2, 5) if last - first <= 3 else (1,)
        return [value for d in decades for step in steps if self.low <= (value := step * 10.0**d) <= self.high]


def line_chart(series: Sequence[Series], x_name: str, y_name: str) -> str:
    """An SVG with a legend below it; the page's script shows the values under the pointer."""
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
        Axis(min(xs), max(xs), LEFT, WIDTH - RIGHT),
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
    """For the script: places in SVG units and values, rounded."""
    steps = sorted({at for one in series for at, _ in one.points})
    values = [dict(one.points) for one in series]
    rows = [{"x": round(x.px(at), 1), "step": at, "y": [_known(value.get(at)) for value in values]} for at in steps]
    return json.dumps({"names": [one.name for one in series], "rows": rows, "width": WIDTH}, separators=(",", ":"))


def _known(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 4)


def _round_steps(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers from low to high."""
    rough = (high - low) / count or 1.0
    power = 10.0 ** math.floor(math.log10(abs(rough)))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def bar(score: float, chance: float | None = None, target: float | None = None) -> str:
    """A fraction as a bar, with marks where chance and the target are."""
    marks = [("chance", chance), ("target", target)]
    inner = "".join(
        f'<b class="{name}" style="left:{100 * value:.1f}%" title="{name} {value:.1%}"></b>'
        for name, value in marks
        if value is not None
    )
    return f'<div class="bar"><i style="width:{100 * min(max(score, 0), 1):.1f}%"></i>{inner}</div>'


def matrix(table: Mapping[str, Mapping[str, int]], columns: Sequence[str]) -> str:
    """Right answers in rows, given answers in columns; the shade is the share of the row.

    table   right answer -> given answer -> count
    """
    head = "".join(f"<th><span>{_text(name)}</span></th>" for name in columns)
    rows = []
    for right, given in table.items():
        total = sum(given.values()) or 1
        cells = "".join(_cell(given.get(name, 0), total, name == right) for name in columns)
        rows.append(f"<tr><th>{_text(right)}</th>{cells}</tr>")
    corner = '<th class="corner">right \\ given</th>'
    body = f"<thead><tr>{corner}{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="scroll"><table class="matrix">{body}</table></div>'


def _cell(count: int, total: int, is_right: bool) -> str:
    if not count:
        return f'<td class="{"right" if is_right else ""}"></td>'
    kind = "right" if is_right else "wrong"
    strong = " strong" if count / total > 0.55 else ""
    return f'<td class="{kind}{strong}" style="--share:{count / total:.3f}">{count}</td>'


def _text(words: str) -> str:
    return html.escape(words)
