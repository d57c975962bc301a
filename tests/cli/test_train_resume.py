"""A stopped training resumes, and starts from another one's weights; a changed configuration never overwrites it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from chatbridge.common.errors import ConfigError
from chatbridge.models.loading import read_state
from tests.helpers.mini_world import MiniWorld, train_command, write_yaml
from tests.helpers.preloaded_processes import started_python
from tests.helpers.train_runs import LAST, environment, losses, records, run


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> MiniWorld:
    return MiniWorld(tmp_path_factory.mktemp("world"))


def test_resume_equals_no_stop_with_a_different_number_of_workers(world, tmp_path):
    """fails when promise 4 does not hold: N + N steps differ from 2N steps in a single bit"""
    for name in ("through", "stopped"):
        config = world.experiment(tmp_path / name)
        config["model"] = world.model(dropout=0.2)
        if name == "through":
            assert run(config, tmp_path) == 0
            continue
        assert run(config, tmp_path, "run.stop_at=2") == 0
        assert (tmp_path / name / "checkpoints/step_000002/manifest.json").is_file()
        assert run(config, tmp_path, "data.num_workers=2") == 0
    assert losses(tmp_path / "through") == losses(tmp_path / "stopped")
    for file in ("model.safetensors", "optimizer.pt", "state.json"):
        assert _content(tmp_path / "through" / LAST / file) == _content(tmp_path / "stopped" / LAST / file), file


@pytest.mark.parametrize("mix", ["step", "micro"])
def test_resume_is_bit_for_bit_in_every_mix(world, tmp_path, mix):
    """fails when batches or frames of a source, or slices of one source, differ after a resume"""
    for name in ("through", "stopped"):
        config = world.experiment(tmp_path / name, micro_batch=2, accumulate=2)
        config["data"]["mix"] = mix
        config["data"]["sources"]["video_cap"] |= {"frames": 1, **({"batch": 8} if mix == "step" else {})}
        if name == "stopped":
            assert run(config, tmp_path, "run.stop_at=2") == 0
        assert run(config, tmp_path) == 0
    assert losses(tmp_path / "through") == losses(tmp_path / "stopped")
    states = [json.loads((tmp_path / name / LAST / "state.json").read_text()) for name in ("through", "stopped")]
    assert states[0] == states[1]
    per_source = [record["per_source"] for record in records(tmp_path / "through")]
    sizes = [8 if mix == "step" and "video_cap" in sources else 4 for sources in per_source]
    assert states[0]["samples"] == sum(sizes)
    if mix == "micro":
        with pytest.raises(ConfigError, match=r"run\.micro_batch: 2 -> 4"):
            run(config, tmp_path, "run.micro_batch=4", "run.accumulate=1")


def test_stage_two_starts_where_stage_one_ended(world, tmp_path):
    """fails when init_from loses a tensor, or does not log it"""
    assert run(world.experiment(tmp_path / "stage1"), tmp_path) == 0
    second = world.experiment(tmp_path / "stage2", init_from=str(tmp_path / "stage1"), max_steps=2, save_every=1)
    second["run"]["optimizer"] = {"lr": 0.0}
    second["run"]["schedule"] = {"kind": "constant"}
    assert run(second, tmp_path) == 0
    end, start = (
        read_state(tmp_path / path / "model.safetensors")
        for path in (f"stage1/{LAST}", "stage2/checkpoints/step_000001")
    )
    assert all(torch.equal(value, start[name]) for name, value in end.items())
    assert "bridges.perceiver: " in (tmp_path / "stage2/run.log").read_text()


def test_a_finished_run_has_nothing_left_to_do(world, tmp_path):
    """fails when the same command trains again or changes existing files"""
    config = world.experiment(tmp_path / "run")
    assert run(config, tmp_path) == 0
    before = (tmp_path / "run/metrics.jsonl").read_text()
    assert run(config, tmp_path) == 0
    assert (tmp_path / "run/metrics.jsonl").read_text() == before


def test_a_changed_configuration_never_overwrites_a_run(world, tmp_path):
    """fails when a changed setting is not reported, or the message omits the change or the next step"""
    config = world.experiment(tmp_path / "run")
    assert run(config, tmp_path, "run.stop_at=2") == 0
    before = (tmp_path / "run/resolved.yaml").read_text()
    with pytest.raises(ConfigError) as error:
        run(config, tmp_path, "run.optimizer.lr=0.5", "run.log_every=7")
    message = str(error.value)
    assert "run.optimizer.lr: 0.01 -> 0.5" in message and "log_every" not in message
    assert "choose another run.output_dir" in message and "step_000002" in message
    assert (tmp_path / "run/resolved.yaml").read_text() == before
    with pytest.raises(ConfigError, match="run.resume"):
        run(config, tmp_path, "run.resume=never")
    checkpoint = tmp_path / "run/checkpoints/step_000002"
    assert run(config, tmp_path, "run.optimizer.lr=0.5", f"run.resume={checkpoint}") == 0


def test_the_global_batch_of_a_resume_must_stay(world, tmp_path):
    """fails when a resume reads different conversations, or refuses the same number in different micro-batches"""
    config = world.experiment(tmp_path / "run")
    assert run(config, tmp_path, "run.stop_at=2") == 0
    with pytest.raises(ConfigError, match=r"(?s)4 conversations per step.*run\.resume=\S*step_000002"):
        run(config, tmp_path, "run.micro_batch=3")
    assert run(config, tmp_path, "run.micro_batch=2", "run.accumulate=2") == 0


def test_data_that_changed_during_a_run_is_reported(world, tmp_path):
    """fails when a file that grew changes the order of a resumed run without a message, or the override is not named"""
    config = world.experiment(tmp_path / "run")
    grown = tmp_path / "grown.json"
    lines = json.loads(Path(config["data"]["sources"]["image_qa"]["annotations"]).read_text())
    grown.write_text(json.dumps(lines))
    config["data"]["sources"]["image_qa"]["annotations"] = str(grown)
    assert run(config, tmp_path, "run.stop_at=2") == 0
    grown.write_text(json.dumps([*lines, lines[0]]))
    with pytest.raises(ConfigError) as error:
        run(config, tmp_path)
    message = " ".join(str(error.value).split())
    assert "data.sources.image_qa had 6 samples when" in message and "now it has 7" in message
    checkpoint = tmp_path / "run/checkpoints/step_000002"
    assert f"run.resume={checkpoint}" in message
    assert run(config, tmp_path, f"run.resume={checkpoint}") == 0


def test_ctrl_c_saves_and_the_same_command_goes_on(world, tmp_path):
    """fails when Ctrl-C in a terminal loses the step, leaves no checkpoint, or prints a worker's traceback"""
    command, errors = _endless(world, tmp_path, 1), tmp_path / "stderr"
    with started_python(command[1:], tmp_path / "stdout", errors) as child:
        _await_steps(tmp_path, child.is_alive, errors)
        os.killpg(child.pid, signal.SIGINT)  # a terminal signals everybody in the foreground
        child.join(timeout=180)
        assert child.exitcode == 130, errors.read_text()
    assert "Traceback" not in errors.read_text()
    _check_going_on(world, tmp_path, errors.read_text())


