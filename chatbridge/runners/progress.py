"""Reports training progress: a progress bar, a log line per N steps, TensorBoard curves and metrics.jsonl."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from chatbridge.common.dist import Dist
from chatbridge.common.log import get_logger
from chatbridge.common.safe_files import append_lines
from chatbridge.common.types import Batch, LossSum
from chatbridge.runners.trackers.background import Background
from chatbridge.runners.window import Window, peak_memory

T = TypeVar("T")
CURVES = (
    "loss", "lr", "grad_norm", "tokens_per_s", "samples_per_s", "mfu", "padding_share", "wait_share", "memory_bytes",
)  # fmt: skip
log = get_logger(__name__)


@dataclass(frozen=True)
class StepResult:
    """One finished step. loss, grad_norm, supervised and lr are over all ranks; batches and losses are of this one."""

    step: int  # number of finished steps, including this one
    loss: float  # over all ranks, nats per supervised token; with streams the sum of their means, each times its weight
    grad_norm: float  # before clipping
    lr: float
    supervised: int
    batches: list[Batch]
    losses: list[LossSum]
    weight: int | None = None  # of the loss in a mean over steps; None: `supervised`


class Progress:
    """Collects step results and reports them. Only rank 0 writes; every rank calls every method.

    folder     run folder
    last_step  of the progress bar
    log_every  steps per line
    flops      FLOPs of the model for one batch, forward and backward; None: not counted, and lines have no MFU
    peak_flops FLOPs per second that one rank can compute at most; None: unknown
    trackers   further places for the curves, on rank 0
    stream_of  mix "joint": source -> its stream
    """

    def __init__(
        self,
        folder: Path,
        last_step: int,
        log_every: int,
        dist: Dist,
        flops: Callable[[Batch], float] | None = None,
        peak_flops: float | None = None,
        trackers: Sequence[Background] = (),
        stream_of: Mapping[str, str] | None = None,
    ) -> None:
        self.stream_of = dict(stream_of or {})
        self.folder = folder
        self.last_step = last_step
        self.log_every = log_every
        self.dist = dist
        self.flops = flops
        self.peak_flops = peak_flops * dist.world_size if peak_flops else None
        self.trackers = tuple(trackers)
        self.outcome = "finished"  # or stopped, if the run is to be resumed; failed after an error
        self.window = Window()
        self.steps = 0  # in the window
        self.loss_sum, self.loss_weight, self.supervised = 0.0, 0, 0
        self.started_at = time.monotonic()
        self.updated_at: float | None = None  # end of the last step
        self.aside_s = 0.0  # since the last line, between steps: checkpoints, validation, tasks
        self.bar: Any = None
        self.board: Any = None

    def open(self, step: int) -> Progress:
        """Start the progress bar at a step; returns a context manager that closes everything."""
        self.started_at = time.monotonic()
        if self.dist.is_main:
            self.board = _board(self.folder / "tensorboard", step)
            self.bar = _bar(step, self.last_step)
            for tracker in self.trackers:
                tracker.open()
        return self

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *problem: object) -> None:
        for part in (self.bar, self.board):
            if part is not None:
                part.close()
        self.bar = self.board = None
        if problem and problem[0] is not None:
            self.outcome = "failed"
        for tracker in self.trackers:
            tracker.close(self.outcome)

    def waiting(self, items: Iterable[T]) -> Iterator[T]:
        """The same items; measures the time spent waiting for them, and the time between steps that is not training."""
        before = time.monotonic()
        for item in items:
            self.window.wait_s += time.monotonic() - before
            yield item
            before = time.monotonic()
            self.aside_s += before - (self.updated_at or before)

    def update(self, result: StepResult) -> None:
        """Add one step; write a line every log_every steps and after the last one."""
        self.window.add(result.batches, result.losses)
        if self.flops is not None:
            self.window.flops += sum(map(self.flops, result.batches))
        self.steps += 1
        weight = result.supervised if result.weight is None else result.weight
        self.loss_sum += result.loss * weight
        self.loss_weight += weight
        self.supervised += result.supervised
        if result.step % self.log_every == 0 or result.step == self.last_step:
            self._write(result)
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {result.loss:.3f}", refresh=False)
            self.bar.update(1)
        self.updated_at = time.monotonic()

    def event(self, step: int, values: Mapping[str, float]) -> None:
        """Log values that not every step has, validation and task scores, and add them to curves of their own."""
        log.info("step %d  %s", step, "  ".join(f"{name} {value:.4f}" for name, value in values.items()))
        self._curves(values, step)

    def _write(self, result: StepResult) -> None:
        self.window.memory_bytes = peak_memory(self.dist.device)
        windows = self.dist.gather(self.window.read())
        if self.dist.is_main:
            for other in windows[1:]:
                self.window.merge(other)
            record = self._record(result)
            self._append(record)
            self._plot(record)
            log.info(line(record, self.last_step))
            if self.bar is not None:
                self.bar.set_description_str(f"{short(record['tokens_per_s'])} tok/s, data {record['wait_share']:.0%}")
        self.window, self.steps = Window(), 0
        self.loss_sum, self.loss_weight, self.supervised = 0.0, 0, 0
        self.aside_s, self.started_at = 0.0, time.monotonic()

    def _record(self, result: StepResult) -> dict[str, Any]:
        seconds = max(time.monotonic() - self.started_at, 1e-9)
        window = self.window
        return {
            "step": result.step,
            "loss": self.loss_sum / max(self.loss_weight, 1),
            **({"per_stream": window.per_stream(self.stream_of)} if self.stream_of else {}),
            "per_source": window.per_source(),
            "lr": result.lr,
            "grad_norm": result.grad_norm,
            "supervised": self.supervised,
            **window.figures(max(seconds - self.aside_s, 1e-9), self.peak_flops),
            "left_s": seconds / max(self.steps, 1) * (self.last_step - result.step),
            "seconds": seconds,
            "cut": window.cut,
            "empty_answers": window.empty,
            "failures": window.failures,
            "without_sound": window.without_sound,
        }

    def _append(self, record: Mapping[str, Any]) -> None:
        append_lines(self.folder / "metrics.jsonl", [json.dumps(record)])

    def _plot(self, record: Mapping[str, Any]) -> None:
        curves = {name: record[name] for name in CURVES if name in record}
        curves |= {f"loss/stream/{name}": loss for name, loss in record.get("per_stream", {}).items()}
        self._curves(curves | {f"loss/{name}": loss for name, loss in record["per_source"].items()}, record["step"])

    def _curves(self, values: Mapping[str, float], step: int) -> None:
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)
        for tracker in self.trackers:
            tracker.add(step, values)


def line(record: Mapping[str, Any], last_step: int) -> str:
    """The log line of one record of metrics.jsonl.

    mfu counts the operations of the model, forward and backward: those that activation checkpointing repeats are time,
    but not work, so they lower it.
    """
    groups = [record.get("per_stream", {}), record["per_source"]]
    listed = "; ".join(", ".join(f"{name} {loss:.3f}" for name, loss in group.items()) for group in groups if group)
    parts = [
        f"step {record['step']}/{last_step}",
        f"loss {record['loss']:.4f}" + (f" ({listed})" if listed else ""),
        f"lr {record['lr']:.2e}",
        f"norm {record['grad_norm']:.3g}",
        f"{short(record['tokens_per_s'])} tok/s",
        f"{short(record['samples_per_s'])} samples/s",
        *([f"mfu {record['mfu']:.1%}"] if "mfu" in record else []),
        f"padding {record['padding_share']:.0%}",
        f"data {record['wait_share']:.0%}",
        f"{record['memory_bytes'] / 1e9:.1f} GB",
        f"left {clock(record['left_s'])}",
    ]
    counts = ("cut", "empty_answers", "failures", "without_sound")
    parts += [f"{count} {_words(name, count)}" for name in counts if (count := record.get(name))]
    return "  ".join(parts)


def _words(name: str, count: int) -> str:
    """failures -> "failure" for one, "failures" for more; the other names likewise"""
    words = name.replace("_", " ")
    return {"failures": "failure", "empty answers": "empty answer"}.get(words, words) if count == 1 else words


def short(number: float) -> str:
    """1234567 -> 1.2M"""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}{letter}"
    return f"{number:.0f}" if number >= 10 or number == int(number) else f"{number:.1f}"


def clock(seconds: float) -> str:
    """3725 -> 1:02:05"""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _board(folder: Path, step: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)


def _bar(step: int, last_step: int) -> Any:
    """A progress bar in a terminal; None otherwise."""
    from tqdm import tqdm

    if not sys.stderr.isatty():
        return None
    return tqdm(initial=step, total=last_step, unit="step", dynamic_ncols=True, smoothing=0.05)
