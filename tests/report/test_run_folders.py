"""`chatbridge report RUN ...`: any run folders, with or without evaluations, one or many."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from chatbridge.cli.report import main
from chatbridge.common.errors import DataError
from chatbridge.report.results import results, scores
from chatbridge.report.run_folders import read_runs
from tests.helpers.report_parts import write_runs, write_stage


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_runs(tmp_path_factory.mktemp("any") / "made")


@pytest.fixture
def lab(tiny: Path, tmp_path: Path) -> Path:
    """Three runs: `first` was evaluated during its training, `second` by a command, `third` never."""
    lab = tmp_path / "lab"
    for name in ("first", "second", "third"):
        write_stage(lab / name)
    for step, source in ((1, "instruct"), (3, "eval")):
        folder = lab / "first" / "evaluation" / f"step_{step:06d}"
        folder.mkdir(parents=True)
        for path in (tiny / "eval").glob("[mps]*.json*"):
            shutil.copy(path, folder)
        if source == "instruct":
            (folder / "metrics.json").write_text("{}")  # an older one
    shutil.copy(tiny / "eval" / "resolved.yaml", lab / "first" / "resolved.yaml")
    shutil.copytree(tiny / "eval", lab / "second" / "eval")
    return lab


def test_a_run_without_evaluation_is_reported(lab: Path, capsys: pytest.CaptureFixture[str]):
    """fails when a run that was never evaluated, or is named differently from the quickstart's, has no report"""
    assert main([str(lab / "third")]) == 0
    printed = capsys.readouterr().out
    assert "third" in printed and "step 3, loss 1.3333" in printed and "chance" not in printed
    text = (lab / "third/report.html").read_text()
    assert 'id="loss"' in text and 'id="what-was-trained"' in text and 'id="results"' not in text
    assert json.loads((lab / "third/results.json").read_text())["wall_s"] == {"third": 6.0}


def test_the_newest_evaluation_of_a_training_is_taken(lab: Path):
    """fails when an earlier evaluation of a training run replaces its last one"""
    runs = read_runs(lab / "first")
    assert [score.label for score in scores(runs)] == ["image", "audio", "audio_video", "audio_video_joint"]
    assert list(results(runs)["ablation"]) == ["audio_video"]


def test_several_runs_share_a_report(lab: Path, capsys: pytest.CaptureFixture[str]):
    """fails when a task of one run overwrites that of another, or an ablation is compared with another run's"""
    assert main([str(lab / "first"), str(lab / "second")]) == 0
    found = json.loads((lab / "results.json").read_text())
    assert set(found["qa"]) == {
        f"{run}: {task}" for run in ("first", "eval") for task in ("image", "audio_video", "audio_video_joint")
    }
    assert found["ablation"]["first: audio_video"]["without_audio"] == 1.0
    assert set(found["wall_s"]) == {"first", "second"}
    text = (lab / "report.html").read_text()
    assert "first" in text and "second" in text


def test_a_folder_of_runs_is_all_of_them(lab: Path):
    """fails when runs below a folder are left out, or two of the same name are confused"""
    shutil.copytree(lab / "second" / "eval", lab / "first" / "eval")
    runs = read_runs(lab)
    assert sorted(run.name for run in runs.trainings) == ["first", "second", "third"]
    assert {task.run for task in read_runs(lab / "first", lab / "second").tasks} == {
        "first", "first/eval", "second/eval",
    }  # fmt: skip


def test_a_label_that_one_run_has_is_short(lab: Path):
    """fails when the labels of a run change because another run with different tasks is in the report"""
    folder = lab / "second" / "eval"
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps({"caption_audio": metrics["caption_audio"]}))
    found = results(read_runs(lab / "first", lab / "second"))
    assert set(found["qa"]) == {"image", "audio_video", "audio_video_joint"}
    assert set(found["caption"]) == {"first: audio", "eval: audio"}
    assert set(found["ablation"]) == {"audio_video"}


def test_a_folder_without_a_run_is_refused(lab: Path, tmp_path: Path):
    """fails when a wrong folder gives a traceback, an empty report, or a message without the expected files"""
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no run: expected metrics\.jsonl"):
        read_runs(tmp_path / "empty")
    with pytest.raises(DataError, match=r"there is no folder .*frist; did you mean .*first\?"):
        read_runs(lab / "frist")
    with pytest.raises(DataError, match="--out"):
        read_runs(lab / "first", lab / "second" / "eval")
    (lab / "second/eval/metrics.json").unlink()
    with pytest.raises(DataError, match=r"metrics\.json[\s\S]*python -m chatbridge evaluate"):
        read_runs(lab / "second" / "eval")
