"""Every CPU benchmark in one go: `python -m benchmarks.suite [--list] [--only NAME ...] [--quick] [--repeats N]`.

Each benchmark is a process of its own; one that fails, or takes longer than its limit, does not end the others and is
reported. Raw figures go to benchmarks/out (NAME.json: every repeat, and the median, the least and the greatest of each
figure), and the section between the two marks of benchmarks/RESULTS.md is written again: machine, commit, date, and the
table that each benchmark prints. A benchmark that was not run keeps its table; text around the marks stays.

`--quick` runs smallest sizes, to see that everything works, and writes no table. The exit code is 1 if one failed. Run
it on a machine that does nothing else. Not here, with the reason: `LEFT_OUT`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from chatbridge.common.safe_files import replace_text

ROOT = Path(__file__).parents[1]
OUT, RESULTS = ROOT / "benchmarks/out", ROOT / "benchmarks/RESULTS.md"
BEGIN, END = "<!-- begin: make benchmarks -->", "<!-- end: make benchmarks -->"
CAPTIONS = ROOT.parent / "shared/reference/data/caps_boxes_coco2014_val_80.jsonl"
LEFT_OUT = {
    "quickstart_seeds": "seven whole quickstarts, over an hour: python benchmarks/quickstart_seeds.py",
    "quickstart_losses": "two whole quickstarts: python -m benchmarks.quickstart_losses",
    "serving_load": "the server under load shares the cores with its clients: python -m benchmarks.serving_load",
    "data_memory": "5,000 videos and 50,000 images: python benchmarks/data_memory.py",
    "gpu": "needs a GPU: sh benchmarks/gpu.sh",
}
ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Benchmark:
    """One script of this folder.

    arguments  of a whole run; quick: those that replace them
    limit_s    seconds after which its processes are ended
    has_json   whether it takes --json FILE
    needs      a file without which it is left out
    """

    name: str
    what: str
    arguments: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()
    limit_s: int = 240
    has_json: bool = True
    needs: Path | None = None


ALL = (
    Benchmark("startup", "seconds until a command works, and until a model is built",
              ("--rounds", "3"), ("--rounds", "1")),
    Benchmark("step", "a training step beside the reference's way and transformers' parts",
              ("--dtypes", "fp32", "--rows", "captions,video", "--steps", "4"),
              ("--tiny", "--rounds", "1", "--steps", "1"), 600),
    Benchmark("feature_cache", "a training step with cached features and without",
              ("--media", "image", "--rounds", "3"), ("--tiny", "--media", "image", "--rounds", "1")),
    Benchmark("padding", "padding of the published runs, and what grouping and packing save",
              ("--steps", "256", "--ranks", "1"),
              ("--steps", "128", "--ranks", "1", "--loader-steps", "0", "--samples", "100")),
    Benchmark("packed_attention", "attention of packed rows", ("--rounds", "3"), ("--rounds", "1", "--batch", "2")),
    Benchmark("data", "reading images and captions beside webdataset and LAVIS's way",
              ("--only", "pairs", "--rounds", "3", "--seconds", "3"),
              ("--only", "pairs", "--shards", "2", "--samples", "60", "--rounds", "1", "--seconds", "0.5")),
    Benchmark("data_video", "four frames of a video beside decord", ("--rounds", "10"), ("--rounds", "1"),
              has_json=False),
    Benchmark("load_memory", "memory of loading a sharded language model", ("--gigabytes", "1.5"),
              ("--gigabytes", "0.6", "--dtypes", "bfloat16"), has_json=False),
    Benchmark("generate", "the decode loop beside transformers' generate", (), ("--rounds", "1", "--new", "4")),
    Benchmark("decoding_speed", "tokens per second beside transformers' generate", ("--rounds", "2"),
              ("--sizes", "tiny", "--rounds", "1")),
    Benchmark("serving_cost", "first tokens and turns of a conversation", ("--rounds", "5"), ("--rounds", "1")),
    Benchmark("caption_metrics", "caption metrics beside pycocoevalcap",
              ("--captions", str(CAPTIONS), "--count", "2000"), ("--captions", str(CAPTIONS), "--count", "50"),
              has_json=False, needs=CAPTIONS),
)  # fmt: skip


@dataclass
class Outcome:
    """What became of one benchmark. reason: why there are no figures; "" if there are"""

    benchmark: Benchmark
    table: str = ""
    reason: str = ""
    seconds: float = 0.0
    figures: list[Any] = field(default_factory=list)  # the JSON of every repeat


def run(benchmark: Benchmark, out: Path, is_quick: bool, repeats: int) -> Outcome:
    """Run a benchmark `repeats` times and write out/NAME.json. Never raises for what the benchmark does."""
    outcome = Outcome(benchmark)
    if benchmark.needs is not None and not benchmark.needs.exists():
        outcome.reason = f"left out: {os.path.relpath(benchmark.needs, ROOT)} is not here"
        return outcome
    start = time.monotonic()
    for _ in range(repeats):
        outcome.reason = _once(benchmark, out, is_quick, outcome)
        if outcome.reason:
            break
    outcome.seconds = time.monotonic() - start
    content = {"name": benchmark.name, "reason": outcome.reason, "seconds": outcome.seconds, "machine": machine(),
               "repeats": outcome.figures, "spread": spreads(outcome.figures), "table": outcome.table}  # fmt: skip
    replace_text(out / f"{benchmark.name}.json", json.dumps(content, indent=1))
    return outcome


def _once(benchmark: Benchmark, out: Path, is_quick: bool, outcome: Outcome) -> str:
    """One process. Returns why it failed, "" if it did not."""
    raw = out / f".{benchmark.name}.raw.json"
    raw.unlink(missing_ok=True)
    arguments = benchmark.quick if is_quick else benchmark.arguments
    command = [sys.executable, f"benchmarks/{benchmark.name}.py", *arguments]
    command += ["--json", str(raw)] if benchmark.has_json else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    child = subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, start_new_session=True)  # fmt: skip
    try:
        printed, errors = child.communicate(timeout=benchmark.limit_s)
    except subprocess.TimeoutExpired:
        _end(child)
        return f"took longer than its limit of {benchmark.limit_s} s"
    except BaseException:  # Ctrl-C or SIGTERM: its workers are in a session of their own
        _end(child)
        raise
    outcome.table = ANSI.sub("", printed).strip()
    if raw.exists():
        outcome.figures.append(json.loads(raw.read_text(encoding="utf-8")))
        raw.unlink()
    elif not child.returncode:
        outcome.figures.append({"printed": outcome.table})
    last = next(reversed((errors.strip() or outcome.table).splitlines()), "no message")
    return f"ended with {child.returncode}: {last}" if child.returncode else ""


def _end(child: subprocess.Popen[str]) -> None:
    """End a benchmark with its workers."""
    os.killpg(child.pid, signal.SIGKILL)
    child.communicate()


def spreads(figures: Sequence[Any]) -> dict[str, dict[str, float]]:
    """Path of a figure -> its median, least and greatest value over the repeats that have it."""
    found: dict[str, list[float]] = {}
    for one in figures:
        for path, value in _numbers(one, ""):
            found.setdefault(path, []).append(value)
    return {path: {"median": statistics.median(own), "min": min(own), "max": max(own)} for path, own in found.items()}


def _numbers(value: Any, path: str) -> Iterator[tuple[str, float]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from _numbers(inner, f"{path}.{key}" if path else str(key))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield path, float(value)


def machine() -> str:
    """Date, processor, cores, memory, versions and commit in one line."""
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    kilobytes = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    found = subprocess.run(["git", "rev-parse", "--short=8", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    parts = [time.strftime("%d %B %Y").lstrip("0"), names[0] if names else platform.machine(),
             f"{os.cpu_count()} cores", f"{kilobytes / 2**20:.0f} GiB",
             *(f"{name} {version(name)}" for name in ("torch", "transformers")),
             f"Python {platform.python_version()}", f"commit {found.stdout.strip() or 'unknown'}"]  # fmt: skip
    return ", ".join(parts)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return []


def write_section(results: Path, outcomes: Sequence[Outcome], where: str) -> None:
    """Write the tables between the marks; blocks of benchmarks that were not run, and the text around, stay.

    raises   ValueError when only one of the marks is there, or they are in the wrong order
    """
    text = results.read_text(encoding="utf-8")
    if (text.count(BEGIN), text.count(END)) not in ((0, 0), (1, 1)) or text.find(BEGIN) > text.find(END):
        raise ValueError(f"{results} needs each of {BEGIN} and {END} once, in this order, or none of them")
    before, _, rest = text.partition(BEGIN)
    inside, _, after = rest.partition(END)
    blocks = dict(re.findall(r"^### (\w+)\n(.*?)(?=^### |\Z)", inside, re.MULTILINE | re.DOTALL))
    for one in outcomes:
        blocks[one.benchmark.name] = _block(one, where)
    ordered = [name for name in (one.name for one in ALL) if name in blocks]
    ordered += [name for name in blocks if name not in ordered]
    body = "\n".join(f"### {name}\n\n{blocks[name].strip()}\n" for name in ordered)
    if not rest:
        before = (
            f"{text.rstrip()}\n\n## All of them in one go\n\n`make benchmarks`: each table as its script prints it.\n\n"
        )
    replace_text(results, f"{before}{BEGIN}\n\n{body}\n{END}{after or chr(10)}")


def _block(one: Outcome, where: str) -> str:
    head = f"{one.benchmark.what[0].upper()}{one.benchmark.what[1:]}. {where}; {one.seconds:.0f} s"
    over = f", {len(one.figures)} repeats, the last one below" if len(one.figures) > 1 else ""
    if one.reason:
        return f"{head}. No figures: {one.reason}."
    fence = "````" if "```" in one.table else "```"
    return f"{head}{over}.\n\n{fence}text\n{one.table}\n{fence}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks. Returns the exit code."""
    names = tuple(one.name for one in ALL)
    parser = argparse.ArgumentParser(prog="benchmarks.suite", description="Run the CPU benchmarks one after the other.")
    parser.add_argument("--list", action="store_true", help="print their names and what they measure, and stop")
    parser.add_argument("--only", nargs="+", default=names, choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--quick", action="store_true", help="smallest sizes, no table: does everything work?")
    parser.add_argument(
        "--repeats", type=int, default=1, choices=range(1, 21), metavar="N", help="runs of each; default: 1"
    )
    parser.add_argument("--out", type=Path, default=OUT, metavar="FOLDER", help="raw figures; default: benchmarks/out")
    parser.add_argument(
        "--results", type=Path, metavar="FILE", help="page with the tables; default: benchmarks/RESULTS.md"
    )
    asked = parser.parse_args(arguments)
    if asked.list:
        print("\n".join([*(f"{one.name:<18}{one.what}" for one in ALL), "", "not here:",
                         *(f"{name:<18}{why}" for name, why in LEFT_OUT.items())]))  # fmt: skip
        return 0
    asked.out.mkdir(parents=True, exist_ok=True)
    where, outcomes = machine(), []
    for one in (one for one in ALL if one.name in asked.only):
        print(f"{one.name} ...", flush=True)
        outcomes.append(run(one, asked.out, asked.quick, asked.repeats))
        print(f"{one.name}: {outcomes[-1].reason or 'done'}, {outcomes[-1].seconds:.0f} s", flush=True)
    if not asked.quick:
        write_section(asked.results or RESULTS, outcomes, where)
    failed = [one for one in outcomes if one.reason and not one.reason.startswith("left out")]
    print(f"{len(outcomes) - len(failed)} of {len(outcomes)} ran; raw figures: {asked.out}")
    return 1 if failed else 0


def command(arguments: Sequence[str] | None = None) -> int:
    """`main` in a process of its own, which ends its benchmark when it is terminated."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return main(arguments)


if __name__ == "__main__":
    raise SystemExit(command())
