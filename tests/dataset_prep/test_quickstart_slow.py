"""The complete `make quickstart`: its results, reproducibility, and that a second run reuses the first.

Takes as long as the quickstart itself, minutes on two cores, and runs in a temporary folder.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dataset_prep.tiny_world.quickstart import targets
from tests.helpers.tolerances import FP32

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7500)]  # takes about 11 minutes on an idle machine

ROOT = Path(__file__).parents[2]
TARGETS = targets(ROOT / "eval_configs/tiny_eval.yaml")
CODE = ("chatbridge", "dataset_prep", "configs", "train_configs", "eval_configs", "train.py", "demo.py")
STAGE1 = ("train.py", "--cfg-path", "train_configs/tiny_pretrain.yaml", "--options")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkout's code, without its data and runs."""
    folder = tmp_path_factory.mktemp("quickstart")
    for name in CODE:
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.fixture(scope="module")
def output(folder: Path) -> str:
    """The output of the first quickstart."""
    return python(folder, "-m", "dataset_prep.tiny_world.quickstart")


@pytest.fixture(scope="module")
def results(folder: Path, output: str) -> dict[str, Any]:
    return json.loads((folder / "runs/tiny/results.json").read_text())


def python(folder: Path, *arguments: str, num_threads: int | None = None) -> str:
    """Run a command as a user does; returns its output, which is in the failure too."""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    environment |= {"OMP_NUM_THREADS": str(num_threads)} if num_threads else {}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=7200,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


def losses(folder: Path, run: str, up_to: int) -> list[float]:
    records = map(json.loads, (folder / run / "metrics.jsonl").read_text().splitlines())
    return [record["loss"] for record in records if record["step"] <= up_to]


def test_results_have_their_schema(results: dict[str, Any]):
    """fails when results.json loses a number, or one is not a fraction"""
    assert set(results["qa"]) == {"image", "video", "audio", "audio_video", "audio_video_joint"}
    assert set(results["caption"]) == {"image", "video", "audio"}
    assert set(results["ablation"]) == {"audio_video", "audio_video_joint"}
    assert set(results["chance"]) >= {"qa", "caption"}
    assert set(results["wall_s"]) >= {"world, language and encoders", "stage 1", "stage 2", "evaluation"}
    assert all(0 <= score <= 1 for group in ("qa", "caption") for score in results[group].values())
    print(json.dumps(results, indent=1))


@pytest.mark.parametrize(("group", "label"), [(group, label) for group, labels in TARGETS.items() for label in labels])
def test_targets_are_met(results: dict[str, Any], group: str, label: str):
    """fails when a score is below its target, or near its chance level"""
    score, chance = results[group][label], results["chance"][group][label]
    assert score >= TARGETS[group][label]
    assert score > chance + 0.3


def test_answers_come_from_the_media(results: dict[str, Any]):
    """fails when questions about one modality are answered equally well without it, from the language model alone"""
    about, joint = results["ablation"]["audio_video"]["about"], results["ablation"]["audio_video_joint"]
    chance = results["chance"]["qa"]
    assert about["audio"]["without_audio"] < chance["audio_video"] + 0.15
    assert about["video"]["without_video"] < chance["audio_video"] + 0.15
    assert max(joint["without_audio"], joint["without_video"]) < chance["audio_video_joint"] + 0.3


def test_the_report_is_self_contained(folder: Path, output: str):
    """fails when the report is missing, or loads an external file"""
    page = (folder / "runs/tiny/report.html").read_text(encoding="utf-8")
    assert "runs/tiny/report.html" in output
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)[^"']+""", page)


def test_a_second_run_reuses_the_first(folder: Path, output: str):
    """fails when make quickstart repeats a finished training run"""
    checkpoints = sorted((folder / "runs/tiny").rglob("model.safetensors"))
    before = [path.stat().st_mtime_ns for path in checkpoints]
    again = python(folder, "-m", "dataset_prep.tiny_world.quickstart")
    assert again.count("already done") == 4
    assert len(checkpoints) >= 2 and before == [path.stat().st_mtime_ns for path in checkpoints]


def test_the_same_seed_gives_the_same_losses(folder: Path, output: str):
    """fails when the first 50 steps of stage 1 differ from those of the first run in a single bit"""
    python(folder, *STAGE1, "run.output_dir=runs/again", "run.stop_at=50", num_threads=1)
    assert losses(folder, "runs/again", 50) == losses(folder, "runs/tiny/pretrain", 50)


