"""Run folders in one table: how far each is, and how well it does. Folders of evaluations are left out.

A folder may come from a crash, another version or another person: what cannot be read is told in its row.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from chatbridge.common.errors import DataError, nearest
from chatbridge.common.revision import revision_text
from chatbridge.common.safe_files import read_json_lines
from chatbridge.runners.config import BestConfig
from chatbridge.runners.run_card import CARD, read_card
from chatbridge.runners.run_figures import best_score, run_figures
from chatbridge.runners.run_folder import HELD_OUT, METRICS, RESOLVED, SCORES, is_in_use

MARKS = (RESOLVED, METRICS, CARD, "checkpoints")  # one of them makes a folder a run
DEEPEST = 3  # folders below the given one in which runs are looked for
STATES = ("finished", "stopped", "failed")


@dataclass(frozen=True)
class ListedRun:
    """One run folder as far as it can be read.

    state     running, finished, stopped, failed or killed; "?" if it is not known
    problems  why something of it could not be read
    """

    name: str
    folder: Path
    state: str = "?"
    max_steps: int | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)
    best: Mapping[str, Any] | None = None
    revision: str = ""
    began: float = 0.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    records: tuple[Mapping[str, Any], ...] = ()
    scores: tuple[Mapping[str, Any], ...] = ()
    problems: tuple[str, ...] = ()

    def cells(self) -> dict[str, str]:
        """heading -> text of the table"""
        figures, best = self.figures, self.best
        of = f"/{self.max_steps:,}" if self.max_steps else ""
        return {
            "run": self.name,
            "state": self.state,
            "steps": f"{figures['step']:,}{of}" if figures else f"0{of}",
            "loss": f"{figures['loss']:.4f}" if figures else "",
            "best": f"{best['value']:.4f} {best['metric']} @{best['step']}" if best else "",
            "samples/s": f"{figures['samples_per_s']:,.1f}" if figures.get("samples_per_s") else "",
            "hours": f"{figures['hours']:.2f}" if figures else "",
            "revision": self.revision,
        }


def list_runs(folders: Sequence[Path]) -> list[ListedRun]:
    """The runs in these folders, by the time at which they began.

    raises   DataError when a folder does not exist, or none of them has a run
    """
    found = list(dict.fromkeys(run for folder in folders for run in _runs_in(folder)))
    if not found:
        listed = ", ".join(map(str, folders))
        if any(map(is_evaluation, folders)):
            raise DataError(f"{listed}: results of evaluations, no training run; name the folder of a training")
        raise DataError(f"there is no run in {listed}: no folder with {', '.join(MARKS[:-1])} or {MARKS[-1]}")
    return sorted((_read(run, _name(run, found)) for run in found), key=lambda run: run.began)


def is_evaluation(folder: Path) -> bool:
    """Whether a folder has the settings or results of `chatbridge evaluate`, and nothing that a training writes."""
    if any((folder / mark).exists() for mark in MARKS if mark != RESOLVED) or not (folder / RESOLVED).is_file():
        return False
    settings = _settings(folder, [])
    return (folder / "metrics.json").is_file() or ("evaluation" in settings and "data" not in settings)


def _runs_in(folder: Path, depth: int = 0) -> Iterator[Path]:
    if not folder.is_dir():
        if depth:
            return
        if folder.exists():
            raise DataError(f"{folder} is a file; name a run folder, or a folder that holds run folders")
        beside = [path.name for path in folder.absolute().parent.iterdir()] if folder.absolute().parent.is_dir() else []
        close = nearest(folder.name, beside)
        hint = (
            f"did you mean {folder.parent / close}?"
            if close
            else "name a run folder (run.output_dir), or one that holds some"
        )
        raise DataError(f"there is no folder {folder}; {hint}")
    if any((folder / mark).exists() for mark in MARKS):
        if not is_evaluation(folder):
            yield folder
    elif depth < DEEPEST:
        try:
            below = sorted(folder.iterdir())
        except OSError:
            return
        for path in below:
            if not path.name.startswith((".", "previous-")):
                yield from _runs_in(path, depth + 1)


def _name(run: Path, runs: Sequence[Path]) -> str:
    """The shortest end of the path that no other run has."""
    parts = run.absolute().parts
    for length in range(1, len(parts) + 1):
        if all(other.absolute().parts[-length:] != parts[-length:] for other in runs if other != run):
            return "/".join(parts[-length:])
    return str(run)


def _read(folder: Path, name: str) -> ListedRun:
    """A run; whatever its files hold, this returns."""
    problems: list[str] = []
    settings = _settings(folder, problems)
    run = settings.get("run")
    run = run if isinstance(run, Mapping) else {}
    card = read_card(folder)
    if not card and (folder / CARD).exists():
        problems.append(f"{CARD} cannot be read")
    max_steps = run.get("max_steps")
    records = _records(folder / METRICS, problems)
    figures = _figures(folder, problems)
    return ListedRun(
        name,
        folder,
        _state(folder, card, figures.get("step"), max_steps),
        max_steps if isinstance(max_steps, int) else None,
        figures,
        _best(folder, run, problems),
        _revision(card),
        _began(folder),
        settings,
        tuple(record for record in records if isinstance(record.get("loss"), int | float)),
        tuple(line for line in _records(folder / SCORES, problems) if HELD_OUT not in line),
        tuple(dict.fromkeys(problems)),
    )


def _settings(folder: Path, problems: list[str]) -> Mapping[str, Any]:
    try:
        found = yaml.safe_load((folder / RESOLVED).read_text(encoding="utf-8"))
    except FileNotFoundError:
        problems.append(f"has no {RESOLVED}: it ended before its first step, or is of another program")
        return {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        problems.append(f"{RESOLVED} cannot be read: {str(error).partition(chr(10))[0]}")
        return {}
    if not isinstance(found, dict):
        problems.append(f"{RESOLVED} holds no settings")
        return {}
    return found


def _records(path: Path, problems: list[str]) -> tuple[Mapping[str, Any], ...]:
    try:
        found = read_json_lines(path)
    except FileNotFoundError:
        return ()
    except OSError as error:
        problems.append(f"{path.name} cannot be read: {error.strerror}")
        return ()
    if found.torn:
        problems.append(f"{path.name}: {found.note}")
    return tuple(record for record in found.records if isinstance(record.get("step"), int))


def _figures(folder: Path, problems: list[str]) -> Mapping[str, Any]:
    try:
        found = run_figures(folder)
    except (OSError, ValueError, TypeError, OverflowError) as error:
        problems.append(f"{METRICS} has no figures: {error}")
        return {}
    return found if isinstance(found.get("step"), int) else {}


def _best(folder: Path, run: Mapping[str, Any], problems: list[str]) -> Mapping[str, Any] | None:
    """By the metric of run.best, or the validation loss."""
    chosen = run.get("best")
    chosen = chosen if isinstance(chosen, Mapping) else {}
    metric, mode = chosen.get("metric"), chosen.get("mode")
    best = BestConfig(
        metric=metric if isinstance(metric, str) else BestConfig.metric, mode=mode if mode in ("min", "max") else None
    )
    try:
        return best_score(folder, best)
    except OSError as error:
        problems.append(f"{SCORES} cannot be read: {error.strerror}")
        return None


def _state(folder: Path, card: Mapping[str, Any], step: Any, max_steps: Any) -> str:
    """Of the card; a run whose card says that it is running, but that no process holds, was killed."""
    if (known := card.get("state")) in STATES:
        return str(known)
    if is_in_use(folder):
        return "running"
    if known == "running":
        return "killed"
    return "finished" if step is not None and step == max_steps else "?"


def _revision(card: Mapping[str, Any]) -> str:
    code = card.get("code")
    if not isinstance(code, dict):
        return ""
    commit = str(code.get("commit") or "")[:10]
    return f"{commit}{'+' if code.get('is_dirty') else ''}" if commit else revision_text(code)


def _began(folder: Path) -> float:
    for name in (RESOLVED, METRICS, "."):
        try:
            return (folder / name).stat().st_mtime
        except OSError:
            continue
    return time.time()
