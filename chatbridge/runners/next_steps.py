"""The last lines of a training: which checkpoints it left, and the commands that use them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from chatbridge.models.checkpoints import BEST, CHECKPOINTS, best_checkpoint, checkpoints
from chatbridge.runners.config import RunConfig


def next_steps(run: RunConfig, outcome: str, step: int, is_early: bool) -> str:
    """Lines for the log.

    outcome    finished or stopped, see Progress
    step       finished steps
    is_early   run.patience ended the run
    """
    folder = run.output_dir
    title = {"finished": "the run is finished"}.get(outcome, f"the run has stopped after step {step}")
    title = f"the run ended early, after step {step} (run.patience)" if is_early else title
    lines = [*_checkpoints(folder), *_train_on(run, outcome, is_early)]
    if outcome == "finished":
        chosen = folder / BEST if best_checkpoint(folder) is not None else folder
        model = f"run.init_from={chosen} run.model_from=checkpoint"  # with the template of the training
        lines += [
            ("report", f"chatbridge report {folder}"),
            ("evaluate", f"chatbridge evaluate --cfg-path <your evaluation>.yaml --options {model}"),
            ("demo", f"chatbridge demo --checkpoint {chosen}"),
        ]
    return "\n".join([title, *(f"    {name:<17} {text}" for name, text in lines)])


def _checkpoints(folder: Path) -> Iterator[tuple[str, str]]:
    if found := checkpoints(folder / CHECKPOINTS):
        yield "newest checkpoint", str(found[-1])
    if (best := best_checkpoint(folder)) is not None:
        yield "best checkpoint", f"{best}, as {folder / BEST}"


def _train_on(run: RunConfig, outcome: str, is_early: bool) -> Iterator[tuple[str, str]]:
    """How to continue; run.resume with a path would start from that path again."""
    again = "the same command" + (" without run.resume" if isinstance(run.resume, Path) else "")
    if is_early:
        yield "train on", f"{again}, with run.patience=null among its --options"
    elif outcome != "finished":
        ways = f"{again} with a later run.stop_at, or none" if run.stop_at == run.last_step else again
        yield "train on", ways
