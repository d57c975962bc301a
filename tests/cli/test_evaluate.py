"""`python -m chatbridge evaluate` on a miniature world."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from chatbridge import __main__ as commands
from chatbridge.cli import train
from chatbridge.common.dist import Dist
from chatbridge.common.errors import ConfigError, DataError
from chatbridge.tasks import evaluator
from chatbridge.tasks.config import EvaluationConfig
from chatbridge.tasks.evaluator import write_predictions
from tests.helpers.lock_holder import held
from tests.helpers.mini_world import MiniWorld, write_yaml
from tests.helpers.preloaded_processes import run_ranks


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> MiniWorld:
    return MiniWorld(tmp_path_factory.mktemp("world"))


def evaluation(world: MiniWorld, output: Path, **run) -> dict:
    tasks = {"tasks": world.tasks(), "num_workers": 0}
    return {"model": world.model(), "evaluation": tasks, "run": {"output_dir": str(output), **run}}


def answers(folder: Path) -> dict[str, list[dict]]:
    paths = sorted(folder.glob("predictions_*.jsonl"))
    return {path.stem: [json.loads(text) for text in path.read_text().splitlines()] for path in paths}


def results(folder: Path) -> dict[str, bytes]:
    """Predictions, scores and metrics.json."""
    return {path.name: path.read_bytes() for path in folder.glob("*.json*") if path.name != "receipt.json"}


def test_a_trained_run_is_scored_as_it_was_at_its_end(world, tmp_path):
    """fails when the command evaluates a different model, template or data than the evaluation of the training"""
    config = world.experiment(tmp_path / "run", max_steps=2)
    config["evaluation"] = {"tasks": world.tasks()}
    assert train.main(["--cfg-path", str(write_yaml(tmp_path / "train.yaml", config))]) == 0
    path = write_yaml(tmp_path / "eval.yaml", evaluation(world, tmp_path / "eval", init_from=str(tmp_path / "run")))
    assert commands.main(["evaluate", "--cfg-path", str(path)]) == 0
    at_end = tmp_path / "run/evaluation/step_000002"
    results = json.loads((tmp_path / "eval/metrics.json").read_text())
    table = results["joint_qa"].pop("modalities")
    assert json.dumps(results, indent=1) == (at_end / "metrics.json").read_text()
    found, before = answers(tmp_path / "eval"), answers(at_end)
    assert {name: rows for name, rows in found.items() if "." not in name} == before
    assert (tmp_path / "eval/resolved.yaml").is_file()
    _check_modality_report(tmp_path / "eval", table, found)

    other = f"run.output_dir={tmp_path / 'other'}"
    with pytest.raises(ConfigError, match="settings that differ"):
        commands.main(["evaluate", "--cfg-path", str(path), "--options", other, "evaluation.template=caption"])
    assert not (tmp_path / "other").exists(), "a checkpoint that is refused leaves a run folder"


def _check_modality_report(folder: Path, table: dict[str, Any], found: dict[str, list[dict]]) -> None:
    """fails when a condition is not the task that it names, or scoring from the files alone gives another table"""
    names = {"without_audio", "shuffled_audio", "without_video", "shuffled_video", "misaligned_audio"}
    assert set(table["conditions"]) == {"full", *names}
    assert {one.rpartition(".")[2] for one in found if "." in one} == names
    assert found["predictions_joint_qa.without_audio"] == found["predictions_joint_without_sound"]
    assert len(found["predictions_joint_qa.shuffled_audio"]) == 6
    text = (folder / "metrics.json").read_text()
    assert commands.main(["score", str(folder)]) == 0
    assert (folder / "metrics.json").read_text() == text
    (folder / "predictions_joint_qa.shuffled_audio.jsonl").unlink()
    with pytest.raises(DataError, match=r"joint_qa\.shuffled_audio\.jsonl is missing"):
        commands.main(["score", str(folder)])


def test_two_ranks_write_what_one_writes(world, tmp_path):
    """fails when predictions are lost between ranks, or a result or receipt depends on ranks, workers or
    batch sizes"""
    config = evaluation(world, tmp_path / "one")
    metrics = {"bleu": {"max_n": 2}, "exact_match": None}
    config["evaluation"]["tasks"] = {"image_qa": {**config["evaluation"]["tasks"]["image_qa"], "metrics": metrics}}
    path = write_yaml(tmp_path / "eval.yaml", config)
    assert commands.main(["evaluate", "--cfg-path", str(path)]) == 0
    command = ["-m", "chatbridge", "evaluate", "--cfg-path", str(path)]
    other = [f"run.output_dir={tmp_path / 'two'}", "evaluation.tasks.image_qa.batch_size=2", "evaluation.num_workers=1"]
    done = run_ranks([*command, "--options", *other])
    assert done.returncode == 0, done.stderr
    assert results(tmp_path / "two") == results(tmp_path / "one")
    found = json.loads(results(tmp_path / "one")["scores_image_qa.json"])
    assert found["headline"] == "bleu_2" and set(found["per_item"]) == {"bleu_2", "bleu_1", "exact_match"}
    one, two = (json.loads((tmp_path / name / "receipt.json").read_text()) for name in ("one", "two"))
    assert one["tasks"] == two["tasks"] and two["environment"]["processes"] == 2


def test_check_prints_the_plan(world, tmp_path, capsys):
    """fails when --check answers questions, or omits their number"""
    path = write_yaml(tmp_path / "eval.yaml", evaluation(world, tmp_path / "eval"))
    assert commands.main(["evaluate", str(path), "--check"]) == 0
    assert "joint_qa: 6 questions, scored by exact_match" in capsys.readouterr().out
    assert not (tmp_path / "eval").exists()


def test_mistakes_of_tasks_are_reported_together(world, tmp_path):
    """fails when the data set of a task is opened only after the tasks before it ran"""
    config = evaluation(world, tmp_path / "eval")
    tasks = config["evaluation"]["tasks"]
    (tmp_path / "empty.json").write_text("[]")
    tasks["image_qa"]["dataset"]["annotations"] = str(tmp_path / "empty.json")
    tasks["joint_qa"]["max_new_tokenz"] = 3
    tasks["audio_caption"]["name"] = "captionning"
    path = write_yaml(tmp_path / "eval.yaml", config)
    with pytest.raises(ConfigError) as error:
        commands.main(["evaluate", "--cfg-path", str(path)])
    found = {problem.path: problem for problem in error.value.problems}
    assert found["evaluation.tasks.joint_qa.max_new_tokenz"].nearest == "max_new_tokens"
    assert found["evaluation.tasks.audio_caption.name"].nearest == "captioning"
    assert "no samples" in found["evaluation.tasks.image_qa.dataset"].message


def test_a_metric_of_another_kind_of_task_is_refused_first(world, tmp_path):
    """fails when it is found after the model has answered all questions"""
    config = evaluation(world, tmp_path / "eval")
    config["evaluation"]["tasks"]["joint_qa"]["metrics"] = ["mmbench"]
    path = write_yaml(tmp_path / "eval.yaml", config)
    with pytest.raises(ConfigError, match="mmbench cannot score the first question") as error:
        commands.main(["evaluate", "--cfg-path", str(path), "--check"])
    assert [problem.path for problem in error.value.problems] == ["evaluation.tasks.joint_qa.metrics"]


def test_unknown_commands_point_the_way(capsys):
    """fails when a mistake in the command ends in a traceback"""
    assert commands.main(["evalute"]) == 2
    assert "did you mean evaluate?" in capsys.readouterr().err
    assert commands.main([]) == 0
    assert "evaluate" in capsys.readouterr().out


def test_the_folder_of_a_training_is_refused(world, tmp_path):
    """fails when an evaluation overwrites the resolved.yaml of a run, which then cannot resume"""
    (tmp_path / "run/checkpoints/step_000002").mkdir(parents=True)
    (tmp_path / "run/checkpoints/step_000002/manifest.json").write_text("{}")
    path = write_yaml(tmp_path / "eval.yaml", evaluation(world, tmp_path / "run"))
    with pytest.raises(ConfigError, match="the folder of a training"):
        commands.main(["evaluate", "--cfg-path", str(path)])
    assert not (tmp_path / "run/resolved.yaml").exists()


def test_a_folder_that_another_evaluation_writes_is_refused(world, tmp_path):
    """fails when two evaluations of one folder remove each other's answers and images"""
    path = write_yaml(tmp_path / "eval.yaml", evaluation(world, tmp_path / "out"))
    with held(tmp_path / "out/.evaluation.in_use"), pytest.raises(DataError, match="out: another process writes it"):
        commands.main(["evaluate", "--cfg-path", str(path)])
    assert [one.name for one in (tmp_path / "out").iterdir()] == [".evaluation.in_use"]


