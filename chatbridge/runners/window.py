"""What happened since the last log line: sums on each rank, added over ranks when the line is written.

Losses stay on the device while they are added, so a step never waits for it; they are read once per line.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from chatbridge.common.types import Batch, LossSum

LARGEST = ("wait_s", "memory_bytes")  # over ranks: a step takes as long as the rank that waits longest for its data


@dataclass
class Window:
    """Sums since the last log line, of one rank or, after `merge`, of several."""

    loss: dict[str, Tensor | float] = field(default_factory=dict)  # source -> summed loss, float64[] on the device
    count: dict[str, int] = field(default_factory=dict)  # source -> supervised tokens
    samples: int = 0  # conversations
    tokens: int = 0  # positions without padding, media included
    positions: int = 0  # with padding
    flops: float = 0.0  # of the model, forward and backward; 0: not counted, nan: some could not be
    cut: int = 0  # conversations that were too long and lost turns
    empty: int = 0  # answers without text, which are not supervised
    failures: int = 0
    without_sound: int = 0  # conversations whose text mentions a missing audio track of a video
    wait_s: float = 0.0  # waiting for data
    memory_bytes: int = 0  # peak, see `peak_memory`

    def add(self, batches: list[Batch], losses: list[LossSum]) -> None:
        """Add one step of this rank. Nothing is read from the device."""
        for loss in losses:
            for source, (total, count) in loss.per_source.items():
                self.loss[source] = self.loss.get(source, 0.0) + total.detach().double()
                self.count[source] = self.count.get(source, 0) + count
        for batch in batches:
            self.samples += len(batch.sources) or len(batch.ids)
            self.tokens += int(batch.lengths.sum())
            self.positions += batch.ids.numel()
            self.cut += batch.num_cut
            self.empty += batch.num_empty
            self.failures += sum(failure.counts for failure in batch.failures)
            self.without_sound += sum(failure.kind == "without sound" for failure in batch.failures)

    def read(self) -> Window:
        """The same window with losses as numbers: one transfer for all sources."""
        on_device = {name: total for name, total in self.loss.items() if isinstance(total, Tensor)}
        if on_device:
            self.loss |= dict(zip(on_device, torch.stack([*on_device.values()]).tolist(), strict=True))
        return self

    def merge(self, other: Window) -> None:
        """Add the sums of another rank; both have been read."""
        for source, total in other.loss.items():
            self.loss[source] = self.loss.get(source, 0.0) + total
            self.count[source] = self.count.get(source, 0) + other.count[source]
        for one in fields(self):
            if one.name not in ("loss", "count"):
                mine, theirs = getattr(self, one.name), getattr(other, one.name)
                setattr(self, one.name, max(mine, theirs) if one.name in LARGEST else mine + theirs)

    def per_source(self) -> dict[str, float]:
        """source -> mean loss per supervised token"""
        return {name: float(self.loss[name]) / max(self.count[name], 1) for name in sorted(self.loss)}

    def per_stream(self, stream_of: Mapping[str, str]) -> dict[str, float]:
        """stream -> mean loss per supervised token of its sources. stream_of: source -> its stream"""
        found: dict[str, tuple[float, int]] = {}
        for name in sorted(self.loss):
            total, count = found.get(stream_of[name], (0.0, 0))
            found[stream_of[name]] = total + float(self.loss[name]), count + self.count[name]
        return {stream: total / max(count, 1) for stream, (total, count) in found.items()}

    def figures(self, seconds: float, peak_flops: float | None) -> dict[str, Any]:
        """The speed of the window over so many seconds of training.

        peak_flops  FLOPs per second of all ranks together; None: unknown, and there is no MFU
        returns     rates per second, shares from 0 to 1, `memory_bytes` of the rank with the most
        """
        found: dict[str, Any] = {
            "samples": self.samples,
            "tokens": self.tokens,
            "tokens_per_s": self.tokens / seconds,
            "samples_per_s": self.samples / seconds,
            "padding_share": 1 - self.tokens / max(self.positions, 1),
            "wait_share": min(self.wait_s / seconds, 1.0),
            "memory_bytes": self.memory_bytes,
        }
        if peak_flops and self.flops > 0:  # not nan
            found["mfu"] = self.flops / seconds / peak_flops
        return found


def peak_memory(device: torch.device) -> int:
    """Bytes: on a GPU the most that tensors took since the last call, on a CPU the largest size of the process so far.

    Sources: torch.cuda.max_memory_allocated; getrusage(2), whose unit is kB on Linux and bytes on macOS.
    """
    if device.type == "cuda":
        most = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return most
    if sys.platform == "win32":  # has no getrusage
        return 0
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
