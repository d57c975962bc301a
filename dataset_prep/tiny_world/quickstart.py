"""From nothing to a report: prepare the tiny world, train both stages, evaluate. What is there already is reused.

Every step is a plain command that is printed before it runs; this script only runs them in order and measures.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from chatbridge.common.safe_files import replace_text

DATA, RUNS = Path("data/tiny"), Path("runs/tiny")
TIMES = RUNS / "wall_s.json"


@dataclass(frozen=True)
class Step:
    """Commands that may run side by side; done when every file of `makes` exists and none of `reads` is newer."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    makes: tuple[Path, ...]
    reads: tuple[Path, ...] = ()

    @property
    def is_done(self) -> bool:
        if not all(path.exists() for path in self.makes):
            return False
        oldest = min(path.stat().st_mtime_ns for path in self.makes)
        return all(path.stat().st_mtime_ns <= oldest for path in self.reads if path.exists())


def training(name: str, config: str) -> Step:
    """A stage of training; done when the checkpoint of its last step is there."""
    run = OmegaConf.load(config).run
    checkpoint = Path(run.output_dir) / "checkpoints" / f"step_{run.max_steps:06d}"
    return Step(name, (("train.py", "--cfg-path", config),), (checkpoint / "manifest.json",))


def steps() -> tuple[Step, ...]:
    language, encoders = (("-m", f"dataset_prep.tiny_world.train_{name}") for name in ("language", "encoders"))
    evaluate = ("-m", "chatbridge", "evaluate", "--cfg-path", "eval_configs/tiny_eval.yaml")
    examined = (DATA / "language" / "examination.json", DATA / "encoders" / "examination.json")
    stage1 = training("stage 1", "train_configs/tiny_pretrain.yaml")
    stage2 = training("stage 2", "train_configs/tiny_instruct.yaml")
    return (
        Step("world", (("-m", "dataset_prep.tiny_world.write_files"),), (DATA / "manifest.json",)),
        Step("language and encoders", (language, encoders), examined),
        stage1,
        stage2,
        Step("evaluation", (evaluate,), (RUNS / "eval" / "metrics.json",), reads=stage2.makes),
    )


REPORT = ("-m", "chatbridge", "report", "--root", str(RUNS))


def run_side_by_side(commands: Sequence[Sequence[str]]) -> int:
    """Run commands at once with the cores shared among them; returns the first exit code that is not 0.

    A SIGTERM goes to the commands, which save and leave: left alone they would train beside the next quickstart.
    """
    environment = dict(os.environ)
    if len(commands) > 1:  # threads that wait for each other's cores cost more than they bring
        environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // len(commands)))
    running: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, frame: object) -> None:
        for process in running:
            process.send_signal(number)

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        for command in commands:
            print("$ python", *command, flush=True)
            running.append(subprocess.Popen([sys.executable, *command], env=environment))
        codes = [process.wait() for process in running]
    except KeyboardInterrupt:
        codes = [process.wait() for process in running]
    finally:
        signal.signal(signal.SIGTERM, before)
    return next((code for code in codes if code), 0)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(arguments)
    RUNS.mkdir(parents=True, exist_ok=True)
    times: dict[str, float] = json.loads(TIMES.read_text()) if TIMES.exists() else {}
    for step in steps():
        if step.is_done:
            print(f"== {step.name}: is there already ({', '.join(map(str, step.makes))})", flush=True)
            continue
        print(f"== {step.name}", flush=True)
        started = time.monotonic()
        if code := run_side_by_side(step.commands):
            print(f"quickstart stopped: {step.name} ended with code {code}; the same command goes on", file=sys.stderr)
            return code
        times[step.name] = round(time.monotonic() - started, 1)
        replace_text(TIMES, json.dumps(times, indent=1))
    print("== report", flush=True)
    return run_side_by_side([REPORT])


if __name__ == "__main__":
    sys.exit(main())
