"""Reports training progress: a progress bar, a log line per N steps, TensorBoard curves and metrics.jsonl."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from chatbridge.common.dist import Dist
from chatbridge.common.log import get_logger
from chatbridge.common.safe_files import append_lines
from chatbridge.common.types import Batch, LossSum

T = TypeVar("T")
log = get_logger(__name__)


@dataclass(frozen=True)
class StepResult:
    """One finished step. loss, grad_norm, supervised and lr are over all ranks; batches and losses are of this one."""

    step: int  # number of finished steps, including this one
    loss: float  # summed over all ranks, divided by `supervised`: nats per supervised token
    grad_norm: float  # before clipping
    lr: float
    supervised: int
    batches: list[Batch]
    losses: list[LossSum]


@dataclass
class Window:
    """Sums since the last log line, on this rank."""

    loss: dict[str, float] = field(default_factory=dict)  # source -> summed loss
    count: dict[str, int] = field(default_factory=dict)  # source -> supervised tokens
    tokens: int = 0  # positions without padding, media included
    cut: int = 0  # conversations that were too long and lost turns
    empty: int = 0  # answers without text, which are not supervised
    failures: int = 0
    without_sound: int = 0  # conversations whose text mentions a missing audio track of a video

    def add(self, result: StepResult) -> None:
        """Add one step."""
        for loss in result.losses:
            for source, (total, count) in loss.per_source.items():
                self.loss[source] = self.loss.get(source, 0.0) + float(total)
                self.count[source] = self.count.get(source, 0) + count
        for batch in result.batches:
            self.tokens += int(batch.lengths.sum())
            self.cut += batch.num_cut
            self.empty += batch.num_empty
            self.failures += sum(failure.counts for failure in batch.failures)
            self.without_sound += sum(failure.kind == "without sound" for failure in batch.failures)

    def merge(self, other: Window) -> None:
        """Add the sums of another rank."""
        for source, total in other.loss.items():
            self.loss[source] = self.loss.get(source, 0.0) + total
            self.count[source] = self.count.get(source, 0) + other.count[source]
        self.tokens += other.tokens
        self.cut += other.cut
        self.empty += other.empty
        self.failures += other.failures
        self.without_sound += other.without_sound


class Progress:
    """Collects step results and reports them. Only rank 0 writes; every rank calls every method.

    folder     run folder
    last_step  of the progress bar
    log_every  steps per line
    """

    def __init__(self, folder: Path, last_step: int, log_every: int, dist: Dist) -> None:
        self.folder = folder
        self.last_step = last_step
        self.log_every = log_every
        self.dist = dist
        self.window = Window()
        self.steps = 0  # in the window
        self.loss_sum, self.supervised = 0.0, 0
        self.wait_s, self.started_at = 0.0, time.monotonic()
        self.bar: Any = None
        self.board: Any = None

    def open(self, step: int) -> Progress:
        """Start the progress bar at a step; returns a context manager that closes everything."""
        self.started_at = time.monotonic()
        if self.dist.is_main:
            self.board = _board(self.folder / "tensorboard", step)
            self.bar = _bar(step, self.last_step)
        return self

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *problem: object) -> None:
        for part in (self.bar, self.board):
            if part is not None:
                part.close()
        self.bar = self.board = None

    def waiting(self, items: Iterable[T]) -> Iterator[T]:
        """The same items; measures the time spent waiting for them."""
        before = time.monotonic()
        for item in items:
            self.wait_s += time.monotonic() - before
            yield item
            before = time.monotonic()

    def update(self, result: StepResult) -> None:
        """Add one step; write a line every log_every steps and after the last one."""
        self.window.add(result)
        self.steps += 1
        self.loss_sum += result.loss * result.supervised
        self.supervised += result.supervised
        if result.step % self.log_every == 0 or result.step == self.last_step:
            self._write(result)
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {result.loss:.3f}", refresh=False)
            self.bar.update(1)

    def event(self, step: int, values: Mapping[str, float]) -> None:
        """Add values that not every step has, for example evaluation results, to curves of their own."""
        for name, value in values.items():
            self._curve(name, value, step)

    def _write(self, result: StepResult) -> None:
        windows = self.dist.gather(self.window)
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
        self.loss_sum, self.supervised = 0.0, 0
        self.wait_s, self.started_at = 0.0, time.monotonic()

    def _record(self, result: StepResult) -> dict[str, Any]:
        seconds = max(time.monotonic() - self.started_at, 1e-9)
        window = self.window
        return {
            "step": result.step,
            "loss": self.loss_sum / max(self.supervised, 1),
            "per_source": {name: window.loss[name] / max(window.count[name], 1) for name in sorted(window.loss)},
            "lr": result.lr,
            "grad_norm": result.grad_norm,
            "supervised": self.supervised,
            "tokens": window.tokens,
            "tokens_per_s": window.tokens / seconds,
            "wait_share": self.wait_s / seconds,
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
        for name in ("loss", "lr", "grad_norm", "tokens_per_s", "wait_share"):
            self._curve(name, record[name], record["step"])
        for source, loss in record["per_source"].items():
            self._curve(f"loss/{source}", loss, record["step"])

    def _curve(self, name: str, value: float, step: int) -> None:
        if self.board is not None:
            self.board.add_scalar(name, value, step)


def line(record: Mapping[str, Any], last_step: int) -> str:
    """The log line of one record of metrics.jsonl."""
    sources = ", ".join(f"{name} {loss:.3f}" for name, loss in record["per_source"].items())
    parts = [
        f"step {record['step']}/{last_step}",
        f"loss {record['loss']:.4f}" + (f" ({sources})" if sources else ""),
        f"lr {record['lr']:.2e}",
        f"norm {record['grad_norm']:.3g}",
        f"{short(record['tokens_per_s'])} tok/s",
        f"data {record['wait_share']:.0%}",
        f"left {clock(record['left_s'])}",
    ]
    counts = ("cut", "empty_answers", "failures", "without_sound")
    parts += [f"{record[name]} {name.replace('_', ' ')}" for name in counts if record.get(name)]
    return "  ".join(parts)


def short(number: float) -> str:
    """1234567 -> 1.2M"""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}{letter}"
    return f"{number:.0f}"


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
