"""Prepare the tiny world, train both stages, evaluate, and write the report; finished steps are reused.

Every step is a command that is printed before it runs; this script runs the commands in order and measures their time.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from chatbridge.common.safe_files import replace_text
from chatbridge.report.run_files import read_task_nodes
from chatbridge.report.runs import TaskRun
from dataset_prep.common.steps import Command, Step, run_side_by_side, run_steps, training

DATA, RUNS, EVALUATION = Path("data/tiny"), Path("runs/tiny"), Path("eval_configs/tiny_eval.yaml")
TIMES, SEED = RUNS / "wall_s.json", RUNS / "seed.json"


def preparing(name: str, makes: Path, *options: str) -> Command:
    return Command(("-m", f"dataset_prep.tiny_world.{name}", *options), (DATA / makes,))


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
    if code := run_steps(steps(seed), TIMES, run_side_by_side):
        return code
    print("== report", flush=True)
    return run_side_by_side([REPORT])


if __name__ == "__main__":
    sys.exit(main())
