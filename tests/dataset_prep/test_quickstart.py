"""The quickstart: finished steps are reused, seeds are not mixed, commands run side by side."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dataset_prep.tiny_world import quickstart


def command(tmp_path: Path, name: str, reads: tuple[Path, ...] = ()) -> quickstart.Command:
    return quickstart.Command((name,), (tmp_path / name,), reads)


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A quickstart of two steps below `tmp_path`; returns the commands that it ran."""
    ran: list[str] = []
    steps = tuple(quickstart.Step(name, (command(tmp_path, name),)) for name in ("one", "two"))
    monkeypatch.setattr(quickstart, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(quickstart, "TIMES", tmp_path / "runs" / "wall_s.json")
    monkeypatch.setattr(quickstart, "SEED", tmp_path / "runs" / "seed.json")
    monkeypatch.setattr(quickstart, "steps", lambda seed: steps)
    monkeypatch.setattr(quickstart, "run_side_by_side", lambda commands: ran.append(commands[0][0]) or 0)
    return ran


def test_quickstart_reuses_finished_steps(tmp_path: Path, in_folder: list[str]) -> None:
    """Fails when a second run repeats a finished step, or skips an unfinished one."""
    (tmp_path / "one").touch()
    assert quickstart.main([]) == 0
    assert in_folder == ["two", quickstart.REPORT[0]]
    assert list(json.loads((tmp_path / "runs" / "wall_s.json").read_text())) == ["two"]


def test_quickstart_refuses_results_of_a_different_seed(in_folder: list[str], capsys: pytest.CaptureFixture) -> None:
    """Fails when results of one seed are reported as those of a different seed."""
    assert quickstart.main(["--seed", "3"]) == 0
    in_folder.clear()
    assert quickstart.main(["--seed", "3"]) == 0 and in_folder
    in_folder.clear()
    for arguments in ([], ["--seed", "4"]):
        assert quickstart.main(arguments) == 2
        assert "seed 3" in capsys.readouterr().err
    assert not in_folder


def test_quickstart_seed_applies_to_all_training() -> None:
    """Fails when `--seed` leaves the language model, an encoder or a stage at its default seed."""
    default, seeded = ([c.arguments for step in quickstart.steps(seed) for c in step.commands] for seed in (None, 5))
    trained = {before: after for before, after in zip(default, seeded, strict=True) if before != after}
    assert len(trained) == 5
    assert all(after[-2:] in (("--seed", "5"), ("--options", "run.seed=5")) for after in trained.values())
    assert {before[-1] for before in default if before not in trained} == {
        "dataset_prep.tiny_world.write_files",
        "eval_configs/tiny_eval.yaml",
    }


def test_quickstart_evaluates_a_newer_checkpoint(tmp_path: Path) -> None:
    """Fails when results of an earlier training run are reported as those of the new one."""
    checkpoint, results = tmp_path / "manifest.json", tmp_path / "metrics.json"
    evaluate = command(tmp_path, "metrics.json", reads=(checkpoint,))
    assert not evaluate.is_done
    for path, seconds in ((checkpoint, 100), (results, 200)):
        path.touch()
        os.utime(path, (seconds, seconds))
    assert evaluate.is_done
    os.utime(checkpoint, (300, 300))
    assert not evaluate.is_done
    *_, stage2, evaluation = (step.commands[0] for step in quickstart.steps())
    assert evaluation.reads == stage2.makes


def test_quickstart_runs_as_many_commands_at_once_as_asked(tmp_path: Path) -> None:
    """Fails when more commands run than allowed, when one is left out, or when commands start after a failure."""
    log = tmp_path / "log"
    note = f"import time; open({str(log)!r}, 'a').write('+'); time.sleep(0.3); open({str(log)!r}, 'a').write('-')"
    assert quickstart.run_side_by_side([("-c", note)] * 3, at_once=1) == 0
    assert log.read_text() == "+-+-+-"
    assert quickstart.run_side_by_side([("-c", "exit(3)"), ("-c", note)], at_once=1) == 3
    assert log.read_text() == "+-+-+-"


def test_quickstart_forwards_sigterm(tmp_path: Path) -> None:
    """Fails when SIGTERM ends the quickstart but not its training, which would run during the next one."""
    child = f"import signal, time; signal.signal(15, lambda *_: exit(7)); open({str(tmp_path / 'on')!r}, 'w'); "
    code = (
        "import sys; from dataset_prep.tiny_world import quickstart; "
        f"sys.exit(quickstart.run_side_by_side([('-c', {child + 'time.sleep(60)'!r})]))"
    )
    running = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    while not (tmp_path / "on").exists():
        assert running.poll() is None
        time.sleep(0.02)
    running.terminate()
    assert running.wait(timeout=50) == 7
