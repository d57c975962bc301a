"""The curves of training runs: loss by source, validation loss, and the scores of evaluations at steps."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from chatbridge.report.charts import Series, line_chart
from chatbridge.report.runs import TrainingRun
from chatbridge.report.tables import section
from chatbridge.tasks.score_text import is_score

LOSS = "Nats per supervised token, over all sources and by source. Point at a curve to see its values."
DURING = """Validation losses and scores of tasks at steps of the training, from scores.jsonl. A curve of one task holds
the slice that the run evaluated, so its last value may differ from that of a whole evaluation."""
VALIDATION, WHOLE = "validation", "loss"  # prefix of the losses in scores.jsonl, and the name over all sources
MOST_POINTS = 1000  # of a curve


def loss_section(trainings: Sequence[TrainingRun]) -> str:
    """HTML of the loss of every training run; "" without one."""
    cards = [_card(run, f"{_steps(run)} steps", _losses(run), "loss") for run in trainings]
    return section("loss", "Loss", LOSS, f'<div class="grid">{"".join(cards)}</div>') if cards else ""


def scores_section(trainings: Sequence[TrainingRun]) -> str:
    """HTML of validation losses and scores by step; "" if no run has any."""
    cards = [card for run in trainings for card in _score_cards(run)]
    if not cards:
        return ""
    return section("during-training", "During training", DURING, f'<div class="grid">{"".join(cards)}</div>')


def _card(run: TrainingRun, note: str, series: Sequence[Series], y_name: str) -> str:
    title = f'{html.escape(run.name)} <span class="quiet">· {html.escape(note)}</span>'
    return f'<div class="card"><h3>{title}</h3>{line_chart(series, "step", y_name)}</div>'


def _steps(run: TrainingRun) -> int:
    return run.records[-1]["step"] if run.records else 0


def _losses(run: TrainingRun) -> list[Series]:
    sources = sorted({name for record in run.records for name in record.get("per_source", {})})
    whole = ((record["step"], record["loss"]) for record in run.records)
    own = (Series(name, _thin(_points(run.records, "per_source", name))) for name in sources)
    return [*own, Series("all sources", _thin(whole), is_main=True)]


def _points(records: Sequence[Mapping[str, Any]], field: str, name: str) -> Iterator[tuple[float, float]]:
    for record in records:
        if (value := record.get(field, {}).get(name)) is not None:
            yield record["step"], value


def _score_cards(run: TrainingRun) -> Iterator[str]:
    """A chart for the validation, then one per task and magnitude: a CIDEr of 1.2 and a BLEU of 0.3 share one, percents
    do not join them."""
    names = dict.fromkeys(name for line in run.scores for name in line if "/" in name and is_score(line[name]))
    groups: dict[tuple[str, bool], list[str]] = {}
    for name in names:
        group, largest = name.rpartition("/")[0], max(abs(value) for _, value in _values(run, name))
        groups.setdefault((group, group != VALIDATION and largest > 10), []).append(name)
    for (group, _), members in sorted(groups.items(), key=lambda one: one[0][0] != VALIDATION):
        is_loss = group == VALIDATION
        shown = [(name, name.rpartition("/")[2]) for name in members]
        series = [Series(short, _thin(_values(run, name)), is_loss and short == WHOLE) for name, short in shown]
        yield _card(run, "validation loss" if is_loss else group, series, "loss" if is_loss else "score")


def _values(run: TrainingRun, name: str) -> Iterator[tuple[float, float]]:
    for line in run.scores:
        if is_score(line.get(name)):
            yield float(line["step"]), float(line[name])


def _thin(points: Iterator[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Every k-th point, and the last one."""
    found = list(points)
    every = -(-len(found) // MOST_POINTS) or 1
    return tuple(found[::every] + (found[-1:] if found and (len(found) - 1) % every else []))
