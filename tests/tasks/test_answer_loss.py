"""The kind `answer_loss`: the loss of known answers, with their media and with those of other questions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from chatbridge.common.dist import Dist
from chatbridge.common.errors import DataError
from chatbridge.common.types import Sample
from chatbridge.config.schema import parse
from chatbridge.conversation.messages import assistant, media_parts
from chatbridge.datasets.collate import collate
from chatbridge.serve.engine import ChatEngine
from chatbridge.tasks import predictions
from chatbridge.tasks.base import Task, task_for_scoring
from chatbridge.tasks.config import EvaluationConfig
from chatbridge.tasks.metrics.answer_loss import LOGPROB, TOKENS
from chatbridge.tasks.modality_report.report import ask_under, conditions_of, modality_results, write_conditions
from chatbridge.tasks.modality_report.table import modality_lines
from chatbridge.tasks.prediction_lines import predictions_path, write_predictions
from chatbridge.tasks.prompt import question_of

ANSWERS = ("red", "a green circle", "blue", "a red square", "a cat")


@pytest.fixture(scope="module")
def captions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images with an answer each, and one whose file is missing."""
    folder = tmp_path_factory.mktemp("captions")
    lines = []
    for number, answer in enumerate((*ANSWERS, "nothing")):
        if answer != "nothing":
            Image.new("RGB", (32, 32), (40 * number, 255 - 50 * number, 90)).save(folder / f"{number}.png")
        asked = [{"type": "image", "path": f"{number}.png"}, {"type": "text", "text": "What is shown?"}]
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        lines.append(json.dumps({"id": f"q{number}", "messages": messages}))
    (folder / "captions.jsonl").write_text("\n".join(lines))
    return folder / "captions.jsonl"


def task_of(path: Path, **settings: Any) -> Task:
    node = {"name": "answer_loss", "dataset": {"name": "records", "file": str(path)}, **settings}
    (chosen,) = parse(EvaluationConfig, {"tasks": {"loss": node}}).tasks.values()
    return chosen.part(chosen.config, "loss")  # pyright: ignore[reportAttributeAccessIssue]


def asked(task: Task, engine: ChatEngine, kept: Any = None) -> list[dict[str, Any]]:
    return predictions(task, engine.model, engine.layout, engine.processors, Dist(), kept=kept or {})


@torch.no_grad()
def training_loss(task: Task, engine: ChatEngine, index: int, image_of: int) -> float:
    """Sum over the tokens of the answer of a training step on the question `index` with the image of another one."""
    generator: Any = None
    conversation, answer = question_of(task.dataset.record(index, generator).conversation)
    other, _ = question_of(task.dataset.record(image_of, generator).conversation)
    media = tuple(engine.processors[item.modality](item.ref, None) for item in media_parts(other))
    sample = Sample("one", "one", (*conversation, assistant(answer)), media)
    return float(engine.model(collate([sample], engine.layout)).total)


def test_equals_the_loss_of_a_training(captions: Path, chat_engine: ChatEngine, tmp_path: Path):
    """fails when another text than the answer is measured, a token is missing, or the value is a mean of means"""
    task = task_of(captions, report={"modalities": True}, batch_size=3)
    rows = asked(task, chat_engine)
    losses = [training_loss(task, chat_engine, index, index) for index in range(5)]
    assert [-row[LOGPROB] for row in rows[:5]] == pytest.approx(losses, abs=1e-5)
    assert "problem" in rows[5] and all(row["prediction"] == "" for row in rows)
    results = task.results(task.scored(rows))
    tokens = sum(row[TOKENS] for row in rows[:5])
    assert (
        results["answer_loss"]
        == pytest.approx(sum(losses) / tokens)
        != pytest.approx(sum(loss / row[TOKENS] for loss, row in zip(losses, rows, strict=False)) / 5)
    )
    assert (results["unreadable"], results["measured"], results["lower_is_better"]) == (
        1,
        {"answer_loss": 5},
        ["answer_loss"],
    )

    chosen, left_out = conditions_of(task, rows)
    assert [one.name for one in chosen] == ["without_image", "shuffled_image"]
    ask_under(task, chosen, rows, tmp_path, lambda altered, _, kept: asked(altered, chat_engine, kept), writes=True)
    write_conditions("loss", tmp_path, [one.name for one in chosen], left_out)
    write_predictions(predictions_path(tmp_path, "loss"), rows)
    donors = chosen[1].donors
    other = sum(training_loss(task, chat_engine, index, donors[index]) for index in range(5)) / tokens
    table: Any = modality_results(task, task.scored(rows, tmp_path), tmp_path)
    line = table["conditions"]["shuffled_image"]
    assert line["score"] == pytest.approx(other, abs=1e-5) and not table["higher_is_better"]
    assert line["difference"] == pytest.approx(other - results["answer_loss"], abs=1e-5), "positive where media help"


def test_the_end_of_the_turn_can_be_left_out(captions: Path, chat_engine: ChatEngine):
    with_end = asked(task_of(captions), chat_engine)
    without = asked(task_of(captions, score_end=False), chat_engine)
    ends = {a[TOKENS] - b[TOKENS] for a, b in zip(with_end[:5], without[:5], strict=True)}
    assert len(ends) == 1 and min(ends) > 0


def rows_of(values: list[float]) -> list[dict[str, Any]]:
    return [
        {"id": f"q{at}", "prediction": "", "references": ["x"], "details": {}, LOGPROB: -value * 4, TOKENS: 4}
        for at, value in enumerate(values)
    ]


def test_the_report_tells_for_how_many_the_right_media_are_better(tmp_path: Path):
    """fails when equal losses count for either side, or a question that was not asked again counts"""
    write_predictions(predictions_path(tmp_path, "loss"), rows := rows_of([1.0, 2.0, 3.0, 4.0, 9.0]))
    others = rows_of([3.0, 1.0, 3.0, 5.0])
    write_predictions(predictions_path(tmp_path, "loss.shuffled_image"), others)
    write_conditions("loss", tmp_path, ["shuffled_image"], {})
    task = task_for_scoring("loss", {"name": "answer_loss"})
    table: Any = modality_results(task, task.scored(rows, tmp_path), tmp_path)
    assert table["conditions"]["shuffled_image"]["better"] == 2.5 / 4
    assert "better with all media for 62% of 4" in "\n".join(modality_lines("loss", table))


@pytest.mark.parametrize(
    ("logprob", "tokens"),
    [(float("nan"), 3), (float("-inf"), 3), ("-1", 3), (True, 3), (-1.0, 0), (-1.0, 2.5), (-1.0, None)],
)
def test_lines_that_were_not_measured_are_named(logprob: Any, tokens: Any):
    row = {"id": "q7", "prediction": "", "references": ["x"], "details": {}, LOGPROB: logprob, TOKENS: tokens}
    task = task_for_scoring("loss", {"name": "answer_loss"})
    with pytest.raises(DataError, match="'q7' has answer_logprob .* answer_tokens .* a task of the kind answer_loss"):
        task.scored([row])


def test_predictions_of_another_kind_of_task():
    task = task_for_scoring("loss", {"name": "answer_loss"})
    row = {"id": "q", "prediction": "red", "references": ["red"], "details": {}}
    with pytest.raises(DataError, match="metric answer_loss needs answer_logprob, answer_tokens, which no line has"):
        task.scored([row])