def test_answers_that_were_not_finished_have_no_old_results(tmp_path, monkeypatch):
    """fails when an interrupted evaluation keeps the metrics of an earlier one beside its answers"""

    def stopped(*_: object, **__: object) -> list:
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluator, "predictions", stopped)
    model = SimpleNamespace(eval=lambda: None, processors=lambda train: {})
    none = cast(Any, None)
    asking = evaluator.Evaluator({"qa": none}, cast(Any, model), none, Dist(), EvaluationConfig())
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(KeyboardInterrupt):
        asking.run(tmp_path)
    assert not (tmp_path / "metrics.json").exists()


def test_results_are_whole_or_not_there(tmp_path, monkeypatch):
    """fails when a full disk leaves half a metrics.json, which marks a step as evaluated"""
    write = Path.write_text

    def half(path: Path, text: str, **settings: Any) -> int:
        write(path, text[: len(text) // 2], **settings)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match="No space"):
        evaluator.write_metrics(tmp_path / "metrics.json", {"qa": {"exact_match": 0.5}})
    assert not (tmp_path / "metrics.json").exists()
    monkeypatch.undo()
    evaluator.write_metrics(tmp_path / "metrics.json", {"qa": {"exact_match": 0.5}})
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_half_an_emoji_in_an_answer_is_repaired(tmp_path: Path):
    """fails when a lone half of a UTF-16 pair in a record or an answer ends the evaluation when it is written"""
    write_predictions(tmp_path / "p.jsonl", [{"prediction": "red \ud83d"}, {"prediction": "\ud83d\ude00"}])
    lines = (tmp_path / "p.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["prediction"] for line in lines] == ["red \ufffd", "\U0001f600"]
