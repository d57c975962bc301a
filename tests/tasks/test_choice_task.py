"""The kind `choice`: likelihoods of options, rotations, several prompts, and lines that depend on no batch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from chatbridge.common.dist import Dist
from chatbridge.common.errors import ConfigError, DataError, MediaError
from chatbridge.common.types import Sample
from chatbridge.config.schema import parse
from chatbridge.conversation.messages import assistant, media_parts
from chatbridge.datasets.builders import Dataset
from chatbridge.datasets.collate import collate
from chatbridge.serve.engine import ChatEngine
from chatbridge.tasks import TASKS, predictions
from chatbridge.tasks.base import Task, task_for_scoring
from chatbridge.tasks.config import EvaluationConfig
from chatbridge.tasks.evaluator import summary_line
from chatbridge.tasks.predict import iter_predictions
from chatbridge.tasks.prompt import question_of
from chatbridge.tasks.several_prompts import SeveralPrompts
from tests.helpers.choice_sets import image_cell, question, write_mmbench
from tests.helpers.serve_parts import ChatWorld

OPTIONS = {"A": "red", "B": "a green circle", "C": "blue"}
SHORT = "<image> <QUESTION> <OPTIONS>"
LISTED = "<image> <HINT> <QUESTION>\n<OPTIONS>\n"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five questions with three options, one without an answer, and one whose image is damaged."""
    rows = [question(number, answer, **OPTIONS) for number, answer in ((1, "A"), (2, "B"), (3, ""), (5, "C"))]
    rows.insert(3, question(4, "B", **{**OPTIONS, "image": image_cell()[:40]}))
    return write_mmbench(tmp_path_factory.mktemp("choice") / "questions.tsv", rows)


def task_of(table: Path, **settings: Any) -> Task:
    given = settings.pop("dataset", {})
    dataset = given if "name" in given else {"name": "mmbench", "file": str(table), **given}
    node = {"name": "choice", "dataset": dataset, "max_new_tokens": 4, **settings}
    (chosen,) = parse(EvaluationConfig, {"tasks": {"which": node}}).tasks.values()
    return chosen.part(chosen.config, "which")  # pyright: ignore[reportAttributeAccessIssue]


def asked(task: Task, engine: ChatEngine) -> list[dict[str, Any]]:
    return predictions(task, engine.model, engine.layout, engine.processors, Dist())


def lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    return [json.dumps(row) for row in rows]


@torch.no_grad()
def by_brute_force(task: Task, engine: ChatEngine, index: int) -> dict[str, float]:
    """Letter -> minus the loss of training on the option as the answer, its end included: a forward pass for each."""
    generator: Any = None
    conversation, _ = question_of(task.dataset.record(index, generator).conversation)
    media = tuple(engine.processors[item.modality](item.ref, None) for item in media_parts(conversation))
    found = {}
    for letter, text in OPTIONS.items():
        sample = Sample("one", "one", (*conversation, assistant(text)), media)
        found[letter] = -float(engine.model(collate([sample], engine.layout)).total)
    return found


def test_equals_a_training_step_for_each_option(table: Path, chat_engine: ChatEngine) -> None:
    """fails when an option is measured after another prompt than training has, or a token of it is missing"""
    task = task_of(table, answer="likelihood", score_end=True, dataset={"prompt": SHORT})
    rows = asked(task, chat_engine)
    for index in (0, 1, 2, 4):
        found = rows[index]["option_logprobs"]
        assert found == pytest.approx(by_brute_force(task, chat_engine, index), abs=1e-5)
        assert rows[index]["prediction"] == max(found, key=lambda letter: found[letter])
    assert rows[3]["prediction"] == "" and "image" in rows[3]["problem"]
    without = asked(task_of(table, answer="likelihood", dataset={"prompt": SHORT}), chat_engine)[0]
    num_end = {letter: rows[0]["option_tokens"][letter] - without["option_tokens"][letter] for letter in OPTIONS}
    assert len(set(num_end.values())) == 1 and num_end["A"] > 0
    letters = asked(task_of(table, answer="likelihood", likelihood_of="letter"), chat_engine)[0]
    assert set(letters["option_tokens"].values()) == {1}


def test_lines_depend_on_no_other_question(table: Path, chat_engine: ChatEngine) -> None:
    """fails when a likelihood changes in its last digit with the batch size or the number of ranks"""
    whole = asked(task_of(table, answer="both", batch_size=5), chat_engine)
    assert lines(asked(task_of(table, answer="both", batch_size=1), chat_engine)) == lines(whole)
    task = task_of(table, answer="both", batch_size=2)
    kept = {row["index"]: json.loads(line) for row, line in zip(whole[1:3], lines(whole[1:3]), strict=True)}
    given = (chat_engine.model, chat_engine.layout, chat_engine.processors, Dist())
    assert lines(predictions(task, *given, kept=kept)) == lines(whole)  # after a stop
    shared: list[dict[str, Any]] = []
    for rank in range(2):
        shared += iter_predictions(task, *given, [*range(rank, 5, 2)])
    assert lines(sorted(shared, key=lambda row: row["index"])) == lines(whole)
    assert all({"option_logprobs", "options", "prediction"} <= row.keys() for row in whole if "problem" not in row)


