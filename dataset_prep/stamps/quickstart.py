"""Real weights without a model hub: fetch them, train both stages on the stamps, evaluate, and write the report.

Every step is a command that is printed before it runs; finished steps are reused. Takes 20 to 30 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from chatbridge.common.safe_files import replace_text
from dataset_prep.common.steps import Command, Step, run_side_by_side, run_steps, training

DATA, RUNS = Path("data/stamps"), Path("runs/stamps")
STAGE1, STAGE2 = "train_configs/stamps_stage1.yaml", "train_configs/stamps_stage2.yaml"
EVALUATION = "eval_configs/stamps_eval.yaml"
TIMES, SEED = RUNS / "wall_s.json", RUNS / "seed.json"
WEIGHTS = (
    "smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "efficientnet_lite0/model.safetensors",
    "whisper_tiny_en/model.safetensors",
)
REPORT = ("-m", "chatbridge", "report", "--root", str(RUNS))
FIGURES = ("-m", "dataset_prep.stamps.figures", str(RUNS / "eval"))


def steps(seed: int | None = None) -> tuple[Step, ...]:
    """The steps of the quickstart.

    seed   of both stages; None: the seed of their files. The data do not depend on it
    """
    fetch = Command(("-m", "dataset_prep.stamps.fetch"), tuple(DATA / "weights" / name for name in WEIGHTS))
    write = Command(("-m", "dataset_prep.stamps.write_files"), (DATA / "statistics.json",))
    stage1, stage2 = training(STAGE1, seed), training(STAGE2, seed)
    # A complete cache is seen within seconds, so this step is repeated until the training that reads it is done
    cache = Command(("-m", "chatbridge", "cache", STAGE2, "--options", "run.init_from=null"), stage2.makes)
    evaluate = Command(
        ("-m", "chatbridge", "evaluate", "--cfg-path", EVALUATION), (RUNS / "eval" / "metrics.json",), stage2.makes
    )
    return (
        Step("weights, pictures and sounds", (fetch,)),
        Step("record files", (write,)),
        Step("features of the frozen encoders", (cache,)),
        Step("stage 1", (stage1,)),
        Step("stage 2", (stage2,)),
        Step("evaluation", (evaluate,)),
    )


def other_seed(seed: int | None) -> str:
    """The problem if the runs are those of a different seed; "" if there is none."""
    try:
        found = json.loads(SEED.read_text())["seed"] if SEED.exists() else None
    except (ValueError, KeyError, TypeError):
        return f'{SEED} is damaged, expected {{"seed": 42}} or null; move or remove {RUNS}'
    if found == seed or not (SEED.exists() or RUNS.exists()):
        return ""
    names = ["the seed of the files" if value is None else f"seed {value}" for value in (found, seed)]
    return f"{RUNS} holds runs of {names[0]}, this is {names[1]}; move or remove the folder, or ask for {names[0]}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, help="seed of both stages (default: 42, which their files name)")
    seed = parser.parse_args(arguments).seed
    if problem := other_seed(seed):
        print(f"quickstart: {problem}", file=sys.stderr)
        return 2
    RUNS.mkdir(parents=True, exist_ok=True)
    replace_text(SEED, json.dumps({"seed": seed}))
    if code := run_steps(steps(seed), TIMES, run_side_by_side):
        return code
    print("== report", flush=True)
    if code := run_side_by_side([FIGURES, REPORT], at_once=1):
        return code
    print("talk to it: python demo.py --checkpoint runs/stamps/stage2", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
