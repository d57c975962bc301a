"""Files for official scripts and servers: their form, and what they have for questions without an answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chatbridge.common.errors import ConfigError
from chatbridge.config.schema import parse
from chatbridge.tasks.config import EvaluationConfig
from chatbridge.tasks.submissions import write_submission_file
from tests.helpers.mini_questions import GQA


def row(name: str, prediction: str, **details: Any) -> dict[str, Any]:
    return {"id": name, "question": f"Question {name}?", "prediction": prediction, "details": details}


def written(folder: Path, form: Any, *rows: dict[str, Any]) -> Any:
    text = write_submission_file(folder / f"{form}.json", rows, form).read_text(encoding="utf-8")
    return text if form == "pope" else json.loads(text)


def test_forms_of_open_questions(tmp_path: Path):
    """fails when an id changes its type, a line break breaks an answer, or an unreadable question is left out"""
    rows = [
        row("262148000", " two\nbirds. ", image="a.jpg"),
        row("007", "", image="b.jpg"),
        row("x1", "Café", image="c"),
    ]
    assert written(tmp_path, "vqa", *rows) == [
        {"question_id": 262148000, "answer": "two birds."}, {"question_id": "007", "answer": ""},
        {"question_id": "x1", "answer": "Café"},
    ]  # fmt: skip
    assert written(tmp_path, "vizwiz", *rows)[:2] == [
        {"image": "a.jpg", "answer": "two birds."}, {"image": "b.jpg", "answer": ""}
    ]  # fmt: skip
    assert written(tmp_path, "gqa", *rows)[0] == {"questionId": "262148000", "prediction": "two birds"}
    assert written(tmp_path, "aokvqa_direct", *rows) == {"262148000": "two birds.", "007": "", "x1": "Café"}
    assert json.loads(written(tmp_path, "pope", *rows).splitlines()[0]) == {
        "question": "Question 262148000?", "answer": "two birds."
    }  # fmt: skip


def test_forms_of_questions_with_options(tmp_path: Path):
    """fails when a letter is written where its text is expected, or an answer that chooses nothing becomes an option"""
    options = {"A": "tea", "B": "coffee", "C": "sand"}
    rows = [
        row("1", "B", options=options), row("2", "The answer is C.", options=options),
        row("3", "Who knows", options=options), row("4", "", options=options),
    ]  # fmt: skip
    assert written(tmp_path, "aokvqa_choice", *rows) == {"1": "coffee", "2": "sand", "3": "Who knows", "4": ""}
    assert written(tmp_path, "scienceqa", *rows) == {
        "results": {"1": 1, "2": 2, "3": -1, "4": -1},
        "outputs": {"1": "B", "2": "The answer is C.", "3": "Who knows", "4": ""},
    }


def test_a_question_that_is_asked_several_times_counts_once(tmp_path: Path):
    """fails when rotated options or further prompts reach the server, which refuses unknown ids"""
    options = {"A": "tea", "B": "coffee"}
    rows = [
        row("1", "B", options=options, copy=0), row("1+1", "A", options=options, copy=1),
        row("2", "A", options=options, copy=0, prompt=1, item="2"),
        row("2@2", "B", options=options, copy=0, prompt=2, item="2"), row("3", "A", options=options, prompt=7),
    ]  # fmt: skip
    assert written(tmp_path, "scienceqa", *rows)["results"] == {"1": 1, "2": 0, "3": 0}


@pytest.mark.parametrize("form, message", [("scienceqa", "needs questions with options"), ("vizwiz", "format: vizwiz")])
def test_a_form_of_another_data_set_is_refused(form: str, message: str, tmp_path: Path):
    """fails when a form that the answers cannot have is noticed after all questions were asked"""
    path = tmp_path / "gqa.json"
    path.write_text(json.dumps(GQA))
    dataset = {
        "name": "questions",
        "format": "gqa",
        "tag": "ti-qa",
        "annotations": str(path),
        "image_folder": str(tmp_path),
    }
    with pytest.raises(ConfigError, match=f"submission_format(?s:.*){message}"):
        parse(EvaluationConfig, {"tasks": {"t": {"name": "vqa", "submission_format": form, "dataset": dataset}}})