def test_scores_come_from_the_lines_alone(table: Path, chat_engine: ChatEngine) -> None:
    """fails when an unreadable question leaves the denominator, or a rescored run lacks a score"""
    task = task_of(table, answer="both")
    rows = json.loads(json.dumps(asked(task, chat_engine)))
    results = task.results(task.scored(rows))
    assert results["metric"] == "choice_letter" and results["measured"]["choice_likelihood"] == 4
    assert results["unreadable"] == 1 and sum(results["answers"].values()) == 4
    best = [max(row["option_logprobs"], key=row["option_logprobs"].get) for row in rows if "problem" not in row]
    assert results["choice_likelihood"] == sum(map(str.__eq__, best, ("A", "B", "", "C"))) / 4
    again = task_for_scoring("which", {"name": "choice", "answer": "both"})
    assert again.results(again.scored(rows)) == results


def test_rotations_are_scored_together(table: Path, chat_engine: ChatEngine) -> None:
    """fails when rotated questions count one by one in the headline, or rotations show other options"""
    task = task_of(table, answer="likelihood", dataset={"prompt": LISTED, "rotate": True})
    rows = asked(task, chat_engine)
    assert len(rows) == 15 and rows[1]["options"] != rows[0]["options"]
    results = task.results(task.scored(rows))
    assert results["metric"] == "circular_likelihood" and results["measured"]["circular_likelihood"] == 4
    assert {"unrotated_likelihood", "circular_likelihood_normalised", "choice_likelihood"} <= results.keys()
    assert [sorted(row["options"].values()) for row in rows[:3]] == [sorted(OPTIONS.values())] * 3


def test_several_prompts(table: Path, chat_engine: ChatEngine) -> None:
    """fails when a prompt changes the lines of another one, or the spread over the prompts is that of the items"""
    prompts = [SHORT, LISTED, "<image> Q: <QUESTION>\n<OPTIONS>\nA:"]
    task = task_of(table, answer="likelihood", prompts=prompts)
    rows = asked(task, chat_engine)
    assert [row["id"] for row in rows[:4]] == ["1", "1@2", "1@3", "2"]
    single = asked(task_of(table, answer="likelihood", dataset={"prompt": SHORT}), chat_engine)
    assert [row["option_logprobs"] for row in rows[0::3] if "problem" not in row] == [
        row["option_logprobs"] for row in single if "problem" not in row
    ]
    fewer = asked(task_of(table, answer="likelihood", prompts=prompts[:2]), chat_engine)
    assert lines([{**row, "index": 0} for row in fewer[1::2]]) == lines([{**row, "index": 0} for row in rows[1::3]])
    results = task.results(task.scored(rows))
    spread = results["prompts"]["scores"]["choice_likelihood"]
    alone = [task.scored(rows[number::3]).values["choice_likelihood"] for number in range(3)]
    assert spread["each"] == alone and spread["mean"] == pytest.approx(results["choice_likelihood"])
    assert (spread["low"], spread["high"]) == (min(alone), max(alone)) and results["prompts"]["texts"] == prompts
    assert f"{min(alone):.1%} to {max(alone):.1%} over 3 prompts" in summary_line("which", results)
    again = task_for_scoring("which", {"name": "choice", "answer": "likelihood", "prompts": prompts})
    assert again.results(again.scored(json.loads(json.dumps(rows)))) == results


def test_several_prompts_pass_on_what_a_data_set_tells() -> None:
    """fails when a later method of the contract is answered by its default, not by the data set that is asked"""
    public = {name for name, value in vars(Dataset).items() if not name.startswith("_") and callable(value)}
    assert public - {"shuffle"} <= vars(SeveralPrompts).keys()  # the order of a training


def test_questions_without_options_are_asked_with_several_prompts(
    table: Path, chat_engine: ChatEngine, chat_world: ChatWorld
) -> None:
    """fails when only choices can be asked with several prompts, or a broken file loses its references"""
    node = chat_world.world.source("questions", "ti-shortqa")
    prompts = ["<QUESTION>", "the color : <QUESTION>"]
    task = task_of(table, name="vqa", dataset=node, prompts=prompts, metrics=["exact_match"])
    rows = asked(task, chat_engine)
    assert [row["question"] for row in rows[:2]] == ["what color is it ?", "the color : what color is it ?"]
    results = task.results(task.scored(rows))
    assert len(results["prompts"]["scores"]["exact_match"]["each"]) == 2 and results["count"] == len(rows)
    assert task.dataset.references(1) == task.dataset.references(0) != ()


