"""`chatbridge score`: files of anybody, evaluations again, and what is wrong with a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chatbridge import __main__ as commands
from chatbridge.common.errors import ConfigError, DataError
from chatbridge.report.run_files import read_answers
from chatbridge.tasks.base import task_for_scoring
from chatbridge.tasks.evaluator import score_in_place, write_metrics
from chatbridge.tasks.prediction_lines import predictions_path, write_predictions
from chatbridge.tasks.scores_file import scores_path
from tests.helpers.mini_world import write_yaml

ITEMS = [
    {"id": "a", "prediction": "A red cat.", "references": ["red cat", "a cat"]},
    {"id": 2, "prediction": "dog", "references": "cat"},
    {"id": "c", "prediction": "", "references": ["cat"]},
]


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def score(*arguments: object) -> None:
    assert commands.main(["score", *map(str, arguments)]) == 0


def scored(path: Path, *arguments: object) -> dict[str, Any]:
    out = path.with_name("out.json")
    score(path, "--json", out, *arguments)
    return json.loads(out.read_text())


def test_any_file_of_predictions(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """fails when a file of somebody else is refused, an id changes, or an empty answer leaves the denominator"""
    found = scored(lines(tmp_path / "theirs.jsonl", ITEMS), "--metrics", "exact_match")
    assert found["scores"] == {"exact_match": 1 / 3}
    assert found["per_item"] == {"exact_match": {"a": 1.0, "2": 0.0, "c": 0.0}}
    assert found["notes"] == {"predictions without text": 1} and found["count"] == 3
    low, high = found["intervals"]["exact_match"]
    assert 0 <= low <= 1 / 3 <= high <= 1
    assert "predictions without text: 1 of 3" in capsys.readouterr().out


def test_a_problem_that_is_the_text_of_an_exercise(tmp_path: Path):
    """fails when a field of somebody else's file, `problem`, marks every answer as unreadable"""
    theirs = [{"id": "a", "problem": "What is 1 + 1?", "prediction": "2", "references": ["2"]}]
    found = scored(lines(tmp_path / "math.jsonl", theirs), "--metrics", "exact_match")
    assert found["scores"] == {"exact_match": 1.0} and found["unreadable"] == {}


def test_files_that_other_programs_write(tmp_path: Path):
    """fails when a byte order mark is refused, or a `problem` without words is a reason why an item is unreadable"""
    path = lines(tmp_path / "p.jsonl", [{**ITEMS[0], "problem": False}, {**ITEMS[2], "problem": ""}])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    found = scored(path, "--metrics", "exact_match, bleu")
    assert found["scores"]["exact_match"] == 0.5 and "bleu_4" in found["scores"]
    assert found["unreadable"] == {} and found["notes"] == {"predictions without text": 1}


def test_nothing_of_an_evaluation_is_replaced(folder: Path):
    """fails when --json replaces answers, also by a hard link, or what an evaluation was made with"""
    (folder / "linked.json").hardlink_to(folder / "predictions_qa.jsonl")
    for name in ("linked.json", "resolved.yaml", "metrics.json", "predictions_cap.jsonl"):
        with pytest.raises(ConfigError, match="which it would replace"):
            score(folder / "predictions_qa.jsonl", "--json", folder / name)


def test_lines_of_earlier_versions(tmp_path: Path):
    """fails when the answers of an earlier version cannot be scored"""
    older = [{"index": 0, "id": "a", "question": "?", "answer": "red", "references": ["red"], "scores": {"x": 0.0}}]
    assert scored(lines(tmp_path / "old.jsonl", older), "--metrics", "exact_match")["scores"] == {"exact_match": 1.0}


@pytest.mark.parametrize(("bad", "message"), [
    ({"id": "a", "prediction": "x"}, r"line 4: the id 'a' is used already on line 1"),
    ({"id": "2", "prediction": "x"}, r"line 4: the id '2' is used already on line 2"),
    ("{", r"line 4: is not JSON"),
    ("[1]", r"line 4: expected a JSON object, got a list"),
    ("[" * 100_000, r"line 4: is not JSON"),
    ({"prediction": "x"}, r"line 4: has no usable `id` \(None\)"),
    ({"id": "", "prediction": "x"}, r"line 4: has no usable `id`"),
    ({"id": "d", "caption": "x"}, r"line 4: `prediction` is missing among id, caption"),
    ({"id": "d", "prediction": None}, r"line 4: `prediction` is None; expected a text"),
    ({"id": "d", "prediction": "x", "references": 3}, r"line 4: `references` is 3; expected a list of texts"),
    ({"id": "d", "prediction": "x", "references": ["y", None]}, r"line 4: `references` is \['y', None\]"),
    ({"id": "d", "prediction": "x", "details": [1]}, r"line 4: `details` is \[1\]; expected an object"),
    ({"id": "d", "prediction": "x", "references": 0}, r"line 4: `references` is 0; expected a list of texts"),
    ('{"id": "d", "prediction": "x", "prediction": "y"}', r"line 4: is not JSON \('prediction' is there twice\)"),
    ({"id": "d", "problem": None}, r"line 4: `prediction` is missing among"),
])  # fmt: skip
def test_wrong_lines_are_named(tmp_path: Path, bad: Any, message: str):
    """fails when a wrong line gives a traceback or a silent wrong score"""
    path = lines(tmp_path / "p.jsonl", [*ITEMS, bad])
    with pytest.raises(DataError, match=message):
        score(path, "--metrics", "exact_match")


