"""report.html: one self-contained page with a light and a dark style, for wide and narrow screens."""

from __future__ import annotations

import html
from importlib.resources import files
from pathlib import Path

from chatbridge.common.safe_files import replace_text
from chatbridge.common.text_repair import repaired
from chatbridge.report.curves import loss_section, scores_section
from chatbridge.report.examples_section import examples_section
from chatbridge.report.group_tables import group_tables, groups_section
from chatbridge.report.item_media import MediaBudget
from chatbridge.report.items_section import items_section
from chatbridge.report.modality_section import modality_section
from chatbridge.report.prompts_section import prompts_section
from chatbridge.report.receipt_section import receipt_section
from chatbridge.report.results import ablations
from chatbridge.report.runs import Runs, TrainingRun
from chatbridge.report.score_lines import Score, scores
from chatbridge.report.tables import (
    ablation_table,
    confusion_matrices,
    goal,
    results_table,
    score_title,
    section,
)
from chatbridge.report.tree import draw_tree, read_tree
from chatbridge.tasks.score_text import score_text

PAGE = "report.html"
TITLE = "ChatBridge run report"
TRAINED = """All other parameters are frozen, and their fingerprints are unchanged. The bars show the share of all
parameters."""


def write_page(runs: Runs) -> Path:
    """Write report.html; returns its path."""
    path = runs.root / PAGE
    replace_text(path, repaired(page(runs)))
    return path


def page(runs: Runs) -> str:
    """The whole page as HTML."""
    template = files("chatbridge.report").joinpath("page.html").read_text(encoding="utf-8")
    budget = MediaBudget()
    sections = {
        "Results": results_table(scores(runs)) if runs.tasks else "",
        "Modality report": modality_section(runs),
        "Prompts": prompts_section(runs),
        "Groups": groups_section(group_tables(runs)),
        "Modalities": ablation_table(ablations(runs)),
        "Loss": loss_section(runs.trainings),
        "During training": scores_section(runs.trainings),
        "Examples": examples_section(runs, budget),
        "Items": items_section(runs, budget),
        "Confusions": confusion_matrices(runs),
        "What was trained": _trained(runs.trainings),
        "Receipts": receipt_section(runs),
    }
    sections = {name: content for name, content in sections.items() if content}
    body = "\n".join([_head(runs, list(sections)), *sections.values(), _foot(runs)])
    return template.replace("{{title}}", html.escape(f"ChatBridge, {runs.root}")).replace("{{body}}", body)


def _head(runs: Runs, names: list[str]) -> str:
    links = "".join(f'<a href="#{name.lower().replace(" ", "-")}">{name}</a>' for name in names)
    tiles = "".join(map(_tile, scores(runs)))
    names_of_runs = ", ".join(run.name for run in runs.trainings) or str(runs.root)
    title = f'<h1>{TITLE}</h1><p class="quiet">{html.escape(names_of_runs)}</p>'
    return f'{title}<nav>{links}</nav><div class="tiles">{tiles}</div>'


def _tile(score: Score) -> str:
    value = score_text(score.score, score.unit)
    return f'<div class="tile"><span>{score_title(score)}</span><b>{value}</b>{goal(score)}</div>'


def _trained(trainings: tuple[TrainingRun, ...]) -> str:
    """The tree of the last training run that has a checkpoint."""
    for run in reversed(trainings):
        root = read_tree(run)
        if root is not None:
            listed = run.manifest.get("model", {}).get("trainable")
            patterns = ", ".join(map(str, listed)) if isinstance(listed, list) else ""
            patterns = patterns or "the tensors of its checkpoint"
            lead = f"{html.escape(run.name)} trained <code>{html.escape(patterns)}</code>. {TRAINED}"
            return section("what-was-trained", "What was trained", lead, f'<div class="card">{draw_tree(root)}</div>')
    return ""


def _foot(runs: Runs) -> str:
    times = ", ".join(f"{html.escape(step)} {clock(seconds)}" for step, seconds in runs.wall_s.items())
    total = f" ({clock(sum(runs.wall_s.values()))} in all)" if len(runs.wall_s) > 1 else ""
    versions = next((run.manifest["versions"] for run in reversed(runs.trainings) if "versions" in run.manifest), {})
    packages = ", ".join(f"{html.escape(name)} {html.escape(str(number))}" for name, number in versions.items())
    root = html.escape(str(runs.root))
    return f"<footer>Wall time: {times or 'not measured'}{total}.<br>{packages}<br>{root}</footer>"


def clock(seconds: float) -> str:
    """135 -> 2 min 15 s"""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