def problems_of(table: Path, **settings: Any) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        task_of(table, **settings)
    return {one.path.removeprefix("tasks.which."): one.message for one in caught.value.problems}


def test_settings_without_effect_are_reported(table: Path, chat_world: ChatWorld) -> None:
    """fails when a setting is ignored in silence, or a prompt that the data set cannot use is found too late"""
    assert problems_of(table, likelihood_of="letter", score_end=True).keys() == {"likelihood_of", "score_end"}
    assert problems_of(table, answer="likelihood", num_beams=3, min_new_tokens=1).keys() == {
        "num_beams", "min_new_tokens"
    }  # fmt: skip
    assert "needs option_logprobs" in problems_of(table, metrics=["choice_likelihood"])["metrics"]
    listed = {**chat_world.world.source("questions", "ti-shortqa"), "prompts": "configs/prompts/multis.json"}
    beside = problems_of(table, name="vqa", dataset=listed, prompts=["<QUESTION>", "well, <QUESTION>"])
    assert beside.keys() == {"dataset.prompts"} and "beside" in beside["dataset.prompts"]
    found = problems_of(table, prompts=[SHORT, "<image> what? <OPTIONS>", SHORT, "<image> <QESTION> <OPTIONS>"])
    assert "no <QUESTION>" in found["prompts[1]"] and "equal to prompts[0]" in found["prompts[2]"]
    assert "prompts[3]" in found


def test_data_without_options_are_refused(tmp_path: Path, table: Path) -> None:
    """fails when a data set of another kind is asked, or an option without text is chosen"""
    turn = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "B"}]
    for name, details in (("plain", {}), ("good", {"options": ["red", "blue"], "answer": "B"}),
                          ("empty", {"options": ["red", " "], "answer": "A"})):  # fmt: skip
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"id": "q", "messages": turn, "details": details}) + "\n")
    records = {"name": "records", "file": str(tmp_path / "plain.jsonl")}
    with pytest.raises(DataError, match="no options for the kind choice.*'q' of 'records' have nothing"):
        task_of(table, dataset=records)
    assert "has no setting `prompt`" in problems_of(table, dataset=records, prompts=["a <QUESTION>"])["prompts"]
    for mark in ("<audio 2>", "<audio>"):
        (tmp_path / "heard.jsonl").write_text((tmp_path / "good.jsonl").read_text().replace("blue", mark))
        with pytest.raises(DataError, match=r"'q' of 'records': its options are files.*likelihood_of: letter"):
            task_of(table, dataset={**records, "file": str(tmp_path / "heard.jsonl")}, answer="both")
    assert TASKS.get("choice") is type(task_of(table, dataset={**records, "file": str(tmp_path / "good.jsonl")}))


def test_the_projects_own_records(tmp_path: Path, table: Path, chat_engine: ChatEngine) -> None:
    """fails when options of a record are not measured, or one without text ends the evaluation"""
    turn = [{"role": "user", "content": "what color ?"}, {"role": "assistant", "content": "B"}]
    options = (["red", "blue"], ["red", " "])
    content = [{"id": str(n), "messages": turn, "details": {"options": one, "answer": "B"}}
               for n, one in enumerate(options)]  # fmt: skip
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(one) + "\n" for one in content))
    task = task_of(table, answer="both", dataset={"name": "records", "file": str(tmp_path / "r.jsonl")})
    rows = asked(task, chat_engine)
    assert rows[0]["options"] == {"A": "red", "B": "blue"} and rows[0]["option_logprobs"].keys() == {"A", "B"}
    assert "has no tokens" in rows[1]["problem"]
    results = task.results(task.scored(rows))
    assert (results["count"], results["unreadable"]) == (2, 1) and "measured" not in results


def test_options_that_are_files_are_measured_by_their_letter():
    """fails when the likelihood of "<image 2>" as a text counts as that of the image"""
    details = {"options": {"A": "<image 1>", "B": "<image 2>"}, "answer": "A"}
    by_text = task_for_scoring("which", {"name": "choice", "answer": "likelihood"})
    by_letter = task_for_scoring("which", {"name": "choice", "answer": "likelihood", "likelihood_of": "letter"})
    with pytest.raises(MediaError, match="are files, not texts to be measured; set likelihood_of: letter"):
        by_text.measured_texts(details)
    assert by_letter.measured_texts(details) == {"A": "A", "B": "B"}
    assert by_text.measured_texts({"options": {"A": "x < 3", "B": "y"}}) == {"A": "x < 3", "B": "y"}
