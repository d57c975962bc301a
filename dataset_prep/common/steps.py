"""Steps of a quickstart: commands that are printed before they run, side by side; finished ones are reused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from chatbridge.common.safe_files import replace_text

POLL_S = 0.1


@dataclass(frozen=True)
class Command:
    """Arguments of `python`; done when all files of `makes` exist and no file of `reads` is newer."""

    arguments: tuple[str, ...]
    makes: tuple[Path, ...]
    reads: tuple[Path, ...] = ()

    @property
    def is_done(self) -> bool:
        if not all(path.exists() for path in self.makes):
            return False
        oldest = min(path.stat().st_mtime_ns for path in self.makes)
        return all(path.stat().st_mtime_ns <= oldest for path in self.reads if path.exists())


@dataclass(frozen=True)
class Step:
    """Commands that do not depend on each other, the longest first."""

    name: str
    commands: tuple[Command, ...]

    @property
    def open_commands(self) -> list[Command]:
        return [command for command in self.commands if not command.is_done]


def training(config: str, seed: int | None) -> Command:
    """A stage of training; done when the checkpoint of its last step exists."""
    run = OmegaConf.load(config).run
    checkpoint = Path(run.output_dir) / "checkpoints" / f"step_{run.max_steps:06d}"
    options = () if seed is None else ("--options", f"run.seed={seed}")
    return Command(("train.py", "--cfg-path", config, *options), (checkpoint / "manifest.json",))


def run_steps(steps: Sequence[Step], times_file: Path, run: Callable[[Sequence[Sequence[str]]], int]) -> int:
    """Run the open commands of steps in order; returns the first exit code that is not 0.

    times_file   JSON, name of a step -> seconds that it took, of steps that were not done before
    """
    times: dict[str, float] = json.loads(times_file.read_text()) if times_file.exists() else {}
    for step in steps:
        if not step.open_commands:
            print(f"== {step.name}: already done", flush=True)
            continue
        print(f"== {step.name}", flush=True)
        started = time.monotonic()
        if code := run([command.arguments for command in step.open_commands]):
            print(f"quickstart: {step.name} ended with code {code}; run the same command to resume", file=sys.stderr)
            return code
        times[step.name] = round(time.monotonic() - started, 1)
        replace_text(times_file, json.dumps(times, indent=1))
    return 0


def run_side_by_side(commands: Sequence[Sequence[str]], at_once: int | None = None) -> int:
    """Run commands, as many at once as there are cores; returns the first exit code that is not 0.

    Each command has one thread, because a second thread slows down models of this size. SIGTERM is forwarded to the
    commands, which save and exit; otherwise they would still train during the next quickstart.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    waiting, running, codes = list(commands), list[subprocess.Popen[bytes]](), list[int]()

    def forward(number: int, frame: object) -> None:
        waiting.clear()
        for process in running:
            process.send_signal(number)

    before = signal.signal(signal.SIGTERM, forward)
    try:
        while running or (waiting and not any(codes)):
            while waiting and not any(codes) and len(running) < (at_once or num_cores()):
                print("$ python", *waiting[0], flush=True)
                running.append(subprocess.Popen([sys.executable, *waiting.pop(0)], env=environment))
            time.sleep(POLL_S)
            codes += [process.returncode for process in running if process.poll() is not None]
            running[:] = [process for process in running if process.returncode is None]
    except KeyboardInterrupt:
        codes += [process.wait() for process in running]
    finally:
        signal.signal(signal.SIGTERM, before)
    return next((code for code in codes if code), 0)


def num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
