"""Commands and ranks that start from a process which has imported torch, transformers and our own modules already.

A fresh Python spends four seconds on imports, twice with two ranks. Only tests of torchrun itself (restarts, signals,
what it prints) start a fresh one.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
OWN_GROUP = "TESTS_OWN_PROCESS_GROUP"  # in the environment of a process that becomes the leader of a group
PRELOADED = (
    "torch", "torch.distributed.fsdp", "transformers", "transformers.models.llama.modeling_llama", "PIL.Image",
    "chatbridge.cli.train",
)  # fmt: skip


def run_ranks(
    command: Sequence[str], num_processes: int = 2, cwd: Path | None = None, timeout_s: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run a script, or `-m module`, with its arguments on every rank of one machine, on CPUs.

    returns  the exit code (the first that is not 0), and what all ranks wrote, rank by rank
    raises   TimeoutExpired, after all ranks are killed
    """
    from torch.distributed import TCPStore

    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)  # as torchrun's agent: no port is guessed
    of_all = {"WORLD_SIZE": num_processes, "LOCAL_WORLD_SIZE": num_processes, "MASTER_ADDR": "localhost",
              "MASTER_PORT": store.port, "TORCHELASTIC_USE_AGENT_STORE": True}  # fmt: skip
    return _run(
        command, [{"RANK": rank, "LOCAL_RANK": rank, **of_all} for rank in range(num_processes)], cwd, timeout_s
    )


def run_python(
    command: Sequence[str], cwd: Path | None = None, timeout_s: float = 300
) -> subprocess.CompletedProcess[str]:
    """As `run_ranks`, for one process without a process group."""
    return _run(command, [{}], cwd, timeout_s)


@contextmanager
def started_python(
    command: Sequence[str], stdout: Path, stderr: Path, cwd: Path | None = None
) -> Iterator[BaseProcess]:
    """As `run_python`, while it runs: the process, in a process group of its own, to which signals can be sent.

    stdout, stderr   files that grow while it writes; what is left of the group is killed at the end
    """
    context = _context()
    environment = {**_environment({}), OWN_GROUP: "1"}
    process = context.Process(target=_rank, args=([*command], environment, cwd, stdout, stderr))
    process.start()
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()


def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED])
    return context


def _run(
    command: Sequence[str], variables: Sequence[Mapping[str, object]], cwd: Path | None, timeout_s: float
) -> subprocess.CompletedProcess[str]:
    environments = [_environment(one) for one in variables]
    context = _context()
    with tempfile.TemporaryDirectory() as folder:
        outputs = [(Path(folder, f"{rank}.out"), Path(folder, f"{rank}.err")) for rank in range(len(environments))]
        ranks = [
            context.Process(target=_rank, args=([*command], environment, cwd, *files))
            for environment, files in zip(environments, outputs, strict=True)
        ]
        for rank in ranks:
            rank.start()
        ended = _wait(ranks, timeout_s)
        stdout, stderr = ("".join(files[number].read_text() for files in outputs) for number in (0, 1))
    if not ended:
        raise subprocess.TimeoutExpired([*command], timeout_s, stdout, stderr)
    codes = [rank.exitcode for rank in ranks if rank.exitcode]
    return subprocess.CompletedProcess([*command], codes[0] if codes else 0, stdout, stderr)


def _environment(variables: Mapping[str, object]) -> dict[str, str]:
    given = {"PYTHONPATH": REPOSITORY, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": 1, **variables}
    return {**os.environ, **{name: str(value) for name, value in given.items()}}


def _rank(command: list[str], environment: Mapping[str, str], cwd: Path | None, stdout: Path, stderr: Path) -> None:
    """One rank: its output goes to files, as does that of processes it starts."""
    for path, number in ((stdout, 1), (stderr, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    os.environ.clear()
    os.environ.update(environment)
    if os.environ.pop(OWN_GROUP, ""):
        os.setsid()
    os.chdir(cwd or Path.cwd())
    sys.path.insert(0, str(REPOSITORY))
    if command[0] == "-m":
        sys.argv = command[1:]
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = command
        runpy.run_path(command[0], run_name="__main__")


def _wait(ranks: Sequence[BaseProcess], timeout_s: float) -> bool:
    """Whether all ranks end by themselves in time; when one fails, the others are ended as torchrun does."""
    end = time.monotonic() + timeout_s
    while any(rank.is_alive() for rank in ranks) and time.monotonic() < end:
        if any(rank.exitcode for rank in ranks):
            for rank in ranks:
                rank.join(timeout=5)
                rank.terminate()
        time.sleep(0.02)
    in_time = not any(rank.is_alive() for rank in ranks)
    for rank in ranks:
        rank.kill()
        rank.join()
    return in_time