@pytest.mark.parametrize(("content", "message"), [
    (b"", "has no lines"), (b"\n\n", "has no lines"), (b"\xff\xfe{", "is not UTF-8"), (None, "No such file")
])  # fmt: skip
def test_files_without_lines(tmp_path: Path, content: bytes | None, message: str):
    """fails when an empty, binary or missing file gives a traceback or a score of nothing"""
    if content is not None:
        (tmp_path / "p.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=message):
        score(tmp_path / "p.jsonl", "--metrics", "exact_match")


def test_metrics_that_are_not_there_or_do_not_fit(tmp_path: Path):
    """fails when a misspelled metric, a metric of another kind of task, or a setting without metric is not reported"""
    path = lines(tmp_path / "p.jsonl", ITEMS)
    with pytest.raises(ConfigError, match="did you mean exact_match") as error:
        score(path, "--metrics", "exact_macth,mme")
    assert error.value.problems[0].path == "--metrics"
    with pytest.raises(ConfigError, match="f1 is a score of yes_no_f1"):
        score(path, "--metrics", "f1")
    with pytest.raises(ConfigError, match="is needed: .*p.jsonl belongs to no task"):
        score(path)
    with pytest.raises(DataError, match="p.jsonl: item 'a' has no 'answer' in its details.*another kind of task"):
        score(path, "--metrics", "mmbench", "exact_match")
    with pytest.raises(ConfigError, match=r"METRIC.SETTING=VALUE of a metric in --metrics, got 'blue.max_n=2'"):
        score(path, "--metrics", "exact_match", "--options", "blue.max_n=2")
    with pytest.raises(ConfigError, match="is not a valid key") as error:
        score(path, "--metrics", "exact_match", "--options", "exact_match.case=1")
    assert error.value.problems[0].path == "--options exact_match.case=..."
    with pytest.raises(ConfigError, match="names no metric"):
        score(path, "--metrics", ",")
    with pytest.raises(ConfigError, match="both give a score named accuracy"):
        score(path, "--metrics", "mme,mmbench")
    with pytest.raises(ConfigError, match="is not readable as YAML"):
        score(path, "--metrics", "names_all", "--options", "names_all.must_name={")
    with pytest.raises(DataError, match="no line has what names_all needs"):
        score(path, "--metrics", "names_all")
    assert scored(path, "--metrics", "names_all", "exact_match")["without_score"] == ["names_all"]
    with pytest.raises(ConfigError, match="which it would replace"):
        score(path, "--metrics", "exact_match", "--json", tmp_path / "x/../p.jsonl")
    bare = lines(tmp_path / "b.jsonl", [{"id": "a", "prediction": "x"}])
    with pytest.raises(DataError, match="no line has references.*--references FILE"):
        score(bare, "--metrics", "exact_match")


def test_references_of_another_file(tmp_path: Path):
    """fails when an unknown id is scored, an item without a prediction is left out, or references are lost"""
    path = lines(tmp_path / "p.jsonl", [{"id": "a", "prediction": "red"}, {"id": "b", "prediction": "red"}])
    truth = [{"id": "b", "references": ["red"]}, {"id": "a", "references": ["red"]}, {"id": "c", "references": ["x"]}]
    found = scored(path, "--metrics", "exact_match", "--references", lines(tmp_path / "r.jsonl", truth))
    assert found["scores"] == {"exact_match": 2 / 3} and found["unreadable"] == {"no prediction": 1}
    with pytest.raises(DataError, match=r"r.jsonl: has no references for 1 of 2 predictions: b"):
        score(path, "--metrics", "exact_match", "--references", lines(tmp_path / "r.jsonl", truth[1:]))
    wordless = [{"id": "a", "references": ["..."]}, {"id": "b", "references": [""]}, {"id": "c", "references": ["x"]}]
    found = scored(path, "--metrics", "exact_match", "--references", lines(tmp_path / "r.jsonl", wordless))
    assert found["notes"] == {"items whose references have no words": 2} and found["count"] == 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An evaluation of two tasks whose data set is not on this machine."""
    dataset = {"name": "questions", "annotations": "/gone/qa.json", "tag": "ti-qa", "image_folder": "/gone"}
    nodes = {"qa": {"name": "vqa", "dataset": dataset, "group_by": ["kind"], "resample_by": ["image"]},
             "cap": {"name": "captioning", "dataset": dataset, "must_name": "words"}}  # fmt: skip
    write_yaml(tmp_path / "resolved.yaml", {"evaluation": {"tasks": nodes}})
    details = [{"kind": "color", "image": 1}, {"kind": "shape", "image": 1}, {"kind": "color", "image": 2}]
    rows = [
        {"index": n, "id": str(n), "question": "?", "prediction": text, "references": ["red"], "details": one}
        for n, (text, one) in enumerate(zip(("red", "red", "blue"), details, strict=True))
    ]
    rows[1] |= {"prediction": "", "problem": "/gone/1.jpg: no such file"}
    write_predictions(predictions_path(tmp_path, "qa"), rows)
    write_predictions(predictions_path(tmp_path, "cap"), [{**row, "details": {"words": ["red"]}} for row in rows])
    results = {name: score_in_place(task_for_scoring(name, node), tmp_path) for name, node in nodes.items()}
    write_metrics(tmp_path / "metrics.json", results)
    return tmp_path


def test_an_evaluation_is_scored_again_in_place(folder: Path, capsys: pytest.CaptureFixture[str]):
    """fails when scoring twice differs, needs the data, shows the headline alone, or an unreadable question leaves a
    denominator or its reason"""
    paths = [folder / "metrics.json", scores_path(folder, "qa"), scores_path(folder, "cap")]
    before = [path.read_bytes() for path in paths]
    qa = json.loads(before[1])
    assert qa["scores"] == {"exact_match": 1 / 3} and qa["unreadable"] == {"no such file": 1}
    group = json.loads(before[0])["qa"]["by"]["kind"]
    assert [(group[kind]["exact_match"], group[kind]["unreadable"]) for kind in group] == [(0.5, 0), (0.0, 1)]
    assert json.loads(before[2])["scores"] == {"names_all": 1 / 3, "recall": 1 / 3, "exact_match": 1 / 3}
    score(folder)
    assert [path.read_bytes() for path in paths] == before
    out = capsys.readouterr().out
    assert "1 could not be read (no such file: 1)" in out and "of 3; recall 33.3%, exact_match 33.3%" in out
    rows = read_answers(predictions_path(folder, "qa"), paths[1])
    assert [row["scores"] for row in rows] == [{"exact_match": value} for value in (1.0, 0.0, 0.0)]


def test_an_evaluation_gets_other_metrics(folder: Path):
    """fails when metrics of the command do not replace those of one task, or change another task"""
    score(folder, "--task", "qa", "--metrics", "names_all", "exact_match", "--options", "names_all.must_name=kinds")
    found = json.loads((folder / "metrics.json").read_text())
    assert found["qa"]["metric"] == "exact_match" and found["cap"]["metric"] == "names_all"
    alone = scored(predictions_path(folder, "cap"), "--metrics", "exact_match")
    assert alone["scores"] == {"exact_match": 1 / 3}
    with pytest.raises(ConfigError, match="no predictions of a task named 'qaa'") as error:
        score(folder, "--task", "qaa")
    assert error.value.problems[0].nearest == "qa"


def test_an_evaluation_that_was_stopped(folder: Path, capsys: pytest.CaptureFixture[str]):
    """fails when a part of an evaluation looks complete afterwards, so that going on with it asks everything again"""
    (folder / "partial").mkdir()
    (folder / "metrics.json").unlink()
    score(folder, "--task", "qa")
    assert not (folder / "metrics.json").exists() and (folder / "partial").is_dir()
    assert "this evaluation is not complete" in capsys.readouterr().out


def test_an_evaluation_during_a_training(folder: Path, tmp_path: Path):
    """fails when the predictions of a step of a training cannot be scored again"""
    step = tmp_path / "evaluation/step_000002"
    step.mkdir(parents=True)
    for path in folder.glob("predictions_*"):
        path.rename(step / path.name)
    score(step)
    assert json.loads((step / "metrics.json").read_text())["qa"]["exact_match"] == 1 / 3


def test_a_folder_without_evaluation(tmp_path: Path):
    """fails when a folder that holds no predictions gives a traceback"""
    with pytest.raises(DataError, match="has no predictions_<task>.jsonl"):
        score(tmp_path)


def test_a_folder_that_lost_a_file_says_what_to_do(folder: Path, capsys: pytest.CaptureFixture[str]):
    """fails when a torn metrics.json, which scoring writes, ends scoring, or a missing resolved.yaml reads as missing
    predictions"""
    whole = (folder / "metrics.json").read_text()
    (folder / "metrics.json").write_text(whole[:40])
    with pytest.raises(DataError, match=r"metrics.json: .*remove it and score all tasks"):
        score(folder, "--task", "qa")
    score(folder)
    assert (folder / "metrics.json").read_text() == whole
    assert "it is written again from the predictions of all tasks" in capsys.readouterr().out
    (folder / "resolved.yaml").unlink()
    with pytest.raises(
        DataError, match=r"has no resolved.yaml.*score a file: chatbridge score .*predictions_cap.jsonl"
    ):
        score(folder)
