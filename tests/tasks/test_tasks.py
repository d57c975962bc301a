"""Tasks: scores of answers, prompts of questions, unreadable questions, and sharing among ranks."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from chatbridge.common.dist import Dist
from chatbridge.config.schema import Choice, parse
from chatbridge.conversation.layout import TokenSequence
from chatbridge.processors.limits import Limits
from chatbridge.processors.media_processor import MediaProcessor
from chatbridge.tasks import TASKS, predictions
from chatbridge.tasks.base import ReportSettings, confusion
from chatbridge.tasks.config import EvaluationConfig
from chatbridge.tasks.evaluator import summary_line
from tests.helpers.choice_sets import question, write_mmbench, write_mme
from tests.helpers.mini_world import MiniWorld
from tests.helpers.scored import results_of, scores_of, scores_of_row


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> MiniWorld:
    return MiniWorld(tmp_path_factory.mktemp("world"))


class FixedAnswers:
    """A fake model and layout that returns the given answers in turn, and records prompts and options."""

    def __init__(self, answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.prompts: list[Any] = []
        self.options: list[Any] = []
        self.stops = ()
        self.language = SimpleNamespace(max_positions=None)
        self.tokenizer = self
        self.pad_id = 0
        self.template = SimpleNamespace(drawing_ids=None)

    def prompt(self, conversation):
        self.prompts.append(conversation)
        return TokenSequence(ids=[1, len(self.prompts) - 1])

    def generate(self, batch, options, stops):
        self.options += options
        return batch.ids[:, 1:2].tolist()

    def finish(self, ids):
        return self.answers[ids[0] % len(self.answers)]


def task(world: MiniWorld, which: str, /, **settings: Any):
    (choice,) = parse(EvaluationConfig, {"tasks": {which: {**world.tasks()[which], **settings}}}).tasks.values()
    assert isinstance(choice, Choice)
    return choice.part(choice.config, which)


def predictions_of(questions, model: FixedAnswers, dist: Dist | None = None) -> list[dict[str, Any]]:
    media = {kind: (lambda ref, rng: torch.zeros(1)) for kind in ("image", "video", "audio")}
    return predictions(questions, model, model, media, dist or Dist())  # pyright: ignore[reportArgumentType]


def test_a_caption_is_correct_if_it_mentions_every_attribute(world):
    """fails when a caption without one attribute is correct, or a synonym is not accepted"""
    caption = task(world, "audio_caption")
    details = {"must_name": ["red", ["circle", "disc"]]}
    assert scores_of(caption, "a red disc", ["x"], details) == {"names_all": 1.0, "recall": 1.0, "exact_match": 0.0}
    assert scores_of(caption, "a blue circle", ["x"], details)["names_all"] == 0.0
    assert scores_of(caption, "a blue circle", ["x"], details)["recall"] == 0.5
    assert scores_of(caption, "X.", ["x"], {}) == {"exact_match": 1.0}


def test_generation_settings_of_a_task_reach_the_model(world):
    """fails when num_beams or max_new_tokens of a task have no effect"""
    model = FixedAnswers(["red"])
    predictions_of(task(world, "image_qa", num_beams=3, max_new_tokens=7), model)
    assert {(options.num_beams, options.max_new_tokens) for options in model.options} == {(3, 7)}


def test_predictions_are_in_order_and_grouped(world):
    """fails when answers are paired with other questions, or groups lose predictions"""
    model = FixedAnswers(["red", "green", "red"])
    questions = task(world, "image_qa", batch_size=4)
    rows = predictions_of(questions, model)
    assert [row["id"] for row in rows] == [f"i{number}" for number in range(6)]
    assert list(questions.scored(rows).per_item()["exact_match"].values()) == [1.0, 1.0, 0.0, 1.0, 1.0, 0.0]
    found = results_of(questions, rows)
    assert found["exact_match"] == pytest.approx(4 / 6) and found["count"] == 6
    group = found["by"]["kind"]["color"]
    assert group["confusion"] == {"blue": {"red": 2}, "green": {"green": 2}, "red": {"red": 2}}
    found.pop("intervals")
    assert summary_line("image_qa", found) == "image_qa: exact_match 66.7% of 6; color 67%"


def test_joint_questions_have_both_media_unless_one_is_dropped(world):
    """fails when an ablation does not remove its modality from the prompt"""
    for name, media in (("joint_qa", ["video", "audio"]), ("joint_without_sound", ["video"])):
        model = FixedAnswers(["red"])
        predictions_of(task(world, name), model)
        assert [part.modality for part in model.prompts[0][-1].media] == media


def test_an_unreadable_file_scores_zero_and_is_counted(world, tmp_path):
    """fails when an unreadable question is missing in the denominator, or ends the evaluation"""
    annotations = json.loads((world.folder / "ti_questions.json").read_text())
    annotations[2]["video_id"] = "nowhere"
    (tmp_path / "qa.json").write_text(json.dumps(annotations))
    dataset = {**world.source("questions", "ti-qa"), "annotations": str(tmp_path / "qa.json")}
    questions = task(world, "image_qa", dataset=dataset)
    rows = predictions_of(questions, FixedAnswers(["red"]))
    assert "nowhere" in rows[2]["problem"] and scores_of_row(questions, rows, 2) == {"exact_match": 0.0}
    found = results_of(questions, rows)
    assert (found["count"], found["unreadable"], found["exact_match"]) == (6, 1, pytest.approx(2 / 6))
    assert found["by"]["kind"].keys() == {"color"} and found["by"]["kind"]["color"]["count"] == 6


class ShortContext(FixedAnswers):
    """Has a context length of 12. Prompts have 2 tokens, the third 9, the fourth 12; the fifth cannot be rendered."""

    def __init__(self) -> None:
        super().__init__(["red"])
        self.language = SimpleNamespace(max_positions=12)
        self.lengths = iter([2, 2, 9, 12, 0, 2])
        self.batches: list[tuple[int, int]] = []

    def prompt(self, conversation):
        length = next(self.lengths)
        if not length:
            raise ValueError("not supported by the template")
        return TokenSequence(ids=[0] * length)

    def generate(self, batch, options, stops):
        self.batches.append((len(batch.ids), options[0].max_new_tokens))
        return super().generate(batch, options, stops)


NO_ROOM = "prompt needs 12 tokens and leaves no room for an answer: the model's context length is 12"


def test_questions_beyond_the_context_length_do_not_affect_others(world):
    """fails when a question that is too long ends the evaluation, or shortens the answers to others of its batch"""
    model = ShortContext()
    rows = predictions_of(task(world, "image_qa", batch_size=6), model)
    assert model.batches == [(3, 4), (1, 3)]
    assert [row["prediction"] for row in rows] == ["red", "red", "red", "", "", "red"]
    expected = [None, None, None, NO_ROOM, "not supported by the template"]
    assert [row.get("problem") for row in rows] == [*expected, None]


class AnswersByFile(FixedAnswers):
    """Returns the answer whose index is the number in the name of the image file."""

    def prompt(self, conversation):
        return TokenSequence(ids=[1, int(Path(conversation[-1].media[0].ref).stem[1:])])


class FaultyDecoder(MediaProcessor):
    """Crashes with one file name, and hangs with another so that not even SIGALRM interrupts it."""

    def __init__(self, crash: str = "", freeze: str = "") -> None:
        self.limits = Limits(time_limit_s=1.0)
        self.crash, self.freeze = crash, freeze

    def __call__(self, ref: Any, rng: Any = None) -> torch.Tensor:
        name = Path(ref).stem
        if name == self.crash:
            os.kill(os.getpid(), signal.SIGSEGV)
        if name == self.freeze:
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])  # unlike other C code, sleep would return
            ctypes.PyDLL(None).sleep(60)  # holds the GIL
        return torch.zeros(1)


@pytest.mark.parametrize(("broken", "reason"), [
    ({"crash": "i2"}, "the decoder crashed with SIGSEGV"),
    ({"freeze": "i2"}, "reading it hung inside a decoder; its process was killed after"),
])  # fmt: skip
def test_a_decoder_that_crashes_or_hangs_costs_its_question_only(world, broken, reason):
    """fails when it ends the evaluation, changes the answer to another question, or has no problem in the results"""
    questions, model = task(world, "image_qa", batch_size=2), AnswersByFile(["red", "green", "blue", "a", "b", "c"])

    def rows(num_workers: int, **broken: str):
        media: Any = {"image": FaultyDecoder(**broken)}
        return predictions(questions, model, model, media, Dist(), num_workers=num_workers)  # pyright: ignore

    expected, found = rows(0), rows(1, **broken)
    lost = found.pop(2)
    assert lost["id"] == "i2" and lost["problem"].startswith(reason)
    assert found == [row for row in expected if row["id"] != "i2"]
    assert [row["prediction"] for row in expected] == model.answers
    assert results_of(questions, [*found, lost])["unreadable"] == 1
    assert scores_of_row(questions, [*found, lost], -1) == {"exact_match": 0.0}


def test_ranks_share_the_questions(world):
    """fails when a question is answered twice or not at all, or predictions of ranks are mixed up"""

    class BothRanks(Dist):
        """Both ranks in one process: `gather` adds the predictions of rank 1."""

        def gather(self, value):
            other = [row for row in whole if row["index"] % 2]
            assert [row["index"] for row in value] == [0, 2, 4]
            return [value, other]

    whole = predictions_of(task(world, "image_qa"), FixedAnswers(["red"]))
    shared = predictions_of(task(world, "image_qa"), FixedAnswers(["red"]), BothRanks(world_size=2))
    assert [row["index"] for row in shared] == list(range(6))


def test_confusion_is_sorted_and_counted():
    """fails when correct and given answers are swapped"""
    assert confusion([("b", "x"), ("a", "y"), ("b", "x")]) == {"a": {"y": 1}, "b": {"x": 2}}


DETAILS = {
    "kind": "k", "must_name": ["red"], "subject": "count", "image": "1.jpg", "options": {"A": "red", "B": "blue"},
    "answer": "A", "base": 1, "copy": 0
}  # fmt: skip


# answer_loss scores no text; test_answer_loss.py
@pytest.mark.parametrize("name", [name for name in TASKS.names() if name != "answer_loss"])
def test_every_task_keeps_the_contract(world, tmp_path, name):
    """fails when a registered task has scores outside 0..1, none at all, or loses a question of its groups"""
    own = {
        "mme": {"name": "mme", "folder": str(write_mme(tmp_path, images=1))},
        "mmbench": {"name": "mmbench", "file": str(write_mmbench(tmp_path / "t.tsv", [question(1)]))},
    }
    own["choice"] = own["mmbench"]
    dataset = own.get(name, world.source("questions", "ti-qa"))
    questions = task(world, "image_qa", name=name, dataset=dataset)
    for answer in ("red", "", "a red circle"):
        scores = scores_of(questions, answer, ["red"], DETAILS)
        assert bool(scores) == bool(questions.main_metric)
        assert all(0 <= value <= 1 for value in scores.values())
    row = {"id": "a", "details": DETAILS, "references": ["red"], "prediction": ""}
    rows = [row, {**row, "id": "b", "problem": "no file"}]
    group = results_of(questions, rows)["by"]["kind"]["k"]
    assert group["count"] == 2 and results_of(questions, [])["count"] == 0
    assert set(scores_of_row(questions, rows, 1).values()) <= {0.0}
    assert all(0 <= value <= 1 for value in group.values() if isinstance(value, float))


def test_task_names_are_files():
    """fails when a helper module is registered as a task"""
    assert TASKS.names() == ("answer_loss", "captioning", "choice", "dialogue", "generate", "mmbench", "mme", "vqa")


def test_report_settings_name_two_modalities():
    """fails when a misspelled modality, or one part of an answer, is accepted in silence"""
    assert not list(ReportSettings(answer_parts=("video", "audio"), target=0.5).problems())
    (misspelled,) = ReportSettings(answer_parts=("video", "audoi")).problems()
    assert misspelled.path == "answer_parts" and misspelled.nearest == "audio"
    (single,) = ReportSettings(answer_parts=("video",)).problems()
    assert "has 1 entries, expected 2 or none" in single.message


def test_a_video_whose_sound_is_missing_is_counted(world, tmp_path):
    """fails when questions about video and audio are scored without the audio, and nothing tells"""
    shutil.copytree(world.folder / "audios", tmp_path / "audios")
    (tmp_path / "audios/v1.wav").unlink()
    dataset = {**world.tasks()["joint_qa"]["dataset"], "audio_folder": str(tmp_path / "audios")}
    questions = task(world, "joint_qa", dataset=dataset)
    rows = predictions_of(questions, FixedAnswers(["red"]))
    silent = {row["id"]: row["without_sound"] for row in rows if "without_sound" in row}
    assert list(silent) == ["v1"] and "no such file" in silent["v1"]
    found = results_of(questions, rows)
    assert found["answers"] == {"asked without the sound of the video": 1} and found["unreadable"] == 0
    assert "asked without the sound of the video 1" in summary_line("joint_qa", found)
