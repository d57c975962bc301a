"""report.html: one page that needs nothing but itself, in light and dark, on a desk and on a phone."""

from __future__ import annotations

import html
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from chatbridge.common.safe_files import replace_text
from chatbridge.common.text_repair import repaired
from chatbridge.report.charts import Series, line_chart
from chatbridge.report.examples import Example, Exchange, find_examples
from chatbridge.report.inputs import Runs, Stage
from chatbridge.report.media import embedded, mel_picture
from chatbridge.report.results import ablations, scores
from chatbridge.report.tables import (
    confusion_matrices,
    goal,
    modality_table,
    results_table,
    score_title,
    section,
    title_of_media,
)
from chatbridge.report.tree import draw_tree, read_tree

PAGE = "report.html"
STAGE_TITLES = {"pretrain": "Stage 1: captions", "instruct": "Stage 2: instructions"}

LEAD = """A frozen language model, frozen eyes and ears, and one trained bridge between them, asked about combinations
that no training file shows."""
LOSS = "Nats per learned token, over all sources and by source. Point at a curve to read it."
TRAINED = "Everything else stayed as it was, by its fingerprint. The bars show the share of all parameters."
EXAMPLES = """Nothing is picked by hand: the first two of each kind, then the first one with a wrong answer, if there is
one."""


def write_page(runs: Runs) -> Path:
    path = runs.root / PAGE
    replace_text(path, repaired(page(runs)))
    return path


def page(runs: Runs) -> str:
    """The whole page as HTML."""
    template = files("chatbridge.report").joinpath("page.html").read_text(encoding="utf-8")
    sections = {
        "Results": results_table(scores(runs)) if runs.tasks else "",
        "Modalities": modality_table(ablations(runs)),
        "Loss": _curves(runs.stages),
        "Examples": _examples(runs),
        "Confusions": confusion_matrices(runs),
        "What was trained": _trained(runs.stages),
    }
    sections = {name: content for name, content in sections.items() if content}
    body = "\n".join([_head(runs, list(sections)), *sections.values(), _foot(runs)])
    return template.replace("{{title}}", html.escape(f"ChatBridge, {runs.root}")).replace("{{body}}", body)


def _head(runs: Runs, names: list[str]) -> str:
    links = "".join(f'<a href="#{name.lower().replace(" ", "-")}">{name}</a>' for name in names)
    tiles = "".join(
        f'<div class="tile"><span>{score_title(score)}</span><b>{score.score:.1%}</b>{goal(score)}</div>'
        for score in scores(runs)
    )
    is_tiny = any(task.has_target for task in runs.tasks)
    lead = LEAD if is_tiny else html.escape(", ".join(stage.name for stage in runs.stages) or str(runs.root))
    title = '<h1>What ChatBridge learned to see and hear</h1><p class="quiet">' + lead + "</p>"
    return f'{title}<nav>{links}</nav><div class="tiles">{tiles}</div>'


def _curves(stages: tuple[Stage, ...]) -> str:
    cards = [f'<div class="card"><h3>{_stage_title(stage)}</h3>{_curve(stage)}</div>' for stage in stages]
    return section("loss", "Loss", LOSS, f'<div class="grid">{"".join(cards)}</div>') if cards else ""


def _stage_title(stage: Stage) -> str:
    steps = stage.records[-1]["step"] if stage.records else 0
    return f'{stage_title(stage)} <span class="quiet">· {steps} steps</span>'


def stage_title(stage: Stage) -> str:
    return STAGE_TITLES.get(stage.name, html.escape(stage.name))


def _curve(stage: Stage) -> str:
    sources = sorted({name for record in stage.records for name in record.get("per_source", {})})
    whole = tuple((record["step"], record["loss"]) for record in stage.records)
    series = [Series(name, _points(stage, name)) for name in sources]
    return line_chart([*series, Series("all sources", whole, is_main=True)], "step", "loss")


def _points(stage: Stage, source: str) -> tuple[tuple[float, float], ...]:
    found = ((record["step"], record.get("per_source", {}).get(source)) for record in stage.records)
    return tuple((step, loss) for step, loss in found if loss is not None)


def _examples(runs: Runs) -> str:
    parts = []
    for modalities, examples in find_examples(runs).items():
        title = title_of_media(modalities)
        cards = "".join(_example(example) for example in examples)
        parts.append(f'<h3 class="kind">{title}</h3><div class="examples">{cards}</div>')
    return section("examples", "Examples", EXAMPLES, "".join(parts)) if parts else ""


def _example(example: Example) -> str:
    exchanges = "".join(_exchange(one) for one in example.exchanges)
    return f'<div class="card example"><div class="media">{"".join(_media(example))}</div>{exchanges}</div>'


def _media(example: Example) -> Iterator[str]:
    shown: set[Path] = set()
    for modality, path in example.media:
        if path in shown:  # a video that brings its own sound: one player, and the picture of the sound
            yield mel_picture(path)
        else:
            yield embedded(modality, path)
        shown.add(path)


def _exchange(one: Exchange) -> str:
    right = "" if one.is_right else f'<div class="r">right: {html.escape(one.right)}</div>'
    question, answer = html.escape(one.question), html.escape(one.answer) or "(no words)"
    kind = "said" if one.is_right else "said no"
    return f'<div class="{kind}"><div class="q">{question}</div><div class="a">{answer}</div>{right}</div>'


def _trained(stages: tuple[Stage, ...]) -> str:
    """The tree of the last stage that has a checkpoint."""
    for stage in reversed(stages):
        root = read_tree(stage)
        if root is not None:
            listed = stage.manifest.get("model", {}).get("trainable")
            patterns = ", ".join(map(str, listed)) if isinstance(listed, list) else ""
            patterns = patterns or "what its checkpoint holds"
            lead = f"{stage_title(stage)} trained <code>{html.escape(patterns)}</code>. {TRAINED}"
            return section("what-was-trained", "What was trained", lead, f'<div class="card">{draw_tree(root)}</div>')
    return ""


def _foot(runs: Runs) -> str:
    times = ", ".join(f"{html.escape(step)} {clock(seconds)}" for step, seconds in runs.wall_s.items())
    total = f" ({clock(sum(runs.wall_s.values()))} in all)" if len(runs.wall_s) > 1 else ""
    versions = next((stage.manifest["versions"] for stage in reversed(runs.stages) if "versions" in stage.manifest), {})
    said = ", ".join(f"{html.escape(name)} {html.escape(str(number))}" for name, number in versions.items())
    return f"<footer>Wall time: {times or 'not measured'}{total}.<br>{said}<br>{html.escape(str(runs.root))}</footer>"


def clock(seconds: float) -> str:
    """135 -> 2 min 15 s"""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