@pytest.mark.slow
def test_ctrl_c_at_torchrun(world, tmp_path):
    """fails when Ctrl-C at a launcher with two processes loses the step or leaves no checkpoint"""
    command, errors = _endless(world, tmp_path, 2), tmp_path / "stderr"
    with errors.open("w") as file:
        child = subprocess.Popen(command, env=environment(), stderr=file, start_new_session=True)
        _await_steps(tmp_path, lambda: child.poll() is None, errors)
        os.killpg(child.pid, signal.SIGINT)
        child.wait(timeout=180)
    _check_going_on(world, tmp_path, errors.read_text())


def _endless(world: MiniWorld, folder: Path, num_processes: int) -> list[str]:
    """The command of a run that does not end by itself."""
    return train_command(
        write_yaml(folder / "train.yaml", _long(world, folder, num_processes)), num_processes=num_processes
    )


def _long(world: MiniWorld, folder: Path, num_processes: int) -> dict[str, Any]:
    config = world.experiment(folder / "run", max_steps=100_000, save_every=100_000, micro_batch=4 // num_processes)
    config["data"]["num_workers"] = 1
    return config


def _await_steps(folder: Path, is_running: Callable[[], bool], errors: Path) -> None:
    metrics = folder / "run/metrics.jsonl"
    until = time.monotonic() + 300
    while not (metrics.is_file() and len(metrics.read_text().splitlines()) > 2) and time.monotonic() < until:
        assert is_running(), errors.read_text()
        time.sleep(0.05)


def _check_going_on(world: MiniWorld, folder: Path, said: str) -> None:
    """The stopped run has its last step as a checkpoint, and the same command goes on from there."""
    (checkpoint,) = (folder / "run/checkpoints").glob("step_*")
    step = json.loads((checkpoint / "state.json").read_text())["step"]
    assert f"stopped after step {step} on request" in said
    assert len(records(folder / "run")) == step
    config = _long(world, folder, 1)
    assert run(config, folder, f"run.stop_at={step + 2}", "data.num_workers=0") == 0
    assert [record["step"] for record in records(folder / "run")] == list(range(1, step + 3))


def _content(path: Path) -> Any:
    if path.suffix == ".json":
        return json.loads(path.read_text())
    if path.suffix == ".safetensors":
        return {name: value.tolist() for name, value in read_state(path).items()}
    return {
        f"{name}.{key}": value.tolist()
        for name, entries in torch.load(path, weights_only=True).items()
        for key, value in entries.items()
    }
