"""Scores of a run: the best checkpoint stays, an early end, and both after a resume."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chatbridge.common.dist import Dist
from chatbridge.common.errors import TrainingError
from chatbridge.models.checkpoints import best_checkpoint, checkpoints, find_checkpoint
from chatbridge.runners.best import Scores, has_restart_after, restart_validation
from chatbridge.runners.config import BestConfig
from chatbridge.runners.run_figures import best_score
from chatbridge.runners.run_folder import open_run_folder
from tests.helpers.tiny_run import resumed, tiny_runner

LOSSES = {1: 3.0, 2: 1.0, 3: 2.0, 4: 1.5, 5: 1.0, 6: 0.5, 7: 0.6, 8: 0.7}


class Validation:
    """A validator with given losses; notes when it ran."""

    def __init__(self, runner, losses=LOSSES):
        self.runner, self.losses, self.ran = runner, losses, []

    def run(self) -> dict[str, float]:
        self.ran.append(self.runner.state.step)
        return {"validation/loss": self.losses[self.runner.state.step]}


def validated(folder: Path, losses=LOSSES, **run):
    """A runner of 8 steps that saves and validates after every one and keeps one checkpoint beside the best."""
    settings = {"validate_every": 1, "best": BestConfig(), "save_every": 1, "keep": 1, **run}
    runner = tiny_runner(folder, **settings)
    runner.validator = Validation(runner, losses)  # pyright: ignore[reportAttributeAccessIssue]
    return runner


def kept(folder: Path) -> list[int]:
    return [int(path.name[5:]) for path in checkpoints(folder / "checkpoints")]


def test_the_best_checkpoint_is_kept_beside_the_newest(tmp_path):
    """fails when the best checkpoint is removed, an equal score replaces it, or the pointer names another one"""
    validated(tmp_path, stop_at=5).train()
    assert kept(tmp_path) == [2, 5]
    assert best_checkpoint(tmp_path) == tmp_path / "checkpoints/step_000002"
    assert json.loads((tmp_path / "best").read_text())["value"] == 1.0
    assert find_checkpoint(tmp_path / "best").name == "step_000002"
    assert find_checkpoint(tmp_path).name == "step_000005", "a run folder stands for its newest checkpoint"


def test_a_better_score_replaces_the_best(tmp_path):
    """fails when the checkpoint that was best is kept for ever, or scores of a task count the wrong way round"""
    validated(tmp_path).train()
    assert kept(tmp_path) == [6, 8]
    validated(tmp_path / "last", {**LOSSES, 8: 0.1}).train()
    assert kept(tmp_path / "last") == [8]
    assert BestConfig(metric="qa/accuracy").is_better(0.5, 0.4) and not BestConfig().is_better(0.5, 0.4)
    assert BestConfig(metric="qa/wer", mode="min").is_better(0.4, 0.5)


def test_the_best_checkpoint_is_saved_between_two_regular_ones(tmp_path):
    """fails when only regular checkpoints can be the best one"""
    validated(tmp_path, save_every=4).train()
    assert kept(tmp_path) == [6, 8]


def test_a_run_that_no_longer_improves_ends_early(tmp_path, caplog):
    """fails when patience is off by one, the end has no checkpoint, or its exit code is not 0"""
    with caplog.at_level("INFO", logger="chatbridge"):
        runner = validated(tmp_path, patience=3, best=None, save_every=8)
        assert runner.train() == 0
    assert runner.state.step == 5 and kept(tmp_path) == [2, 5]
    assert "ended early, after step 5: 3 times in a row validation/loss was no better" in caplog.text
    assert "the best is 1.0000 of step 2" in caplog.text and "run.patience" in caplog.text


def test_a_resume_of_an_early_end_says_so(tmp_path, caplog):
    """fails when the same command trains on after an early end, or says the run has finished all its steps"""
    validated(tmp_path, patience=3).train()
    again = resumed(validated(tmp_path, patience=3))
    with caplog.at_level("INFO", logger="chatbridge"):
        assert again.train() == 0
    assert again.state.step == 5 and "nothing left to train: the run ended early, at step 5" in caplog.text
    longer = resumed(validated(tmp_path, patience=4))
    assert longer.train() == 0 and longer.state.step == 8


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_best_and_patience_survive_a_resume(tmp_path, stop):
    """fails when a resumed run forgets the best score or how often it was not reached"""
    validated(tmp_path, patience=3, stop_at=stop).train()
    open_run_folder(tmp_path, {}, stop)
    again = resumed(validated(tmp_path, patience=3))
    again.train()
    assert again.state.step == 5 and kept(tmp_path) == [2, 5]
    assert [json.loads(line)["step"] for line in (tmp_path / "scores.jsonl").read_text().splitlines()] == [
        1,
        2,
        3,
        4,
        5,
    ]


def test_scores_of_other_held_out_samples_do_not_count(tmp_path):
    """fails when a loss on samples that are no longer held out stays the best, or the note is lost at a later resume"""
    first = validated(tmp_path, stop_at=3, keep=8)
    first.train()
    open_run_folder(tmp_path, {}, 3)
    restart_validation(tmp_path, 3, {"qa": 2})
    again = resumed(validated(tmp_path, {**LOSSES, 4: 9.0, 5: 8.0}, stop_at=5, keep=8))
    again.train()
    assert again.scores.best is not None and again.scores.best.step == 5
    assert json.loads((tmp_path / "best").read_text())["step"] == 5
    assert best_score(tmp_path, BestConfig()) == {"metric": "validation/loss", "value": 8.0, "step": 5}
    later = resumed(validated(tmp_path, patience=2, keep=8))
    later.scores.open(5)
    assert later.scores.best is not None and later.scores.best.step == 5 and later.scores.waited == 0
    later.scores.open(2)
    assert later.scores.best is not None and later.scores.best.step == 2
    assert has_restart_after(tmp_path, 2) and not has_restart_after(tmp_path, 3)


def test_a_validation_that_a_kill_prevented_is_made_up_for(tmp_path):
    """fails when a run that was killed between checkpoint and validation has one score less"""
    first = validated(tmp_path, stop_at=2)
    first.train()
    lines = (tmp_path / "scores.jsonl").read_text().splitlines()
    (tmp_path / "scores.jsonl").write_text(lines[0] + "\n" + lines[1][:9])  # torn
    (tmp_path / "best").write_text((tmp_path / "best").read_text().replace("000002", "000001"))
    again = resumed(validated(tmp_path, stop_at=3))
    again.train()
    assert again.validator is not None and again.validator.ran == [2, 3]  # pyright: ignore[reportAttributeAccessIssue]
    assert best_checkpoint(tmp_path) == tmp_path / "checkpoints/step_000002"


def test_a_resume_from_an_older_checkpoint_forgets_later_scores(tmp_path):
    """fails when the best checkpoint of a try that was given up is kept for the best of the new one"""
    validated(tmp_path, keep=8).train()
    open_run_folder(tmp_path, {}, 4)  # moves the later ones aside
    runner = validated(tmp_path, keep=8)
    runner.state = runner.checkpointer.load(tmp_path / "checkpoints/step_000004")
    runner.scores.open(4)
    assert runner.scores.best is not None and runner.scores.best.step == 2
    assert best_checkpoint(tmp_path) == tmp_path / "checkpoints/step_000002"


def test_a_loss_that_is_not_finite_is_never_the_best(tmp_path):
    """fails when nan counts as an improvement, after which no number is better"""
    validated(tmp_path, {**LOSSES, 1: float("nan")}, stop_at=3).train()
    assert best_checkpoint(tmp_path) == tmp_path / "checkpoints/step_000002"


def test_validation_changes_no_weight(tmp_path):
    """fails when checkpoints and scores between two steps change the training"""
    validated(tmp_path / "with").train()
    tiny_runner(tmp_path / "without").train()
    with_, without = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("with", "without")]
    assert [json.loads(line)["loss"] for line in with_] == [json.loads(line)["loss"] for line in without]


def test_a_metric_that_the_task_does_not_have_is_named(tmp_path):
    """fails when a misspelled score is never measured and nobody is told"""
    scores = Scores(tmp_path, BestConfig(metric="qa/acuracy"), None, Dist())
    with pytest.raises(TrainingError, match=r"run\.best\.metric is qa/acuracy, but the task has qa/accuracy"):
        scores.add(1, {"qa/accuracy": 0.5, "caption/cider": 1.0})


@pytest.mark.parametrize("content", ["", "{", '{"checkpoint": 3}', "[]", '{"checkpoint": "checkpoints/step_000009"}'])
def test_a_damaged_pointer_is_told(tmp_path, content):
    """fails when a pointer to nothing ends in a traceback, or hides that a run folder has checkpoints"""
    validated(tmp_path, stop_at=2).train()
    (tmp_path / "best").write_text(content)
    assert best_checkpoint(tmp_path) is None and find_checkpoint(tmp_path).name == "step_000002"
    with pytest.raises(ValueError, match=str(tmp_path / "best")):
        find_checkpoint(tmp_path / "best")
