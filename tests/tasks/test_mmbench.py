"""MMBench: accuracy, circular evaluation and the submission, from the file to the sheet."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pytest

from chatbridge.common.errors import ConfigError
from chatbridge.config.schema import parse
from chatbridge.tasks import mmbench as module
from chatbridge.tasks.config import EvaluationConfig
from chatbridge.tasks.evaluator import summary_line
from chatbridge.tasks.mmbench import MMBench
from chatbridge.tasks.mmbench_submission import write_submission
from tests.helpers.choice_sets import image_cell, question, write_mmbench
from tests.helpers.scored import results_of
from tests.helpers.scripted_model import ScriptedModel
from tests.helpers.small_disk import small_disk


def task(path: Path, dataset: dict[str, Any] | None = None, **settings: Any) -> MMBench:
    node = {"name": "mmbench", **settings, "dataset": {"name": "mmbench", "file": str(path), **(dataset or {})}}
    choice = parse(EvaluationConfig, {"tasks": {"mmbench": node}}).tasks["mmbench"]
    return choice.part(choice.config, "mmbench")  # pyright: ignore[reportReturnType]


def letter_of(wanted: str) -> ScriptedModel:
    """Answers with the letter of the option that has this text; "Not sure." where none has."""

    def answer(text: str) -> str:
        found = re.search(rf"^([A-Z])\. {re.escape(wanted)}$", text, re.MULTILINE)
        return found[1] if found else "Not sure."

    return ScriptedModel(answer)


def sheet(path: Path) -> list[tuple[Any, ...]]:
    return list(openpyxl.load_workbook(path).active.iter_rows(values_only=True))  # pyright: ignore


def test_the_released_prompt(tmp_path: Path):
    """fails when the prompt of the reference changes, with a hint and without"""
    rows = [question(1, hint="Look left."), question(2, D="all of them"), question(3, question="Is <HINT> a word?")]
    model = ScriptedModel(lambda text: "A")
    model.predictions(task(write_mmbench(tmp_path / "t.tsv", rows)))
    texts = [conversation[-1].parts[1].text for conversation in model.conversations]
    options = "A. a red circle\nB. a blue disc\nC. neither\n"
    assert texts[0] == f"Look left. What is number 1? There are several options:\n{options}"
    assert texts[1] == f"What is number 2? There are several options:\n{options}D. all of them\n"
    assert texts[2] == f"Is <HINT> a word? There are several options:\n{options}"
    assert all(conversation[-1].parts[0].modality == "image" for conversation in model.conversations)


def test_accuracy_groups_and_what_was_not_extracted(tmp_path: Path):
    """fails when an answer without an option is dropped, or a group is scored over other questions"""
    answers = {1: "A", 2: "It is a blue disc.", 3: "Hard to say", 4: "B"}
    rows = [question(1), question(2, "B"), question(3, "C"), question(4, "A", category="shape")]
    mmbench = task(write_mmbench(tmp_path / "t.tsv", rows), group_by=["category", "l2-category"])
    given = ScriptedModel(lambda text: answers[int(re.findall(r"number (\d)", text)[0])]).predictions(mmbench)
    found = results_of(mmbench, given)
    assert (found["accuracy"], found["count"], found["unreadable"]) == (0.5, 4, 0)
    assert found["answers"] == {"letter": 2, "phrase": 0, "letters": 0, "text": 1, "none": 1}
    assert found["metric"] == "accuracy" and "circular_accuracy" not in found
    by = found["by"]["category"]
    assert (by["color"]["accuracy"], by["color"]["count"], by["shape"]["accuracy"]) == (2 / 3, 3, 0.0)
    assert "none 1" in summary_line("mmbench", found)


def test_circular_evaluation_of_copies(tmp_path: Path):
    """fails when a question counts although one rotation of its options is answered wrongly"""
    turned = {"A": "a blue disc", "B": "neither", "C": "a red circle"}
    rows = [question(1), question(2), question(1_000_001, "C", **turned), question(1_000_002, "C", **turned)]
    mmbench = task(write_mmbench(tmp_path / "t.tsv", rows))
    given = letter_of("a red circle").predictions(mmbench)
    found = results_of(mmbench, given)
    assert (found["accuracy"], found["rotated_accuracy"], found["circular_accuracy"]) == (1.0, 1.0, 1.0)
    always = results_of(mmbench, ScriptedModel(lambda text: "A").predictions(mmbench))
    assert (always["accuracy"], always["rotated_accuracy"], always["circular_accuracy"]) == (1.0, 0.0, 0.0)
    assert always["metric"] == "circular_accuracy"
    assert always["measured"] == {"accuracy": 2, "circular_accuracy": 2, "rotated_accuracy": 2}
    half = {"1": "A"}
    answer = letter_of("a red circle").answer
    mixed = results_of(
        mmbench,
        ScriptedModel(lambda text: answer(text) if "number 1000001" in text else half["1"]).predictions(mmbench),
    )
    assert (mixed["circular_accuracy"], mixed["rotated_accuracy"], mixed["accuracy"]) == (0.5, 0.5, 1.0)


def test_rotations_are_made_and_stay_together(tmp_path: Path):
    """fails when rotated options lose their answer, a limit cuts a circle, or copies are rotated again"""
    path = write_mmbench(tmp_path / "t.tsv", [question(1, "B", D="both"), question(2, "C"), question(3)])
    mmbench = task(path, {"rotate": True})
    assert len(mmbench.dataset) == 4 + 3 + 3
    records = [mmbench.dataset.record(index, None) for index in range(len(mmbench.dataset))]  # pyright: ignore
    assert [record.id for record in records[:4]] == ["1", "1000001", "2000001", "3000001"]
    assert len({tuple(record.details["options"].values()) for record in records[:4]}) == 4
    for record in records[:4]:
        assert record.details["options"][record.references[0]] == "a blue disc"
    assert results_of(mmbench, letter_of("a blue disc").predictions(mmbench))["circular_accuracy"] == 1 / 3
    assert len(task(path, {"rotate": True, "limit": 2}).dataset) in (6, 7)
    copies = write_mmbench(tmp_path / "c.tsv", [question(1), question(1_000_001)])
    with pytest.raises(ValueError, match="holds copies with rotated options already; remove rotate"):
        task(copies, {"rotate": True})


def test_a_test_split_is_asked_and_not_scored(tmp_path: Path):
    """fails when questions without an answer get a score, even where an image cannot be read"""
    rows = [question(1, None), question(2, None, image="!!"), question(1_000_001, None)]
    mmbench = task(write_mmbench(tmp_path / "t.tsv", rows))
    assert "3 questions have no answer" in (mmbench.dataset.note() or "")
    assert "have no answer" in (mmbench.dataset.untrainable() or "")
    given = ScriptedModel(lambda text: "B").predictions(mmbench)
    found = results_of(mmbench, given)
    assert found["metric"] is None and (found["count"], found["unreadable"]) == (3, 1)
    assert summary_line("t", found).startswith("t: 3 answers, not scored")
    assert [row["prediction"] for row in given] == ["B", "", "B"]


def test_a_damaged_image_counts_as_incorrect(tmp_path: Path):
    """fails when a damaged image ends the evaluation, is left out, or its circle counts"""
    rows = [
        question(1), question(2, image="not base64!"), question(3, image=""), question(4, image="aGVsbG8="),
        question(1_000_001, image="aGVsbG8="), question(5, image="1"),
        question(6, image=f"data:image/jpeg;base64,{image_cell()}"),
    ]  # fmt: skip
    mmbench = task(write_mmbench(tmp_path / "t.tsv", rows))
    given = ScriptedModel(lambda text: "A").predictions(mmbench)
    problems = [row.get("problem") for row in given]
    assert [problem is None for problem in problems] == [True, False, False, False, False, True, True]
    assert [row["references"] for row in given] == [["A"]] * 7
    assert "is not base64" in str(problems[1]) and "is empty" in str(problems[2]) and "image" in str(problems[3])
    found = results_of(mmbench, given)
    assert (found["count"], found["unreadable"]) == (7, 4)
    assert (found["accuracy"], found["rotated_accuracy"], found["circular_accuracy"]) == (0.5, 0.0, 2 / 6)


def test_the_submission_has_every_option_in_its_column(tmp_path: Path):
    """fails when a column is shifted as in the reference, text becomes a formula, or a letter is lost"""
    rows = [question(1, None, A="=1+1", C="bad \x0b character"), question(2, None, D="fourth", E="fifth"),
            question(3, None, image="!!")]  # fmt: skip
    mmbench = task(write_mmbench(tmp_path / "t.tsv", rows))
    (path,) = mmbench.write(ScriptedModel(lambda text: "=B").predictions(mmbench), tmp_path)
    assert path == tmp_path / "submission_mmbench.xlsx"
    head, first, second, third = sheet(path)
    assert head == ("question", "A", "B", "C", "D", "E", "prediction", "category", "l2-category", "index")
    assert first == ("What is number 1?", "=1+1", "a blue disc", "bad  character", None, None, "=B", "color",
                     "perception", 1)  # fmt: skip
    assert second[4:6] == ("fourth", "fifth") and third[6] is None and third[9] == 3
    assert openpyxl.load_workbook(path).active["B2"].data_type == "s"  # pyright: ignore
    assert task(tmp_path / "t.tsv", submission=False).write([], tmp_path) == []


def test_without_openpyxl_the_settings_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """fails when a missing package is noticed after hours of answers"""
    path = write_mmbench(tmp_path / "t.tsv", [question(1)])
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package 'openpyxl'.*\n.*submissions.*submission: false"):
        task(path)
    assert len(task(path, submission=False).dataset) == 1


def test_a_submission_replaces_an_earlier_one(tmp_path: Path):
    """fails when a second evaluation leaves the first submission, or a full disk parts of it"""
    path = tmp_path / "s.xlsx"
    row = {"prediction": "A", "details": {"question": "q", "options": {"A": "x", "B": "y"}, "index": 1}}
    write_submission(path, [row, row])
    write_submission(path, [row])
    with small_disk(4000), pytest.raises(OSError, match="s.xlsx"):
        write_submission(path, [row] * 9)
    assert len(sheet(path)) == 2 and [one.name for one in tmp_path.iterdir()] == ["s.xlsx"]


def test_scores_equal_those_computed_from_the_submission(tmp_path: Path):
    """fails when accuracy or circular accuracy differs from a count over the rows of the sheet and of the table"""
    rng, rows = np.random.default_rng(5), []
    for number in range(16):
        options = [f"thing {letter}{number}" for letter in "abcd"[: 2 + number % 3]]
        correct = int(rng.integers(len(options)))
        for turn in range(len(options)):
            turned = options[turn:] + options[:turn]
            letters = dict.fromkeys("ABCD", "") | dict(zip("ABCD", turned))
            rows.append(question(number + turn * 1_000_000, "ABCD"[turned.index(options[correct])], **letters))
    path = write_mmbench(tmp_path / "t.tsv", [rows[place] for place in rng.permutation(len(rows))])
    right = {row["index"]: row[row["answer"]] for row in rows}

    def answer(text: str) -> str:
        """Mostly the correct option's letter, from which the index of the question follows."""
        index = int(re.findall(r"number (\d+)", text)[0])
        return letter_of(right[index]).answer(text) if rng.random() < 0.8 else "A"

    mmbench = task(path)
    given = ScriptedModel(answer).predictions(mmbench)
    found = results_of(mmbench, given)
    mmbench.write(given, tmp_path)
    head, *lines = sheet(tmp_path / "submission_mmbench.xlsx")
    index, prediction = head.index("index"), head.index("prediction")
    hits: dict[int, list[bool]] = {}
    for line in lines:
        correct = next(row["answer"] for row in rows if row["index"] == line[index])
        hits.setdefault(line[index] % 1_000_000, []).append(line[prediction] == correct)
    own = [line[prediction] == rows_of["answer"] for line in lines for rows_of in rows
           if rows_of["index"] == line[index] < 1_000_000]  # fmt: skip
    assert found["circular_accuracy"] == sum(map(all, hits.values())) / 16 and 0.1 < found["circular_accuracy"] < 0.9
    assert found["accuracy"] == sum(own) / 16 and found["count"] == len(rows) == len(lines)
    assert found["rotated_accuracy"] == (sum(map(sum, hits.values())) - sum(own)) / (len(rows) - 16)
