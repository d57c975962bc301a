"""The figures of a whole run, from the lines that it wrote: a resume, a kill or another machine loses none of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chatbridge.common.safe_files import read_json_lines
from chatbridge.runners.best import is_restart
from chatbridge.runners.config import BestConfig
from chatbridge.runners.run_folder import METRICS, SCORES

COUNTS = ("cut", "empty_answers", "failures", "without_sound")


def run_figures(folder: Path) -> dict[str, Any]:
    """Steps, last loss, rates over all training time, shares, peak memory, hours and counts; {} before the first line.

    Lines that a crash tore, or that lack a figure (of an earlier version), do not count for that figure.
    """
    lines = [line for line in _lines(folder / METRICS) if isinstance(line.get("loss"), int | float)]
    if not lines:
        return {}
    busy = [(line, _number(line, "tokens") / rate) for line in lines if (rate := _number(line, "tokens_per_s"))]
    seconds = sum(one for _, one in busy)
    found: dict[str, Any] = {
        "step": lines[-1].get("step"),
        "loss": lines[-1]["loss"],
        "per_source": lines[-1].get("per_source", {}),
        "supervised": int(sum(_number(line, "supervised") for line in lines)),
        "tokens": int(sum(_number(line, "tokens") for line in lines)),
        "samples": int(sum(_number(line, "samples") for line in lines)),
        "hours": sum(_number(line, "seconds") for line in lines) / 3600,
        **{name: int(sum(_number(line, name) for line in lines)) for name in COUNTS},
    }
    if seconds:
        found |= {"tokens_per_s": found["tokens"] / seconds, "samples_per_s": found["samples"] / seconds}
    for name in ("mfu", "padding_share", "wait_share"):  # weighted by time
        known = [(_number(line, name), weight) for line, weight in busy if name in line]
        if weights := sum(weight for _, weight in known):
            found[name] = sum(value * weight for value, weight in known) / weights
    found["memory_bytes"] = int(max(_number(line, "memory_bytes") for line in lines))
    return found


def best_score(folder: Path, best: BestConfig) -> dict[str, Any] | None:
    """{metric, value, step} of the best score of a run so far; None without one."""
    found: dict[str, Any] | None = None
    for line in _lines(folder / SCORES):
        found = None if is_restart(line, best) else found
        value = line.get(best.metric)
        if not isinstance(value, int | float) or not math.isfinite(value):
            continue
        if found is None or best.is_better(value, found["value"]):
            found = {"metric": best.metric, "value": value, "step": line.get("step")}
    return found


def last_scores(folder: Path) -> dict[str, float]:
    """The newest value of every score of a run."""
    found: dict[str, float] = {}
    for line in _lines(folder / SCORES):
        found |= {name: value for name, value in line.items() if name != "step" and isinstance(value, int | float)}
    return found


def _lines(path: Path) -> Sequence[Mapping[str, Any]]:
    return read_json_lines(path).records if path.is_file() else ()


def _number(line: Mapping[str, Any], name: str) -> float:
    value = line.get(name)
    return float(value) if isinstance(value, int | float) else 0.0
