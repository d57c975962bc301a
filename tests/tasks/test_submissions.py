"""Files for official scripts and servers: their form, and what they have for questions without an answer."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from chatbridge.common.errors import ConfigError
from chatbridge.config.schema import parse
from chatbridge.tasks.config import EvaluationConfig
from chatbridge.tasks.metrics.base import METRICS
from chatbridge.tasks.prediction_lines import items_of
from chatbridge.tasks.submissions import submission_problem, write_submission_file
from tests.helpers.mini_questions import GQA


def row(name: str, prediction: str, **details: Any) -> dict[str, Any]:
    return {"id": name, "question": f"Question {name}?", "prediction": prediction, "details": details}


def written(folder: Path, form: Any, *rows: dict[str, Any]) -> Any:
    text = write_submission_file(folder / f"{form}.json", rows, form).read_text(encoding="utf-8")
    return text if form == "pope" else json.loads(text)


def test_forms_of_open_questions(tmp_path: Path):
    """fails when an id changes its type, an answer is not the model's, or an unreadable question is left out"""
    rows = [
        row("262148000", " two\nbirds. ", image="a.jpg"),
        row("007", "", image="b.jpg"),
        row("x1", "Café", image="c"),
    ]
    assert written(tmp_path, "vqa", *rows) == [
        {"question_id": 262148000, "answer": " two\nbirds. "}, {"question_id": "007", "answer": ""},
        {"question_id": "x1", "answer": "Café"},
    ]  # fmt: skip
    assert written(tmp_path, "vizwiz", *rows)[:2] == [
        {"image": "a.jpg", "answer": " two\nbirds. "}, {"image": "b.jpg", "answer": ""}
    ]  # fmt: skip
    assert written(tmp_path, "gqa", *rows)[0] == {"questionId": "262148000", "prediction": "two birds"}
    assert written(tmp_path, "aokvqa_direct", *rows) == {"262148000": "two\nbirds.", "007": "", "x1": "café"}
    assert json.loads(written(tmp_path, "pope", *rows).splitlines()[0]) == {
        "question": "Question 262148000?", "answer": " two\nbirds. "
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


def score(metric: str, rows: list[dict[str, Any]], name: str, **settings: Any) -> float:
    part = METRICS.get(metric)
    (found,) = (one for one in part(part.Config(**settings)).scores(items_of(rows)) if one.name == name)  # type: ignore
    return found.value


WORDS = ["Yes", "yes.", "No", "no", "not", "No, there is", "A. tea", "B", "tea", "coffee", "The answer is C", "sand\nC"]


@pytest.fixture(scope="module")
def answered() -> list[dict[str, Any]]:
    """200 questions with random answers."""
    rng, options = random.Random(3), {"A": "tea", "B": "coffee", "C": "sand"}
    return [
        {**row(str(k), " ".join(rng.choices(WORDS, k=1 + k % 2)), options=options, answer=rng.choice("ABC")),
         "references": [rng.choice(["yes", "no"])]}
        for k in range(200)
    ]  # fmt: skip


def test_the_script_of_pope_finds_our_scores(answered: list[dict[str, Any]], tmp_path: Path):
    """fails when evaluate.py of POPE reads other answers from the submission than yes_no_f1 from the predictions"""
    given = [json.loads(line)["answer"] for line in written(tmp_path, "pope", *answered).splitlines()]
    first = [text[: text.find(".")] if "." in text else text for text in given]
    says = ["no" if {"No", "not", "no"} & set(text.replace(",", "").split(" ")) else "yes" for text in first]
    pairs = Counter((said, item["references"][0]) for said, item in zip(says, answered, strict=True))
    precision = pairs["yes", "yes"] / (pairs["yes", "yes"] + pairs["yes", "no"])
    recall = pairs["yes", "yes"] / (pairs["yes", "yes"] + pairs["no", "yes"])
    assert score("yes_no_f1", answered, "f1") == pytest.approx(2 * precision * recall / (precision + recall))
    assert score("yes_no_f1", answered, "yes_ratio") == pytest.approx(says.count("yes") / 200)


def test_the_scripts_of_choices_find_our_accuracy(answered: list[dict[str, Any]], tmp_path: Path):
    """fails when evaluate_acc.py of ScienceQA or eval_predictions.py of A-OKVQA finds another accuracy than we do"""
    rows = [{**item, "references": [item["details"]["answer"]]} for item in answered]
    ours = score("choice_letter", rows, "choice_letter")
    numbers = written(tmp_path, "scienceqa", *rows)["results"]
    assert sum(int(numbers[item["id"]]) == "ABC".index(item["references"][0]) for item in rows) / 200 == ours
    texts = written(tmp_path, "aokvqa_choice", *rows)
    choices = ["tea", "coffee", "sand"]
    assert sum(texts[item["id"]] == choices["ABC".index(item["references"][0])] for item in rows) / 200 == ours
    assert 0.1 < ours < 0.6


def test_the_scripts_of_open_answers_find_our_accuracy(answered: list[dict[str, Any]], tmp_path: Path):
    """fails when the answers that A-OKVQA and GQA compare letter by letter differ from those that we compare"""
    rows = [{**item, "references": ["yes"] * 2 + ["no"] * (k % 3) + ["tea"]} for k, item in enumerate(answered)]
    direct = written(tmp_path, "aokvqa_direct", *rows)
    shares = [min(1.0, sum(direct[item["id"]] == one for one in item["references"]) / 3) for item in rows]
    assert score("vqa_accuracy", rows, "vqa_accuracy", script="a_okvqa") == pytest.approx(100 * sum(shares) / 200)
    rows = [{**item, "references": ["coffee" if k % 2 else "yes"]} for k, item in enumerate(answered)]
    given = {one["questionId"]: one["prediction"] for one in written(tmp_path, "gqa", *rows)}
    ours = score("gqa_accuracy", rows, "gqa_accuracy")
    assert ours == sum(given[item["id"]] == item["references"][0] for item in rows) / 200 > 0


@pytest.mark.parametrize("form, name, wanted", [("captions", "questions", "captions"), ("vqa", "captions", "answers")])
def test_a_form_of_another_kind_is_refused(form: Any, name: str, wanted: str):
    """fails when captions are written as answers for a server, or answers as captions"""
    problem = submission_problem(form, SimpleNamespace(name=name, config=None))  # type: ignore[arg-type]
    assert problem is not None and f"{form} is a file of {wanted}" in problem.message
    assert submission_problem(form, SimpleNamespace(name="of_a_plugin", config=None)) is None  # type: ignore[arg-type]
