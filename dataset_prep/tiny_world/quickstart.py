"""Prepare the tiny world, train both stages, evaluate, and write the report; finished steps are reused.

Every step is a command that is printed before it runs; this script runs the commands in order and measures their time.
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
from chatbridge.report.run_files import read_task_nodes
from chatbridge.report.runs import TaskRun

DATA, RUNS, EVALUATION = Path("data/tiny"), Path("runs/tiny"), Path("eval_configs/tiny_eval.yaml")
TIMES, SEED = RUNS / "wall_s.json", RUNS / "seed.json"
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


def preparing(name: str, makes: Path, *options: str) -> Command:
    return Command(("-m", f"dataset_prep.tiny_world.{name}", *options), (DATA / makes,))


def training(config: str, seed: int | None) -> Command:
    """A stage of training; done when the checkpoint of its last step exists."""
    run = OmegaConf.load(config).run
    checkpoint = Path(run.output_dir) / "checkpoints" / f"step_{run.max_steps:06d}"
    options = () if seed is None else ("--options", f"run.seed={seed}")
    return Command(("train.py", "--cfg-path", config, *options), (checkpoint / "manifest.json",))


def steps(seed: int | None = None) -> tuple[Step, ...]:
    """The steps of the quickstart.

    seed   of the language model, the encoders and both stages; None: the default seeds. The data do not depend on it
    """
    seeded = () if seed is None else ("--seed", str(seed))
    prepare = (
        preparing("train_language", Path("language/examination.json"), *seeded),
        preparing("train_encoders", Path("encoders/audio_examination.json"), "--only", "audio", *seeded),
        preparing("train_encoders", Path("encoders/vision_examination.json"), "--only", "vision", *seeded),
        preparing("write_files", Path("manifest.json")),
    )
    stage1 = training("train_configs/tiny_pretrain.yaml", seed)
    stage2 = training("train_configs/tiny_instruct.yaml", seed)
    evaluate = ("-m", "chatbridge", "evaluate", "--cfg-path", str(EVALUATION))
    return (
        Step("world, language and encoders", prepare),
        Step("stage 1", (stage1,)),
        Step("stage 2", (stage2,)),
        Step("evaluation", (Command(evaluate, (RUNS / "eval" / "metrics.json",), reads=stage2.makes),)),
    )


REPORT = ("-m", "chatbridge", "report", "--root", str(RUNS))


def targets(evaluation: Path = EVALUATION) -> dict[str, dict[str, float]]:
    """group -> label -> target score, as results.json names the scores."""
    found: dict[str, dict[str, float]] = {}
    for name, node in read_task_nodes(evaluation).items():
        task = TaskRun(name, node, {}, ())
        if task.target is not None and not task.dropped:
            found.setdefault(task.group, {})[task.label] = task.target
    return found


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


def other_seed(seed: int | None) -> str:
    """The problem if the folders hold results of a different seed; "" if there is none."""
    found = json.loads(SEED.read_text())["seed"] if SEED.exists() else None
    if found == seed or not (SEED.exists() or RUNS.exists()):
        return ""
    names = ["the default seeds" if value is None else f"seed {value}" for value in (found, seed)]
    return (
        f"{RUNS} and {DATA} hold results of {names[0]}, but this run uses {names[1]}; "
        f"move or remove both folders, or run the quickstart with {names[0]}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seed",
        type=int,
        help="seed of language model, encoders and both stages (default: 7 for the first two, 42 for the stages)",
    )
    seed = parser.parse_args(arguments).seed
    if problem := other_seed(seed):
        print(f"quickstart: {problem}", file=sys.stderr)
        return 2
    RUNS.mkdir(parents=True, exist_ok=True)
    replace_text(SEED, json.dumps({"seed": seed}))
    times: dict[str, float] = json.loads(TIMES.read_text()) if TIMES.exists() else {}
    for step in steps(seed):
        if not step.open_commands:
            print(f"== {step.name}: already done", flush=True)
            continue
        print(f"== {step.name}", flush=True)
        started = time.monotonic()
        if code := run_side_by_side([command.arguments for command in step.open_commands]):
            print(f"quickstart: {step.name} ended with code {code}; run the same command to resume", file=sys.stderr)
            return code
        times[step.name] = round(time.monotonic() - started, 1)
        replace_text(TIMES, json.dumps(times, indent=1))
    print("== report", flush=True)
    return run_side_by_side([REPORT])


if __name__ == "__main__":
    sys.exit(main())
