"""The card of a run: what ran, on what data, with what result. run_card.json for programs, run_card.md for people.

It is written when the run begins, after its first steps and when it ends, stops or fails, so a run that was killed has
one too. Figures come from metrics.jsonl and scores.jsonl, so they cover all launches of the run.

    data order         sha256 over the draws of the first and the last steps and the sizes of the sources: equal for two
                       runs that read the same conversations in the same order
    loss fingerprint   the losses of the first 20 steps, and sha256 over them to 6 digits
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from chatbridge.common.dist import Dist
from chatbridge.common.log import get_logger
from chatbridge.common.revision import revision
from chatbridge.common.safe_files import replace_text
from chatbridge.datasets.order.mixture import Mixture
from chatbridge.runners.config import RunConfig
from chatbridge.runners.progress import Progress, StepResult
from chatbridge.runners.run_card_text import card_text
from chatbridge.runners.run_figures import best_score, last_scores, run_figures
from chatbridge.runners.watchers import Watcher

log = get_logger(__name__)
CARD = "run_card.json"
STEPS = 20  # of the loss fingerprint, and at both ends of the data order
PACKAGES = ("torch", "transformers", "timm", "peft", "bitsandbytes", "numpy", "av", "decord", "torchcodec")


class RunCard(Watcher):
    """Writes the card of one run, on rank 0.

    settings   of the run, with references in place of the environment's values
    mixture    the order of its data; None: unknown
    """

    def __init__(self, run: RunConfig, settings: Mapping[str, Any], mixture: Mixture | None, dist: Dist) -> None:
        self.run = run
        self.settings = settings
        self.mixture = mixture
        self.dist = dist
        self.folder = run.output_dir
        self.losses: list[float] = []

    @contextmanager
    def kept(self, progress: Progress, step: int) -> Iterator[None]:
        """Write the card now and at the end of the context, where it has the outcome of the run.

        step   at which this launch begins; a resumed run keeps the losses of its first steps
        """
        if step:
            known = read_card(self.folder).get("first_losses", {}).get("losses", [])
            self.losses = [loss for loss in known if isinstance(loss, float)][: min(step, STEPS)]
        self._write("running", step)
        try:
            yield
        except BaseException:
            self._write("failed", step)
            raise
        self._write(progress.outcome, step)

    def step(self, result: StepResult) -> None:
        """Keep the losses of the first steps."""
        if len(self.losses) < STEPS and result.step == len(self.losses) + 1:
            self.losses.append(result.loss)
            if len(self.losses) == STEPS:
                self._write("running", 0)

    def _write(self, outcome: str, first_step: int) -> None:
        if not self.dist.is_main:
            return
        try:
            card = self._card(outcome)
            replace_text(self.folder / CARD, json.dumps(card, indent=1, default=str) + "\n")
            replace_text(self.folder / "run_card.md", card_text(card))
        except OSError as error:  # a full disk must not hide the error of the run
            log.warning("the run card could not be written: %s", error)

    def _card(self, outcome: str) -> dict[str, Any]:
        best = self.run.best_by
        return {
            "name": self.folder.name,
            "state": outcome,
            "code": revision(),
            "data": data_order(self.mixture, self.run.max_steps) if self.mixture is not None else None,
            "first_losses": {"losses": self.losses, "sha256": _digest(f"{loss:.6g}" for loss in self.losses)},
            "figures": run_figures(self.folder),
            "scores": last_scores(self.folder),
            "best": best_score(self.folder, best) if best is not None else None,
            "environment": environment(self.dist),
            "settings": self.settings,
        }


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a run folder; {} without one, or when it is damaged."""
    try:
        found = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def data_order(mixture: Mixture, steps: int) -> dict[str, Any]:
    """Sizes of the sources, held-out samples, and a hash of the first and the last draws of a run of so many steps."""
    ends = sorted({*range(min(STEPS, steps)), *range(max(steps - STEPS, 0), steps)})
    draws = (f"{step} {one.source} {one.index}" for step in ends for one in mixture.draws(step))
    sizes = [f"{name} {size}" for name, size in sorted(mixture.sizes.items())]
    held = {name: len(indices) for name, indices in mixture.held_out.items() if len(indices)}
    return {"sizes": dict(mixture.sizes), "held_out": held, "sha256": _digest([*sizes, *draws])}


def environment(dist: Dist) -> dict[str, Any]:
    """Python, packages, and the devices that computed; nothing about paths or names of the machine."""
    found: dict[str, Any] = {"python": platform.python_version(), "system": f"{sys.platform} {platform.machine()}"}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    device = torch.cuda.get_device_name(dist.device) if dist.device.type == "cuda" else "cpu"
    return {**found, "cuda": torch.version.cuda, "device": device, "ranks": dist.world_size,
            "threads": torch.get_num_threads()}  # fmt: skip


def _digest(lines: Iterator[str] | list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
