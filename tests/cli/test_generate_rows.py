"""`chatbridge generate`, row by row: settings of a record, rows that fail, ranks that share the work, and a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from chatbridge import __main__ as commands
from chatbridge.common.errors import DataError
from chatbridge.models.chat_model import ChatModel
from tests.helpers.mini_world import MiniWorld, write_yaml
from tests.helpers.preloaded_processes import REPOSITORY, run_ranks
from tests.helpers.tiny_media import write_json


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> MiniWorld:
    return MiniWorld(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def config(world: MiniWorld) -> Path:
    return write_yaml(world.folder / "eval.yaml", {"model": world.model(), "run": {"output_dir": "unused"}})


def ask(name: str, words: str = "what color is it ?", **more: Any) -> dict[str, Any]:
    content = [{"type": "image", "path": "i0.jpg"}, {"type": "text", "text": words}]
    return {"id": name, "messages": [{"role": "user", "content": content}], **more}


def command(config: Path, world: MiniWorld, records: Path, out: Path, *more: str) -> list[str]:
    return ["generate", str(config), "--records", str(records), "--root", str(world.folder / "images"), "--workers",
            "0", "--out", str(out), "--task", "max_new_tokens=6", "batch_size=4", *more]  # fmt: skip


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_record_sets_its_own_generation(config: Path, world: MiniWorld, tmp_path: Path):
    """fails when settings of a record are ignored, reach another record, or one that is wrong ends the command"""
    given = [{}, {"max_new_tokens": 2}, {"num_beams": 2}, {"temperature": 5.0, "seed": 3}, {"max_new_tokens": 12},
             {"temperature": 5.0, "seed": 3}, {"tempratur": 1}, {"top_p": 0.5}, {"stop": ""}]  # fmt: skip
    records = [ask(f"r{at}", options=options) for at, options in enumerate(given)]
    out = tmp_path / "a.jsonl"
    assert commands.main(command(config, world, write_json(tmp_path / "q.jsonl", records), out)) == 1
    found = lines(out)
    answers = [one.get("answer") for one in found]
    assert [one["id"] for one in found] == [f"r{at}" for at in range(9)]
    assert answers[0].startswith(answers[1]) and answers[4].startswith(answers[0]) and len(answers[4]) > len(answers[0])
    assert answers[3] == answers[5] != answers[0]
    assert "no setting 'tempratur'; did you mean temperature?" in found[6]["problem"]
    assert "top_p has no effect" in found[7]["problem"] and "stop is ''" in found[8]["problem"]
    stop = answers[4][3:6]
    greedy = {"num_beams": 1, "max_new_tokens": 12, "stop": [stop]}
    again = write_json(tmp_path / "b.jsonl", [ask("r2"), ask("s", options=greedy)])
    assert commands.main(command(config, world, again, tmp_path / "b.out.jsonl", "num_beams=2")) == 0
    beams, stopped = (one["answer"] for one in lines(tmp_path / "b.out.jsonl"))
    assert beams == answers[2] and stopped == answers[4].partition(stop)[0].strip()


def test_a_line_with_a_mistake_is_a_row_with_its_reason(config: Path, world: MiniWorld, tmp_path: Path):
    """fails when one malformed line stops the others, or shifts their numbers"""
    file, out = tmp_path / "q.jsonl", tmp_path / "a.jsonl"
    bad = [{"id": "x", "mesages": []}, ask("y", options=3), {"id": "z", "messages": [{"role": "user", "content": ""}]}]
    file.write_text("\n".join([json.dumps(ask("a")), "{not json", *map(json.dumps, bad), json.dumps(ask("b"))]) + "\n")
    assert commands.main(command(config, world, file, out)) == 1
    found = lines(out)
    assert [one["index"] for one in found] == list(range(6)) and [bool(one.get("problem")) for one in found] == [
        False, True, True, True, True, False
    ]  # fmt: skip
    assert "did you mean 'messages'" in found[2]["problem"] and found[2]["id"] == "x"
    assert "generation settings" in found[3]["problem"] and "nothing to answer" in found[4]["problem"]
    file.write_text("{not json\n[1]\n")
    with pytest.raises(DataError, match="no line can be used"):
        commands.main(command(config, world, file, tmp_path / "b.jsonl"))


def test_an_error_of_the_model_costs_its_row_only(config: Path, world: MiniWorld, tmp_path: Path, monkeypatch):
    """fails when a question that the model fails on takes its batch along, or ends the command"""
    real = ChatModel.generate

    def generate(self: ChatModel, batch: Any, options: Any = None, *given: Any, **more: Any) -> Any:
        if any(one.repetition_penalty == 1.5 for one in options):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, batch, options, *given, **more)

    monkeypatch.setattr(ChatModel, "generate", generate)
    records = [ask("a"), ask("b", options={"repetition_penalty": 1.5}), ask("c")]
    assert commands.main(command(config, world, write_json(tmp_path / "q.jsonl", records), tmp_path / "a.jsonl")) == 1
    found = lines(tmp_path / "a.jsonl")
    assert found[0]["answer"] == found[2]["answer"] and "answer" not in found[1]
    assert found[1]["problem"] == "the model failed (OutOfMemoryError: CUDA out of memory)"


@pytest.fixture
def shared(config: Path, world: MiniWorld, tmp_path: Path) -> tuple[Path, Path]:
    """Questions with media in several turns, and the answers that one process gives."""
    turns = [*ask("x")["messages"], {"role": "assistant", "content": "red"}, *ask("y", "and now ?")["messages"]]
    records = [{"id": f"r{at}", "messages": turns if at % 2 else ask("x", f"what {'very ' * at}?")["messages"]}
               for at in range(9)]  # fmt: skip
    records[3] = {"id": "gone", "messages": [{"role": "user", "content": [{"type": "image", "path": "gone.jpg"}]}]}
    file, out = write_json(tmp_path / "q.jsonl", records), tmp_path / "one.jsonl"
    assert commands.main(command(config, world, file, out)) == 1
    return file, out


@pytest.mark.slow
def test_ranks_share_the_work(config: Path, world: MiniWorld, tmp_path: Path, shared: tuple[Path, Path]):
    """fails when two ranks give other answers than one, in another order, or lose what a killed start has left"""
    file, one = shared
    out = tmp_path / "two.jsonl"
    given = command(config, world, file, out)
    done = run_ranks(["-m", "chatbridge", *given], 2, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert out.read_text() == one.read_text() and not list(tmp_path.glob(".two.jsonl*"))
    rows = out.read_text().splitlines(keepends=True)
    out.write_text("".join(rows[:2]))  # as kills of both ranks leave it
    (tmp_path / ".two.jsonl.rank0").write_text("".join(rows[4:6]))
    (tmp_path / ".two.jsonl.rank1").write_text(rows[6] + rows[7][:20])
    done = run_ranks(["-m", "chatbridge", *given], 2, cwd=tmp_path)
    assert "9 records, 5 answered already" in done.stdout and out.read_text() == one.read_text()


SLOW = """
import sys, time
from chatbridge.__main__ import main
from chatbridge.models.chat_model import ChatModel
generate = ChatModel.generate
def slow(*args, **kwargs):
    time.sleep(0.4)
    return generate(*args, **kwargs)
ChatModel.generate = slow
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_kill_loses_at_most_a_batch(config: Path, world: MiniWorld, tmp_path: Path, shared: tuple[Path, Path]):
    """fails when `kill -9` leaves a file that cannot be resumed, or whose answers differ after all"""
    file, one = shared
    out = tmp_path / "killed.jsonl"
    given = command(config, world, file, out, "batch_size=1")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen([sys.executable, "-c", SLOW, *given], cwd=tmp_path, env=environment,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    end = time.monotonic() + 120
    while (not out.exists() or out.read_bytes().count(b"\n") < 3) and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    assert 3 <= out.read_bytes().count(b"\n") < 9
    assert commands.main(given) == 1
    assert out.read_text() == one.read_text()
