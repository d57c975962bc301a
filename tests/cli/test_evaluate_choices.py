"""`python -m chatbridge evaluate` of MME and MMBench with a whole model: ranks, batch sizes, and a kill."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chatbridge import __main__ as commands
from chatbridge.models.chat_model import ChatModel
from tests.helpers.choice_sets import question, write_mmbench, write_mme
from tests.helpers.mini_world import MiniWorld, write_yaml
from tests.helpers.preloaded_processes import run_ranks

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("choices")
    world = MiniWorld(root / "world")
    write_mme(root / "mme")
    (root / "mme/scene/images/0000.jpg").write_bytes(b"\xff\xd8 cut")
    rows = [question(number, "ABC"[number % 3]) for number in range(5)] + [question(1_000_001, hint="Look.")]
    return {
        "model": world.model(),
        "evaluation": {"tasks": {
            "mme": {"name": "mme", "batch_size": 4, "dataset": {"name": "mme", "folder": str(root / "mme")}},
            "bench": {"name": "mmbench", "max_new_tokens": 6, "batch_size": 4,
                      "dataset": {"name": "mmbench", "file": str(write_mmbench(root / "t.tsv", rows))}},
        }},
        "run": {"output_dir": str(root / "one")},
    }  # fmt: skip


# a process that is killed, without a chance to clean up, before its ninth batch
KILLED = """
import os, signal, sys
from chatbridge.__main__ import main
from chatbridge.models.chat_model import ChatModel

generate, batches = ChatModel.generate, []

def dying(self, *given, **named):
    batches.append(1)
    if len(batches) == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    return generate(self, *given, **named)

ChatModel.generate = dying
main(sys.argv[1:])
"""


def files(folder: Path) -> dict[str, str]:
    paths = [*folder.glob("*.json*"), *folder.glob("mme_mme/*.txt")]
    return {path.name: path.read_text() for path in paths if path.name != "receipt.json"}  # has ranks and batch sizes


def test_ranks_batch_sizes_and_a_stop_change_nothing(config: dict[str, Any], tmp_path: Path, monkeypatch, caplog):
    """fails when another number of ranks, another batch size, a stop or a kill gives other answers or scores"""
    path = write_yaml(tmp_path / "eval.yaml", config)
    assert commands.main(["evaluate", "--cfg-path", str(path)]) == 0
    one = Path(config["run"]["output_dir"])
    found = json.loads((one / "metrics.json").read_text())
    assert (found["mme"]["count"], found["mme"]["unreadable"]) == (56, 2) and found["bench"]["count"] == 6
    assert len(files(one)) == 5 + 14 and (one / "submission_bench.xlsx").is_file()

    small = ["evaluation.tasks.mme.batch_size=3", "evaluation.tasks.bench.batch_size=1"]
    options = ["--options", f"run.output_dir={tmp_path / 'two'}", *small]
    done = run_ranks(["-m", "chatbridge", "evaluate", "--cfg-path", str(path), *options])
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "two") == files(one)

    generate, batches = ChatModel.generate, []

    def stopping(self: ChatModel, *given: Any, **named: Any) -> Any:
        batches.append(1)
        if len(batches) == 9:
            raise KeyboardInterrupt
        return generate(self, *given, **named)

    monkeypatch.setattr(ChatModel, "generate", stopping)
    command = ["evaluate", "--cfg-path", str(path), "--options", f"run.output_dir={tmp_path / 'three'}"]
    with pytest.raises(KeyboardInterrupt):
        commands.main(command)
    assert not (tmp_path / "three/metrics.json").exists()
    caplog.set_level("INFO", "chatbridge")
    assert commands.main(command) == 0
    assert "mme: 30 of 56 questions are answered already" in caplog.text  # of 8 batches, without two unreadable ones
    assert len(batches) == 9 + 7 + 2
    assert files(tmp_path / "three") == files(one)

    command = ["evaluate", str(path), "--options", f"run.output_dir={tmp_path / 'four'}"]
    done = subprocess.run([sys.executable, "-c", KILLED, *command], capture_output=True)
    assert done.returncode == -signal.SIGKILL and not (tmp_path / "four/metrics.json").exists()
    done = run_ranks(["-m", "chatbridge", *command])
    assert done.returncode == 0 and "mme: 30 of 56 questions are answered already" in done.stderr + done.stdout
    assert files(tmp_path / "four") == files(one)
