"""The ranks of a run. A single process without torchrun has world size 1; the same code runs in both cases."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar, overload

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from chatbridge.common.errors import ConfigError, Problem
from chatbridge.common.rendezvous import fresh_store, is_restartable

T = TypeVar("T")
Number = TypeVar("Number", int, float)
CPU = torch.device("cpu")
TIMEOUT = timedelta(minutes=30)  # one rank may write a checkpoint while the others wait


@dataclass(frozen=True)
class Dist:
    """This rank, and collective operations. Every rank must make the same calls in the same order."""

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
        """Return the sum over ranks: a number of the same type (integers are exact, floats double) or a new tensor."""
        if isinstance(value, Tensor):
            total = value.detach().clone()
            self.all_reduce(total)
            return total
        if self.world_size == 1:
            return value  # without waiting for the device
        total = torch.tensor(value, dtype=torch.int64 if isinstance(value, int) else torch.float64, device=self.device)
        self.all_reduce(total)
        return type(value)(total.item())

    def all_reduce(self, tensor: Tensor) -> None:
        """Replace a tensor on every rank by the sum over ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)

    def all_true(self, flag: bool) -> bool:
        """Return whether the flag is true on every rank."""
        return self.sum(int(not flag)) == 0

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks in rank order, on every rank; any picklable object."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait until every rank reaches this call."""
        if self.world_size > 1:
            self.all_true(True)


def start(device: Literal["auto", "cpu", "cuda"] = "auto", gpu_id: int | None = None) -> Dist:
    """Read torchrun's environment, select this rank's device and join the process group (gloo on cpu, NCCL on cuda).

    gpu_id   GPU of a single process; None: the one of its local rank. Has no effect on a CPU, see `gpu_note`
    raises   ConfigError if CUDA is requested but absent, a machine has more ranks than GPUs, or no such GPU
    """
    rank, world_size, local_rank = (int(os.environ.get(key, at)) for key, at in _TORCHRUN.items())
    _check_gpu(gpu_id, world_size)
    found = _device(device, local_rank if gpu_id is None else gpu_id)
    if world_size > 1 and not dist.is_initialized():
        _import_before_joining()
        where = _meeting(rank, world_size)
        if found.type == "cuda":
            dist.init_process_group("nccl", timeout=TIMEOUT, device_id=found, **where)
        else:
            dist.init_process_group("gloo", timeout=TIMEOUT, **where)
    return Dist(rank, world_size, local_rank, found)


def _meeting(rank: int, world_size: int) -> dict[str, Any]:
    """Arguments of `init_process_group`: where the ranks meet. Under torchrun, apart from ranks before a restart."""
    if not is_restartable():
        return {}  # MASTER_ADDR and MASTER_PORT
    store, _, _ = next(rendezvous("env://", rank, world_size, timeout=TIMEOUT))
    store.set_timeout(TIMEOUT)
    return {"store": fresh_store(store, rank, world_size, TIMEOUT), "rank": rank, "world_size": world_size}


def gpu_note(gpu_id: int | None, device: Literal["auto", "cpu", "cuda"] = "auto") -> str | None:
    """Return a note if `gpu_id` has no effect, else None.

    raises   ConfigError if there is no such GPU
    """
    _check_gpu(gpu_id, int(os.environ.get("WORLD_SIZE", "1")))
    if gpu_id is None or (device != "cpu" and torch.cuda.is_available()):
        return None
    reason = "run.device is cpu" if device == "cpu" else "PyTorch finds no GPU on this machine"
    return f"--gpu-id {gpu_id} has no effect: {reason}; the model runs on the CPU"


def _check_gpu(gpu_id: int | None, world_size: int) -> None:
    """Raise ConfigError for a GPU that does not exist, and under torchrun, where each rank takes its own."""
    if gpu_id is None:
        return
    found = torch.cuda.device_count() if torch.cuda.is_available() else None
    problem = None
    if world_size > 1:
        hint = "remove --gpu-id, and select GPUs with CUDA_VISIBLE_DEVICES=0,1,..."
        problem = Problem(
            "--gpu-id", "is only for a single process; under torchrun every rank takes its own GPU", hint=hint
        )
    elif gpu_id < 0:
        problem = Problem("--gpu-id", f"is {gpu_id}; GPUs are numbered from 0")
    elif found is not None and gpu_id >= found:
        message = f"is {gpu_id}, but PyTorch finds {found} GPU{'s' if found != 1 else ''} on this machine"
        problem = Problem("--gpu-id", message, allowed=tuple(map(str, range(found))))
    if problem is not None:
        raise ConfigError([problem])


def stop() -> None:
    """Leave the process group and end its threads, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _import_before_joining() -> None:
    """Import a module of torch that captures the current process group as a default argument of ten functions.

    The optimizer imports it. Imported after `init_process_group` it would keep the group alive until exit: a thread of
    gloo then frees its last tensor during interpreter shutdown, and a finished run ends in SIGABRT (6 of 37 short runs,
    torch 2.11).
    """
    import torch.distributed.nn.functional  # noqa: F401  # pyright: ignore[reportUnusedImport]


_TORCHRUN = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}


def device_of(wanted: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The kind of device that `start` would select, without selecting it."""
    return torch.device("cpu" if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()) else "cuda")


def _device(wanted: Literal["auto", "cpu", "cuda"], local_rank: int) -> torch.device:
    if device_of(wanted).type == "cpu":
        return torch.device("cpu")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if local_rank >= found:
        message = f"rank {local_rank} of this machine needs a GPU, {found} found"
        hint = f"start {found} processes (--nproc-per-node {found})" if found else "set run.device to cpu or auto"
        raise ConfigError([Problem("run.device", message, hint=hint)])
    found = torch.device("cuda", local_rank)
    torch.cuda.set_device(found)
    return found
