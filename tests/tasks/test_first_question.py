"""What a task is checked for before anything is asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chatbridge.config.schema import parse
from chatbridge.tasks import Task
from chatbridge.tasks.config import EvaluationConfig
from chatbridge.tasks.first_question import task_problems
from tests.helpers.choice_sets import question, write_mmbench, write_mme


def opened(node: dict[str, Any]) -> Task:
    (choice,) = parse(EvaluationConfig, {"tasks": {"qa": node}}).tasks.values()
    return choice.part(choice.config, "qa")


@pytest.fixture
def node(tmp_path: Path) -> dict[str, Any]:
    """Two questions, the first of which has no answer."""
    asked = {"role": "user", "content": "Which color?"}
    records = [
        {"id": "a", "messages": [asked]},
        {"id": "b", "messages": [asked, {"role": "assistant", "content": "red"}], "details": {"kind": "color"}},
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    dataset = {"name": "records", "file": str(tmp_path / "q.jsonl"), "unanswered": "keep"}
    return {"name": "vqa", "dataset": dataset}


def test_a_metric_of_another_kind_of_task(node: dict[str, Any]):
    """fails when it is found after all questions were asked, or a metric that fits is refused"""
    (problem,) = task_problems(opened({**node, "metrics": ["exact_match", "mme", "bleu"]}))
    assert problem.path == "metrics"
    assert "mme cannot score the first question: item 'a' has no 'answer' in its details" in problem.message
    (problem,) = task_problems(opened({**node, "metrics": ["circular"]}))
    assert "circular cannot score the first question: item 'a' has no `base` and `copy`" in problem.message
    assert not list(task_problems(opened(node)))


def test_shipped_kinds_fit_their_data(tmp_path: Path):
    """fails when MME or MMBench, with copies, is refused for the first question alone"""
    rows = [question(1), question(1_000_001, "C", A="a blue disc", B="neither", C="a red circle")]
    dataset = {"name": "mmbench", "file": str(write_mmbench(tmp_path / "t.tsv", rows))}
    assert not list(task_problems(opened({"name": "mmbench", "dataset": dataset})))
    assert not list(task_problems(opened({"name": "choice", "dataset": dataset})))
    folder = write_mme(tmp_path / "mme", images=1)
    assert not list(task_problems(opened({"name": "mme", "dataset": {"name": "mme", "folder": str(folder)}})))


def test_two_questions_with_one_id(node: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    """fails when the scores of one question replace those of another without a word"""
    task = opened(node)
    monkeypatch.setattr(type(task.dataset), "sample_id", lambda self, index: "same")
    (problem,) = task_problems(task)
    assert problem.path == "dataset" and "questions 0 and 1 have the same id 'same'" in problem.message


def test_a_modality_that_is_removed_in_vain(node: dict[str, Any]):
    """fails when drop_media names a modality that no question has, and the ablation shows the scores with all media"""
    (problem,) = task_problems(opened({**node, "drop_media": ["audio"]}))
    assert problem.path == "drop_media" and "removes audio, which the questions do not have" in problem.message
