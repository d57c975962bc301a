"""Evaluations during a training: slices of tasks, the best checkpoint by a score of a task, and both after a resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chatbridge.cli import train
from chatbridge.common.errors import ConfigError
from chatbridge.experiment.data import open_data
from chatbridge.experiment.open import open_config
from chatbridge.experiment.roots import Experiment
from chatbridge.experiment.training_tasks import with_best_mode
from chatbridge.models.checkpoints import best_checkpoint
from tests.helpers.mini_world import MiniWorld, write_yaml
from tests.helpers.train_runs import losses, run, run_processes

BEST = {"metric": "image_qa/exact_match"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> MiniWorld:
    return MiniWorld(tmp_path_factory.mktemp("world"))


def experiment(world: MiniWorld, folder: Path, *names: str, **settings: Any) -> dict[str, Any]:
    """A training of 4 steps that knows these tasks."""
    config = world.experiment(folder)
    config["run"] |= settings
    tasks = {name: world.tasks()[name] for name in names or ("image_qa", "audio_caption")}
    config["evaluation"] = {"tasks": tasks, "num_workers": 0}
    return config


def results(folder: Path) -> dict[int, dict[str, Any]]:
    found = sorted((folder / "evaluation").glob("step_*/metrics.json"))
    return {int(path.parent.name[5:]): json.loads(path.read_text()) for path in found}


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]


def test_slices_at_steps(world, tmp_path):
    """fails when an evaluation asks all questions, others each time, or a task that is left out; or changes a loss"""
    evaluate = {"every": 2, "tasks": ["image_qa"], "limit": 3}
    assert run(experiment(world, tmp_path / "run", evaluate=evaluate, best=BEST), tmp_path) == 0
    found = results(tmp_path / "run")
    assert list(found) == [2, 4] and all(list(one) == ["image_qa"] for one in found.values())
    assert [one["image_qa"]["count"] for one in found.values()] == [3, 3]
    answers = [
        (tmp_path / f"run/evaluation/step_00000{step}/predictions_image_qa.jsonl").read_text() for step in (2, 4)
    ]
    ids = [[json.loads(line)["id"] for line in one.splitlines()] for one in answers]
    assert ids[0] == ids[1] and len(set(ids[0])) == 3
    assert [line["step"] for line in lines(tmp_path / "run")] == [2, 4]
    assert all("image_qa/exact_match" in line for line in lines(tmp_path / "run"))
    assert best_checkpoint(tmp_path / "run") is not None
    assert not list((tmp_path / "run/evaluation").glob("*/partial"))


def test_the_plan_says_what_is_evaluated(world, tmp_path, capsys):
    """fails when --check does not show how often which questions are asked"""
    config = experiment(world, tmp_path / "run", evaluate={"every": 2, "limit": 3})
    assert train.main(["--cfg-path", str(write_yaml(tmp_path / "x.yaml", config)), "--check"]) == 0
    expected = "evaluated every 2 steps and after the last: image_qa (3 questions), audio_caption (3 questions)"
    assert expected in capsys.readouterr().out


def problems(world: MiniWorld, folder: Path, **settings: Any) -> str:
    with pytest.raises(ConfigError) as error:
        open_data(open_config(Experiment, write_yaml(folder / "x.yaml", experiment(world, folder, **settings)), []))
    return str(error.value)


def test_scores_are_checked_at_the_start(world, tmp_path):
    """fails when a misspelled score, a task that is not asked or a missing interval is found after hours"""
    text = problems(world, tmp_path, evaluate={"every": 2}, best={"metric": "image_qa/exact_mach"})
    assert "run.best.metric" in text and "did you mean image_qa/exact_match?" in text
    assert "audio_caption/names_all" in text  # all names are listed
    left_out = {"every": 2, "tasks": ["audio_caption"]}
    assert "run.evaluate.tasks leaves out 'image_qa'" in problems(world, tmp_path, evaluate=left_out, best=BEST)
    assert "run.evaluate.every is not set" in problems(world, tmp_path, evaluate={"limit": 2}, best=BEST)
    text = problems(world, tmp_path, evaluate={"tasks": ["image_q"]})
    assert "no task named 'image_q'" in text and "did you mean image_qa?" in text


def test_no_tasks_to_evaluate(world, tmp_path):
    """fails when run.evaluate without evaluation.tasks is accepted in silence"""
    config = experiment(world, tmp_path, evaluate={"every": 2})
    del config["evaluation"]
    with pytest.raises(ConfigError, match="is set, but evaluation.tasks names no task"):
        open_data(open_config(Experiment, write_yaml(tmp_path / "x.yaml", config), []))


def test_the_better_direction_is_that_of_the_score(world, tmp_path):
    """fails when the checkpoint with the highest word error rate is kept as the best"""
    for metric, mode in (("word_error_rate", "min"), ("exact_match", None), ("character_error_rate", "min")):
        config = experiment(world, tmp_path, "image_qa", evaluate={"every": 1}, best={"metric": f"image_qa/{metric}"})
        config["evaluation"]["tasks"]["image_qa"]["metrics"] = ["exact_match", "word_error_rate"]
        opened = with_best_mode(open_config(Experiment, write_yaml(tmp_path / "x.yaml", config), []))
        assert opened.config.run.best is not None and opened.config.run.best.mode == mode
        assert opened.settings["run"]["best"]["mode"] == mode  # as in resolved.yaml, which the report reads


@pytest.mark.slow
def test_another_slice_starts_the_best_again(world, tmp_path, caplog):
    """fails when scores of other questions are compared after a resume, or an equal slice counts as another one"""
    evaluate = {"every": 1, "tasks": ["image_qa"], "limit": 3}
    config = experiment(world, tmp_path / "run", evaluate=evaluate, best=BEST, save_every=1, stop_at=2)
    assert run(config, tmp_path) == 0
    assert run(config, tmp_path, "run.stop_at=3") == 0
    assert "held_out" not in (tmp_path / "run/scores.jsonl").read_text()
    with caplog.at_level("WARNING"):
        assert run(config, tmp_path, "run.stop_at=4", "run.evaluate.limit=2") == 0
    notes = [line for line in lines(tmp_path / "run") if "asked" in line]
    assert notes == [{"step": 3, "held_out": {}, "asked": ["image_qa"]}]
    assert "image_qa: other questions" in caplog.text
    assert json.loads((tmp_path / "run/best").read_text())["step"] == 4  # earlier scores do not count
    assert results(tmp_path / "run")[4]["image_qa"]["count"] == 2


@pytest.mark.slow
def test_a_killed_evaluation_keeps_its_answers(world, tmp_path, monkeypatch):
    """fails when the answers before a kill are generated again, or the losses after it differ"""
    evaluate = {"every": 2, "tasks": ["image_qa"], "limit": 3}
    config = experiment(world, tmp_path / "run", evaluate=evaluate, save_every=1)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("chatbridge.tasks.evaluator.write_predictions", killed)
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path)
    (kept,) = (tmp_path / "run/evaluation/step_000002/partial").glob("image_qa.rank0.jsonl")
    rows = [json.loads(line) for line in kept.read_text().splitlines()]
    assert len(rows) == 3
    kept.write_text("".join(json.dumps({**row, "prediction": "kept"}) + "\n" for row in rows))
    assert run(config, tmp_path) == 0
    assert (tmp_path / "run/evaluation/step_000002/predictions_image_qa.jsonl").read_text().count('"kept"') == 3
    assert "kept" not in (tmp_path / "run/evaluation/step_000004/predictions_image_qa.jsonl").read_text()
    assert not list((tmp_path / "run/evaluation").glob("*/partial"))
    config["run"]["output_dir"] = str(tmp_path / "whole")
    assert run(config, tmp_path) == 0
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_ask_the_same(world, tmp_path):
    """fails when ranks ask other questions, or the evaluation of a slice changes the training"""
    evaluate = {"every": 2, "limit": 3}
    config = experiment(world, tmp_path / "one", evaluate=evaluate, best=BEST)
    assert run(config, tmp_path) == 0
    quiet = experiment(world, tmp_path / "quiet", evaluate={"limit": 3, "tasks": ["image_qa"]})
    assert run(quiet, tmp_path) == 0
    assert losses(tmp_path / "one") == losses(tmp_path / "quiet")
    config["run"] |= {"output_dir": str(tmp_path / "two"), "accumulate": 1}
    run_processes(config, tmp_path, num_processes=2)
    ids = [
        [
            json.loads(line)["id"]
            for line in (tmp_path / name / "evaluation/step_000004/predictions_image_qa.jsonl").open()
        ]
        for name in ("one", "two")
    ]
    assert ids[0] == ids[1] and len(ids[0]) == 3
    assert [line["step"] for line in lines(tmp_path / "two")] == [2, 4]


def test_a_judge_has_no_grades_during_a_training(world, tmp_path):
    """fails when a training ends at its first evaluation, hours later, because its answers are not graded"""
    (tmp_path / "grades.jsonl").write_text("")
    config = experiment(world, tmp_path, "image_qa", evaluate={"every": 2})
    config["evaluation"]["tasks"]["image_qa"]["metrics"] = {"judge": {"file": str(tmp_path / "grades.jsonl")}}
    with pytest.raises(ConfigError, match="image_qa.metrics(?s:.*)not during a training(?s:.*)leave judge out"):
        open_data(open_config(Experiment, write_yaml(tmp_path / "x.yaml", config), []))