def test_the_quickstart_of_one_process_equals_that_of_two(folder: Path, output: str):
    """fails when 1 x 16 and 2 x 8 conversations differ by more than rounding over 20 steps of mixed modalities"""
    settings = ("run.log_every=1", "run.stop_at=20", "data.num_workers=1")
    python(folder, *STAGE1, *settings, "run.output_dir=runs/one", "run.micro_batch=16", num_threads=1)
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    python(folder, *torchrun, *STAGE1, *settings, "run.output_dir=runs/two", "run.micro_batch=8", num_threads=1)
    one, two = losses(folder, "runs/one", 20), losses(folder, "runs/two", 20)
    assert len(one) == 20
    assert one == pytest.approx(two, rel=FP32)


@pytest.fixture(scope="module")
def multimodal_gpt(folder: Path, output: str) -> dict[str, dict[str, Any]]:
    """Results of the tiny Multimodal-GPT, by the run that was evaluated: stage1, whose text-only answers are those of
    the language model alone, and stage2."""
    run = "runs/tiny/mmgpt"
    python(folder, "-m", "dataset_prep.tiny_world.write_text")
    python(folder, "train.py", "--cfg-path", "train_configs/mmgpt_tiny_language.yaml")
    exported = ("--component", "language", "--out", "data/tiny/language_mmgpt")
    python(folder, "-m", "chatbridge", "export", f"{run}_language", *exported)
    for stage in ("stage1", "stage2"):
        python(folder, "train.py", "--cfg-path", f"train_configs/mmgpt_tiny_{stage}.yaml")
        evaluated = (f"run.init_from={run}_{stage}", f"run.output_dir={run}_eval_{stage}")
        config = "eval_configs/mmgpt_tiny_eval.yaml"
        python(folder, "-m", "chatbridge", "evaluate", "--cfg-path", config, "--options", *evaluated)
    return {one: json.loads((folder / f"{run}_eval_{one}/metrics.json").read_text()) for one in ("stage1", "stage2")}


def test_the_tiny_multimodal_gpt_answers_about_images_and_text(multimodal_gpt: dict[str, dict[str, Any]]):
    """fails when adapters and cross-attention do not learn to answer about held-out images, or the language stream does
    not preserve what the language model answers about text"""
    before, after = multimodal_gpt["stage1"], multimodal_gpt["stage2"]
    assert before["text"]["exact_match"] >= 0.75
    assert after["text"]["exact_match"] >= before["text"]["exact_match"] - 0.05
    assert after["image"]["exact_match"] >= 0.45  # the most frequent answer of each kind of question: 0.27
    assert after["without_image"]["exact_match"] <= 0.35
    print(json.dumps(multimodal_gpt, indent=1))


@pytest.fixture(scope="module")
def textbind(folder: Path, output: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The evaluation and the examination of the tiny TextBind, by the commands of its page."""
    python(folder, "-m", "dataset_prep.tiny_world.write_textbind")
    for stage in ("stage1", "stage2"):
        python(folder, "train.py", "--cfg-path", f"train_configs/textbind_tiny_{stage}.yaml")
    python(folder, "-m", "chatbridge", "evaluate", "--cfg-path", "eval_configs/textbind_tiny_eval.yaml")
    python(folder, "-m", "dataset_prep.tiny_world.examine_drawings")
    found = (folder / "runs/tiny/textbind_eval" / name for name in ("metrics.json", "drawings.json"))
    evaluation, examination = (json.loads(path.read_text()) for path in found)
    return evaluation, examination


def test_the_tiny_textbind_draws_what_is_asked_for(textbind: tuple[dict[str, Any], dict[str, Any]]):
    """fails when it draws nothing, something else, or where nothing was asked for, on combinations it never saw; or
    cannot see what it drew"""
    evaluation, examination = textbind
    print(json.dumps(examination, indent=1))
    by_kind = evaluation["requests"]["by"]["kind"]
    for kind in ("full", "partial", "two"):
        assert (
            by_kind[kind]["shown"] >= 0.95 and by_kind[kind]["met"] >= 0.85
        )  # of other requests' images: 0.14 at most
        assert examination[kind]["met_chance"] <= 0.25
    for kind in ("seen", "text"):
        assert by_kind[kind]["drawn"] <= 0.05 and by_kind[kind]["right"] >= 0.8
    second = examination["partial"]
    assert second["open"] >= 0.8 > 0.5 > second["open_chance"] and second["swapped"] >= 0.7  # chance: 0.27
    assert evaluation["image"]["exact_match"] >= 0.85 > 0.4 > evaluation["without_image"]["exact_match"]
