"""`python -m chatbridge evaluate` with modality reports: the choice sets with audio, ranks, batch sizes, and a kill."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chatbridge import __main__ as commands
from tests.helpers import mini_audio_visual as sets
from tests.helpers.mini_world import MiniWorld, write_yaml
from tests.helpers.preloaded_processes import run_ranks

pytestmark = pytest.mark.slow
BOTH = {"without_audio", "without_video", "shuffled_audio", "shuffled_video", "misaligned_audio"}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The six sets in their published layouts, with media that are decoded, and a whole tiny model."""
    root = tmp_path_factory.mktemp("sets")
    world = MiniWorld(root / "world")
    choice = {"name": "choice", "max_new_tokens": 4, "batch_size": 4}
    tasks = {
        "omnibench": {**choice, "answer": "both", "dataset": sets.omnibench_node(root / "omnibench")},
        "worldsense": {**choice, "resample_by": ["video"], "group_by": ["domain"],
                       "dataset": sets.worldsense_node(root / "worldsense")},
        "daily_omni": {**choice, "dataset": sets.daily_omni_node(root / "daily_omni")},
        "av_odyssey": {**choice, "dataset": sets.av_odyssey_node(root / "av_odyssey")},
        "xmodbench": {**choice, "dataset": sets.xmodbench_node(root / "xmodbench")},
        "avhbench": {"name": "vqa", "metrics": ["yes_no_f1"], "main_metric": "accuracy", "max_new_tokens": 4,
                     "group_by": ["audio"], "dataset": sets.avhbench_node(root / "avhbench")},
        "joint": {**world.tasks()["joint_qa"], "batch_size": 4},
    }  # fmt: skip
    evaluation = {"tasks": tasks, "num_workers": 0}
    return {"model": world.model(), "evaluation": evaluation, "run": {"output_dir": str(root / "one")}}


def files(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.glob("*.json*") if path.name != "receipt.json"}


def test_the_sets_are_checked_and_evaluated(config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture):
    """fails when a set cannot be read, decoded or scored, or a modality of its questions has no condition"""
    path = write_yaml(tmp_path / "eval.yaml", config)
    assert commands.main(["data", "check", str(path)]) == 0
    assert commands.main(["evaluate", "--cfg-path", str(path), "--check"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [one for one in lines if "omnibench: 2 questions" in one]
    assert line.endswith("a modality report"), line
    assert commands.main(["evaluate", "--cfg-path", str(path)]) == 0
    one = Path(config["run"]["output_dir"])
    found = json.loads((one / "metrics.json").read_text())
    assert {name: result["count"] for name, result in found.items()} == {
        "omnibench": 2, "worldsense": 3, "daily_omni": 2, "av_odyssey": 2, "xmodbench": 2, "avhbench": 3, "joint": 6,
    }  # fmt: skip
    assert all(result["unreadable"] == 0 for result in found.values())
    made = {name: set(result["modalities"]["conditions"]) - {"full"} for name, result in found.items()}
    assert made["omnibench"] == {"without_audio", "without_image", "shuffled_audio", "shuffled_image"}
    assert made["joint"] == BOTH == made["worldsense"]
    # its two questions are about one video, so there is nothing to exchange
    assert set(found["daily_omni"]["modalities"]["left_out"]) == {"shuffled_audio", "shuffled_video"}
    assert {"without_image", "without_video", "misaligned_audio"} <= made["av_odyssey"]
    odyssey = json.loads((one / "predictions_av_odyssey.without_video.jsonl").read_text())
    assert odyssey["id"] == "14_3", "only the question with a video is asked without it"
    assert {"without_audio", "shuffled_audio", "without_image"} <= made["xmodbench"]
    assert found["avhbench"]["modalities"]["by"]["audio"]["other"]["count"] == 1
    line = json.loads((one / "predictions_omnibench.shuffled_audio.jsonl").read_text().splitlines()[0])
    assert set(line["option_logprobs"]) == set("ABCD"), "the likelihood of the options is measured under conditions too"

    small = [f"evaluation.tasks.{name}.batch_size=1" for name in ("joint", "omnibench")]
    done = run_ranks(["-m", "chatbridge", "evaluate", "--cfg-path", str(path), "--options",
                      f"run.output_dir={tmp_path / 'two'}", *small])  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {name: text for name, text in files(tmp_path / "two").items() if "yaml" not in name} == files(one)


# a process that is killed, without a chance to clean up, at a batch of a condition
KILLED = """
import os, signal, sys
from chatbridge.__main__ import main
from chatbridge.models.chat_model import ChatModel

generate, batches = ChatModel.generate, []

def dying(self, *given, **named):
    batches.append(1)
    if len(batches) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return generate(self, *given, **named)

ChatModel.generate = dying
main(sys.argv[1:])
"""


def test_a_kill_during_a_condition_changes_nothing(config: dict[str, Any], tmp_path: Path, caplog):
    """fails when a killed report begins anew, mixes the answers of two conditions, or gives another table"""
    tasks = {"joint": config["evaluation"]["tasks"]["joint"]}
    only = {**config, "evaluation": {"tasks": tasks, "num_workers": 0}}
    path = write_yaml(tmp_path / "eval.yaml", {**only, "run": {"output_dir": str(tmp_path / "whole")}})
    assert commands.main(["evaluate", "--cfg-path", str(path)]) == 0
    again = ["evaluate", "--cfg-path", str(path), "--options", f"run.output_dir={tmp_path / 'again'}"]
    died = subprocess.run([sys.executable, "-c", KILLED, *again], capture_output=True, text=True, timeout=300)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert sorted(path.name for path in (tmp_path / "again/partial").glob("*.rank0.jsonl")) == [
        "joint.rank0.jsonl", "joint.shuffled_audio.rank0.jsonl", "joint.without_audio.rank0.jsonl"
    ]  # fmt: skip
    assert commands.main(again) == 0
    assert "joint.without_audio: 6 of 6 questions are answered already" in caplog.text
    assert files(tmp_path / "again") == files(tmp_path / "whole")
    assert not (tmp_path / "again/partial").exists()


def test_a_report_that_is_switched_off_leaves_no_old_table(config: dict[str, Any], tmp_path: Path):
    """fails when the files of an earlier report stay beside other answers, or a report cannot be asked for"""
    tasks = config["evaluation"]["tasks"]
    joint, single = tasks["joint"], {**tasks["omnibench"], "drop_media": ["image"]}
    chosen = {"tasks": {"joint": joint, "single": single}, "num_workers": 0}
    path = write_yaml(tmp_path / "eval.yaml", {**config, "evaluation": chosen, "run": {"output_dir": str(tmp_path)}})
    assert commands.main(["evaluate", "--cfg-path", str(path)]) == 0
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert "modalities" in found["joint"] and "modalities" not in found["single"]
    other = ["evaluation.tasks.joint.report.modalities=false", "evaluation.tasks.single.report.modalities=true"]
    assert commands.main(["evaluate", "--cfg-path", str(path), "--options", *other]) == 0
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert "modalities" not in found["joint"] and not list(tmp_path.glob("*joint.*_*"))
    assert set(found["single"]["modalities"]["conditions"]) == {"full", "without_audio", "shuffled_audio"}
