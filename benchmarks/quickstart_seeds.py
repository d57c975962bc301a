"""Run the quickstart with several seeds and vector instruction sets; print a table and write it as JSON.

    python benchmarks/quickstart_seeds.py --folder runs/seeds                  # five seeds, two instruction sets
    python benchmarks/quickstart_seeds.py --folder runs/seeds --runs usual default  # some of the runs

Each run has its own folder and a copy of the code. Interrupted runs resume; finished runs are only read. `usual` stands
for the default seeds, a number for `quickstart --seed`; `default` and `avx2` are the default seeds with that
ATEN_CPU_CAPABILITY, which makes torch round as on different processors.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chatbridge.common.safe_files import replace_text
from dataset_prep.tiny_world.quickstart import targets

CODE = ("chatbridge", "dataset_prep", "configs", "train_configs", "eval_configs", "train.py")
CAPABILITIES = ("default", "avx2")
RUNS = ("usual", "1", "2", "3", "4", *CAPABILITIES)
ROOT = Path(__file__).parents[1]
TARGETS = targets(ROOT / "eval_configs/tiny_eval.yaml")
MEASURED, RESULTS = "measured.json", "runs/tiny/results.json"


def start(folder: Path, run: str) -> subprocess.Popen[bytes]:
    """A process that runs the quickstart in `folder` and writes its time there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in CODE:
        source, target = ROOT / name, folder / name
        if source.is_dir() and not target.exists():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        elif not target.exists():
            shutil.copy(source, target)
    log = (folder / "log.txt").open("ab")
    return subprocess.Popen([sys.executable, __file__, "--one", run], cwd=folder, stdout=log, stderr=log)


def run_one(run: str) -> int:
    """Run the quickstart in the current folder; its seconds are added to those of earlier, interrupted runs."""
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    options = () if run in ("usual", *CAPABILITIES) else ("--seed", run)
    if run in CAPABILITIES:
        environment["ATEN_CPU_CAPABILITY"] = run
    command = [sys.executable, "-m", "dataset_prep.tiny_world.quickstart", *options]
    started = time.monotonic()
    code = subprocess.run(command, env=environment, check=False).returncode
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    path = Path(MEASURED)
    before = json.loads(path.read_text()) if path.exists() else {}
    now = {"wall_s": time.monotonic() - started, "cpu_s": used.ru_utime + used.ru_stime}
    replace_text(path, json.dumps({name: round(before.get(name, 0) + value, 1) for name, value in now.items()}))
    return code


def run_all(folder: Path, runs: Sequence[str], at_once: int) -> None:
    waiting = [run for run in runs if not (folder / run / RESULTS).exists()]
    running: dict[str, subprocess.Popen[bytes]] = {}
    while waiting or running:
        while waiting and len(running) < at_once:
            running[waiting[0]] = start(folder / waiting[0], waiting[0])
            print(f"started {waiting.pop(0)}", flush=True)
        time.sleep(1)
        for run, process in list(running.items()):
            if process.poll() is not None:
                print(f"ended {run}, code {running.pop(run).returncode}", flush=True)


def read(folder: Path, runs: Sequence[str]) -> dict[str, dict[str, Any]]:
    """run -> "group label" -> score, with "wall_s" and "cpu_s", of the finished runs."""
    found = {}
    for run in runs:
        path = folder / run / RESULTS
        if path.exists():
            results, measured = json.loads(path.read_text()), folder / run / MEASURED
            scores = {f"{group} {label}": results[group][label] for group in TARGETS for label in TARGETS[group]}
            found[run] = {**scores, **(json.loads(measured.read_text()) if measured.exists() else {})}
    return found


def table(found: Mapping[str, Mapping[str, float]]) -> str:
    """A Markdown table: a line per score with its target, median and range, and a column per run."""
    lines = ["| | target | median | range | " + " | ".join(found) + " |", "|---" * (4 + len(found)) + "|"]
    for group, labels in TARGETS.items():
        for label, target in labels.items():
            values = [scores[f"{group} {label}"] for scores in found.values()]
            spread = f"{min(values):.1%} to {max(values):.1%}"
            cells = [f"{value:.1%}" + ("" if value >= target else " (missed)") for value in values]
            middle = f"{statistics.median(values):.1%}"
            lines.append(f"| {group} {label} | {target:.0%} | {middle} | {spread} | " + " | ".join(cells) + " |")
    for name, text in (("wall_s", "wall clock, s"), ("cpu_s", "processor time of all processes, s")):
        values = [scores[name] for scores in found.values() if name in scores]
        if values:
            cells = [f"{scores[name]:.0f}" if name in scores else "" for scores in found.values()]
            spread = f"{min(values):.0f} to {max(values):.0f}"
            lines.append(f"| {text} | | {statistics.median(values):.0f} | {spread} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/seeds"), help="the folders of the runs are created in it"
    )
    parser.add_argument("--runs", nargs="+", default=RUNS, help="usual, default, avx2 or a number (default: all seven)")
    parser.add_argument(
        "--at-once", type=int, default=1, help="runs at the same time; above 1 the wall clock times are not comparable"
    )
    parser.add_argument("--only-read", action="store_true", help="start no runs")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        return run_one(asked.one)
    folder = asked.folder.resolve()
    if not asked.only_read:
        run_all(folder, asked.runs, asked.at_once)
    found = read(folder, asked.runs)
    if not found:
        print(f"{folder}: no finished run; see {folder}/*/log.txt for the reasons", file=sys.stderr)
        return 1
    replace_text(folder / "seeds.json", json.dumps(found, indent=1))
    print(table(found), f"\nnumbers: {folder / 'seeds.json'}", sep="\n")
    is_met = all(
        scores[f"{g} {n}"] >= target for scores in found.values() for g in TARGETS for n, target in TARGETS[g].items()
    )
    return 0 if is_met and len(found) == len(asked.runs) else 1


if __name__ == "__main__":
    sys.exit(main())
