"""Reports of MME and MMBench: tables of their groups, sums, and the chance level of a circular evaluation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from chatbridge.config.schema import parse
from chatbridge.report.chance import chance_of
from chatbridge.report.examples import find_examples
from chatbridge.report.group_tables import group_tables, groups_section
from chatbridge.report.page import page
from chatbridge.report.results import results, text_table
from chatbridge.report.run_folders import read_runs
from chatbridge.report.runs import Runs
from chatbridge.tasks.config import EvaluationConfig
from chatbridge.tasks.evaluator import score_in_place, write_metrics, write_predictions
from tests.helpers.choice_sets import question, write_mmbench, write_mme
from tests.helpers.mini_world import write_yaml
from tests.helpers.scripted_model import ScriptedModel

TURNED = {"A": "a blue disc", "B": "neither", "C": "a red circle"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """An evaluation of both sets by a model that always says "A no"."""
    root = tmp_path_factory.mktemp("choices")
    write_mme(root / "mme")
    (root / "mme/OCR/0000.jpg").unlink()
    rows = [question(1), question(2, "B", category="<shape>"), question(3), question(1_000_001, "C", **TURNED)]
    nodes = {
        "mme": {"name": "mme", "dataset": {"name": "mme", "folder": str(root / "mme")}},
        "bench": {"name": "mmbench", "group_by": ["category"],
                  "dataset": {"name": "mmbench", "file": str(write_mmbench(root / "t.tsv", rows))}},
    }  # fmt: skip
    results = {}
    for name, choice in parse(EvaluationConfig, {"tasks": nodes}).tasks.items():
        task = choice.part(choice.config, name)
        found = ScriptedModel(lambda text: "no" if "yes or no" in text else "A").predictions(task)
        write_predictions(root / f"predictions_{name}.jsonl", found)
        results[name] = score_in_place(task, root)
    write_metrics(root / "metrics.json", results)
    write_yaml(root / "resolved.yaml", {"evaluation": {"tasks": nodes}})
    return read_runs(root)


def test_subjects_have_a_table(runs: Runs):
    """fails when a subject, its score, its unreadable questions or a sum is not on the page"""
    mme, bench = group_tables(runs)
    assert [line.name for line in mme.lines][:2] == ["existence", "count"] and len(mme.lines) == 14
    ocr = next(line for line in mme.lines if line.name == "OCR")
    assert (ocr.scores["accuracy"], ocr.totals["score"], ocr.count, ocr.unreadable) == (0.25, 25.0, 4, 2)
    assert ocr.answers == {"yes": 0, "no": 2, "other": 0}
    assert mme.whole.totals == {"perception": 475.0, "cognition": 200.0}
    assert {line.name: line.scores["accuracy"] for line in bench.lines} == {"<shape>": 0.0, "color": 1.0}
    text = page(runs)
    assert '<h2 id="groups">Groups</h2>' in text and "perception 475.0 · cognition 200.0" in text
    assert "&lt;shape&gt;" in text and "4 (2 unreadable)" in text and 'id="confusions"' not in text
    assert results(runs)["totals"] == {"mme": {"perception": 475.0, "cognition": 200.0}}
    assert "  mme: perception" in text_table(runs) and "475.0" in text_table(runs)


def test_images_of_a_table_are_shown(runs: Runs):
    """fails when an image inside a data file is not shown, or a copy that is answered wrongly looks correct"""
    bench = replace(runs, tasks=tuple(task for task in runs.tasks if task.name == "bench"))
    ((first, second, _),) = find_examples(bench).values()
    assert [one.is_correct for one in (first, second)] == [False, False] and len(first.exchanges) == 2
    assert [one.is_correct for one in first.exchanges] == [False, False]  # its circle, and the copy itself
    examples = page(bench).partition('id="examples"')[2].partition("<h2 ")[0]
    assert examples.count('<img src="data:image/png;base64,/9j/') == 3


def test_a_guess_must_be_correct_in_every_rotation(runs: Runs):
    """fails when the chance level of a circular evaluation is that of single questions"""
    bench = next(task for task in runs.tasks if task.name == "bench")
    assert bench.metric == "circular_accuracy" and bench.score == pytest.approx(1 / 3)
    assert chance_of(bench) == pytest.approx(2 / 3)  # per category: "B" for shapes; "A" for colors: of two, one rotates
    assert results(runs)["chance"]["by_kind"]["bench"] == {"<shape>": 1.0, "color": 0.5}


def test_groups_of_another_shape_are_left_out(runs: Runs, tmp_path: Path):
    """fails when a metrics.json of another version ends the report"""
    for by in (3, {"kind": 3}, {"kind": {"a": 3}}, {"kind": {"a": {"x": "high", "totals": 3, "count": None}}}):
        metrics = json.loads(json.dumps({"metric": "accuracy", "accuracy": 1.0, "by": by, "totals": [1]}))
        task = replace(runs.tasks[0], metrics=metrics)
        odd = replace(runs, tasks=(task,))
        assert "high" not in groups_section(group_tables(odd)) + text_table(odd)
