"""Every YAML of a question set, with miniatures of its published files where the YAML expects them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chatbridge.config.merge import load
from chatbridge.config.schema import parse
from chatbridge.tasks import Task
from chatbridge.tasks.config import EvaluationConfig
from tests.helpers.question_sets import write_question_sets
from tests.helpers.scripted_model import ScriptedModel

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_question_sets(tmp_path_factory.mktemp("sets"))


def tasks_of(name: str, only: str = "", **changed: Any) -> dict[str, Task]:
    """The tasks of a YAML, or one of them; changed: settings of their data sets"""
    nodes = load(ROOT / f"configs/tasks/{name}.yaml")[0]["evaluation"]["tasks"]
    nodes = {key: node for key, node in nodes.items() if only in ("", key)}
    for node in nodes.values():
        node |= {"answer": "letter"} if "answer" in node else {}  # the scripted model has no likelihoods
        node["dataset"] = {**node["dataset"], **changed}
    found = parse(EvaluationConfig, {"tasks": nodes}).tasks
    return {key: choice.part(choice.config, key) for key, choice in found.items()}  # pyright: ignore


def says(*rules: tuple[str, str]) -> Callable[[str], str]:
    """Answers with the second text of the first rule whose first text is in the question."""
    return lambda text: next(answer for part, answer in rules if part in text)


EXPECTED = {  # YAML -> its model, and task -> headline and its value
    "vqav2": (says(("looking", "Down."), ("How many", "two")),
              {"vqav2_val": ("vqa_accuracy", 50.0), "vqav2_testdev": (None, None)}),
    "okvqa": (says(("sport", "race"), ("plant", "rose")), {"okvqa": ("vqa_accuracy", 50.0)}),
    "aokvqa": (says(("A. tea", "B"), ("A. bob", "A"), ("cup", "latte"), ("made", "eve")),
               {"aokvqa_choice": ("choice_letter", 0.5), "aokvqa_direct": ("vqa_accuracy", 200 / 3)}),
    "gqa": (says(("overcast", "No."), ("dress", "man")), {"gqa": ("gqa_accuracy", 0.5)}),
    "vizwiz": (says(("better one", "Unanswerable."), ("What is", "a dog")),
               {"vizwiz_val": ("vqa_accuracy", 50.0), "vizwiz_test": (None, None)}),
    "textvqa": (says(("phone", "Nokia"), ("say", "go")), {"textvqa": ("vqa_accuracy", 50.0)}),
    "scienceqa": (says(("north", "A. West Virginia"), ("bitten", "yes")), {"scienceqa": ("choice_letter", 0.5)}),
    "pope": (says(("snowboard", "Yes, there is."), ("table", "Yes."), ("dog", "No.")),
             {f"pope_{name}": ("f1", 2 / 3) for name in ("random", "popular", "adversarial")}),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_a_set_is_asked_scored_and_submitted(name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """fails when a YAML names a file that its card does not have, its prompt loses the question, its headline is not
    the score that papers report, a group or an interval is missing, or its submission lacks a question"""
    monkeypatch.chdir(data)
    answer, expected = EXPECTED[name]
    tasks = tasks_of(name)
    assert tasks.keys() == expected.keys()
    for key, task in tasks.items():
        rows = ScriptedModel(answer).predictions(task)
        assert [row.get("problem") for row in rows] == [None] * len(task.dataset)
        assert all("<" not in row["question"] for row in rows)
        found = task.results(task.scored(rows))
        metric, value = expected[key]
        assert found["metric"] == metric
        if metric is not None:
            assert found[metric] == pytest.approx(value)
            assert metric in found["intervals"] and found["by" if task.config.group_by else "metric"]
        written = [json.loads(line) for path in task.write(rows, tmp_path) for line in path.read_text().splitlines()]
        whole = written if name == "pope" else written[0] if written else None
        if task.config.submission_format is not None:
            assert len(whole["results"] if name == "scienceqa" else whole) == len(rows)


def test_published_scores_name_a_score_of_the_task():
    """fails when a published score is of a metric that its task does not have, or has no source"""
    count = 0
    for name in EXPECTED:
        for node in load(ROOT / f"configs/tasks/{name}.yaml")[0]["evaluation"]["tasks"].values():
            for one in node["report"].get("published", ()):
                names = (
                    {"accuracy", "f1", "yes_ratio"} if name == "pope" else set(node.get("metrics", ["choice_letter"]))
                )
                assert one["metric"] in names and one["source"] and one["model"]
                count += 1
    assert count == 25


def test_variants_that_the_yamls_mention(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """fails when a setting that a comment recommends is refused or has no effect"""
    monkeypatch.chdir(data)
    with_ocr = tasks_of("textvqa", ocr="data/textvqa/TextVQA_Rosetta_OCR_v0.2_val.json")["textvqa"]
    texts = [row["question"] for row in ScriptedModel(lambda text: "x").predictions(with_ocr)]
    assert ["Reference OCR token: NOKIA, 24-70" in text for text in texts] == [True, False]
    (row,) = ScriptedModel(lambda text: "A").predictions(tasks_of("scienceqa", images=True)["scienceqa"])
    assert re.match(r"Which of these states.*\nA\. West", row["question"])
    test = tasks_of("aokvqa", annotations="data/aokvqa/aokvqa_v1p0_test.json", unanswered="keep")
    for key, answer in (("aokvqa_choice", {"tea"}), ("aokvqa_direct", {"a"})):
        rows = ScriptedModel(lambda text: "A").predictions(test[key])
        assert test[key].results(test[key].scored(rows))["metric"] is None
        (path,) = test[key].write(rows[:1], tmp_path)
        assert set(json.loads(path.read_text()).values()) == answer
    rotated = tasks_of("aokvqa", rotate=True, only="aokvqa_choice")["aokvqa_choice"]
    rows = ScriptedModel(lambda text: re.findall(r"([A-D])\. (?:coffee|bob)", text)[0]).predictions(rotated)
    found = rotated.results(rotated.scored(rows))
    assert (found["metric"], found["circular"], found["choice_letter"]) == ("circular", 0.5, 0.5)


def test_unreadable_images_stay_in_every_denominator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog):
    """fails when a question with a missing image leaves a score, loses its references, or is not in the submission; or
    when nobody is told that a submission is a part"""
    monkeypatch.chdir(write_question_sets(tmp_path))
    for name in ("multis/coco/images/COCO_val2014_000000310196.jpg", "multis/coco/images/000000461751.jpg"):
        Path("data", name).unlink()
    pope = tasks_of("pope", only="pope_random")["pope_random"]
    rows = ScriptedModel(lambda text: "No.").predictions(pope)
    found = pope.results(pope.scored(rows))
    assert (found["accuracy"], found["count"], found["unreadable"]) == (1 / 3, 3, 2)
    assert "310196" in rows[0]["problem"] and rows[0]["references"] == ["yes"]
    (path,) = pope.write(rows, tmp_path)
    assert [json.loads(line)["answer"] for line in path.read_text().splitlines()] == ["", "", "No."]
    choice = tasks_of("aokvqa", only="aokvqa_choice")["aokvqa_choice"]
    rows = ScriptedModel(lambda text: "D").predictions(choice)
    assert [row["references"] for row in rows] == [["B"], ["D"]] and "problem" in rows[0]
    assert choice.results(choice.scored(rows))["choice_letter"] == 0.5
    (path,) = choice.write(rows, tmp_path)
    assert list(json.loads(path.read_text()).values()) == ["", "tom"]
    assert "a server wants all" not in caplog.text
    tasks_of("gqa", limit=1)["gqa"].write([], tmp_path)
    assert "(dataset.limit: 1); a server wants all of them" in caplog.text


def test_other_metrics_of_a_shipped_task_need_no_other_published_scores(data: Path, monkeypatch: pytest.MonkeyPatch):
    """fails when a user who scores a set with another metric must also remove its published scores"""
    monkeypatch.chdir(data)
    node = load(ROOT / "configs/tasks/gqa.yaml")[0]["evaluation"]["tasks"]["gqa"]
    found = parse(EvaluationConfig, {"tasks": {"gqa": {**node, "metrics": ["exact_match"]}}}).tasks["gqa"].config
    assert len(found.report.published) == 2 and list(found.metric_settings) == ["exact_match"]
