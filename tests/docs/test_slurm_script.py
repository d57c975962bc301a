"""docs/slurm_train.sh, with stand-ins for torchrun and for the commands of Slurm."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "docs" / "slurm_train.sh"


def stand_in(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(0o755)


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """The environment of a job on two nodes of four GPUs."""
    stand_in(tmp_path, "scontrol", 'if [ "$1" = show ]; then printf "first\\nsecond\\n"; else echo "scontrol $*"; fi')
    stand_in(tmp_path, "srun", 'shift; exec "$@"')
    stand_in(tmp_path, "torchrun", 'echo "torchrun $*"')
    job = {
        "SLURM_JOB_ID": "123456",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_GPUS_ON_NODE": "4",
        "SLURM_JOB_NODELIST": "n[1-2]",
    }
    return {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "CHATBRIDGE_DIR": str(tmp_path), **job}


def test_the_script_is_valid_bash_and_starts_every_node(cluster):
    """fails when the script does not parse, the nodes do not meet at one address, or options are lost"""
    assert subprocess.run(["bash", "-n", str(SCRIPT)]).returncode == 0
    done = subprocess.run(
        ["bash", str(SCRIPT), "a run.yaml", "run.max_steps=3", "run.resume=auto"],
        env=cluster,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == (
        "torchrun --nnodes 2 --nproc-per-node 4 --rdzv-id 123456 --rdzv-backend c10d --rdzv-endpoint first:23456 "
        "--max-restarts 3 train.py --cfg-path a run.yaml --options run.max_steps=3 run.resume=auto"
    )


def test_without_a_configuration_it_explains_itself(cluster):
    """fails when a job waits in the queue to find that it has nothing to do"""
    done = subprocess.run(["bash", str(SCRIPT)], env=cluster, capture_output=True, text=True)
    assert done.returncode == 2 and "usage: sbatch" in done.stderr


def test_the_signal_before_the_time_limit_reaches_torchrun_and_queues_the_job_again(cluster, tmp_path):
    """fails when the run is killed at the limit instead of saving, or does not come back"""
    stand_in(
        tmp_path, "torchrun", 'trap "echo saved; exit 1" TERM; echo started; for _ in {1..100}; do sleep 0.1; done'
    )
    job = subprocess.Popen(["bash", str(SCRIPT), "run.yaml"], env=cluster, stdout=subprocess.PIPE, text=True)
    assert job.stdout is not None
    while job.stdout.readline() != "started\n":
        assert job.poll() is None
    time.sleep(0.1)
    job.send_signal(signal.SIGTERM)
    rest, _ = job.communicate(timeout=30)
    assert "saved\n" in rest and rest.endswith("scontrol requeue 123456\n") and job.returncode == 1
