"""The ranks of a run. One process without torchrun is a world of one; the same code runs in both."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar, overload

import torch
import torch.distributed as dist
from torch import Tensor

from chatbridge.common.errors import ConfigError, Problem

T = TypeVar("T")
Number = TypeVar("Number", int, float)
CPU = torch.device("cpu")
TIMEOUT = timedelta(minutes=30)  # one rank may evaluate or write a checkpoint while the others wait


@dataclass(frozen=True)
class Dist:
    """Who we are among the ranks, and what they do together. Every rank must make the same calls in the same order."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    device: torch.device = CPU

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @overload
    def sum(self, value: Number) -> Number: ...
    @overload
    def sum(self, value: Tensor) -> Tensor: ...
    def sum(self, value: Any) -> Any:
        """The sum over ranks: a number of the same type (exact for integers, double for floats) or a new tensor."""
        if isinstance(value, Tensor):
            total = value.detach().clone()
            self.add_up(total)
            return total
        total = torch.tensor(value, dtype=torch.int64 if isinstance(value, int) else torch.float64, device=self.device)
        self.add_up(total)
        return type(value)(total.item())

    def add_up(self, tensor: Tensor) -> None:
        """Replace a tensor on every rank by the sum over ranks, without a copy."""
        if self.world_size > 1:
            dist.all_reduce(tensor)

    def all_true(self, flag: bool) -> bool:
        """True when the flag is true on every rank."""
        return self.sum(int(not flag)) == 0

    def gather(self, value: T) -> list[T]:
        """The value of every rank, in the order of ranks, on every rank; anything that can be pickled."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.world_size > 1:
            self.all_true(True)


def start(device: Literal["auto", "cpu", "cuda"] = "auto", gpu_id: int | None = None) -> Dist:
    """Read torchrun's environment, take this rank's device and join the others (gloo on cpu, NCCL on cuda).

    gpu_id   which GPU of this machine a single process takes; None: the one of its rank. Without effect on a CPU, see
             `gpu_note`
    raises   ConfigError when CUDA is asked for and not there, a machine has more ranks than GPUs, or no such GPU
    """
    rank, world_size, local_rank = (int(os.environ.get(key, at)) for key, at in _TORCHRUN.items())
    _check_gpu(gpu_id, world_size)
    place = _device(device, local_rank if gpu_id is None else gpu_id)
    if world_size > 1 and not dist.is_initialized():
        _import_before_joining()
        if place.type == "cuda":
            dist.init_process_group("nccl", timeout=TIMEOUT, device_id=place)
        else:
            dist.init_process_group("gloo", timeout=TIMEOUT)
    return Dist(rank, world_size, local_rank, place)


def gpu_note(gpu_id: int | None, device: Literal["auto", "cpu", "cuda"] = "auto") -> str | None:
    """A line for people when `gpu_id` has no effect; None when there is nothing to say.

    raises   ConfigError when there is no such GPU
    """
    _check_gpu(gpu_id, int(os.environ.get("WORLD_SIZE", "1")))
    if gpu_id is None or (device != "cpu" and torch.cuda.is_available()):
        return None
    reason = "run.device is cpu" if device == "cpu" else "PyTorch finds no GPU on this machine"
    return f"--gpu-id {gpu_id} has no effect: {reason}; the model runs on the CPU"


def _check_gpu(gpu_id: int | None, world_size: int) -> None:
    """raises ConfigError for a GPU that is not there, and under torchrun, where each rank takes its own"""
    if gpu_id is None:
        return
    found = torch.cuda.device_count() if torch.cuda.is_available() else None
    problem = None
    if world_size > 1:
        hint = "leave --gpu-id out, and name the GPUs with CUDA_VISIBLE_DEVICES=0,1,..."
        problem = Problem("--gpu-id", "is for a single process; under torchrun every rank takes its own GPU", hint=hint)
    elif gpu_id < 0:
        problem = Problem("--gpu-id", f"is {gpu_id}; GPUs are numbered from 0")
    elif found is not None and gpu_id >= found:
        message = f"is {gpu_id}, but PyTorch finds {found} GPU{'s' if found != 1 else ''} on this machine"
        problem = Problem("--gpu-id", message, allowed=tuple(map(str, range(found))))
    if problem is not None:
        raise ConfigError([problem])


def stop() -> None:
    """Leave the group and end its threads; without one nothing happens."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _import_before_joining() -> None:
    """Import a module of torch that takes the group of the moment as the default of ten functions.

    The optimizer imports it. Behind `init_process_group` it would keep the group for ever: a thread of gloo then frees
    its last tensor while the interpreter exits, and a finished run ends in SIGABRT (6 of 37 short runs, torch 2.11).
    """
    import torch.distributed.nn.functional  # noqa: F401  # pyright: ignore[reportUnusedImport]


_TORCHRUN = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}


def _device(wanted: str, local_rank: int) -> torch.device:
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if local_rank >= found:
        message = f"rank {local_rank} of this machine needs a GPU, {found} found"
        hint = f"start {found} processes (--nproc-per-node {found})" if found else "set run.device to cpu or auto"
        raise ConfigError([Problem("run.device", message, hint=hint)])
    place = torch.device("cuda", local_rank)
    torch.cuda.set_device(place)
    return place
