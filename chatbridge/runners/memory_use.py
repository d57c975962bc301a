"""How much memory a process uses on its device, and by which part of a training."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

GIB = 1024**3


@dataclass(frozen=True)
class MemoryUse:
    """Bytes on the device of one rank when an allocation failed.

    rest      activations, logits and buffers of operations: whatever is in none of the parts before
    missing   that could not be allocated; 0 if the error does not have it
    capacity  of the device, or the limit of the process
    reserved  of the device, held by torch's allocator and free: pieces too small to be used
    """

    weights: int
    gradients: int
    optimizer: int
    rest: int
    missing: int
    capacity: int
    reserved: int = 0

    @property
    def fixed(self) -> int:
        """What does not depend on the batch."""
        return self.weights + self.gradients + self.optimizer

    @property
    def needed(self) -> int:
        """The least that the step would have needed."""
        return self.fixed + self.rest + self.missing


def used_bytes(device: torch.device) -> int:
    """Bytes in use: tensors on a GPU, on a CPU the resident memory of the process (0 where it cannot be read)."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def capacity_bytes(device: torch.device) -> int:
    """Bytes of the GPU; of a CPU the memory of the machine, or the limit of the process if it is lower."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    import resource  # not on Windows

    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return machine if limit == resource.RLIM_INFINITY else min(machine, limit)


def memory_use(
    model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device, used: int, missing: int
) -> MemoryUse:
    """The parts of `used` bytes; of sharded tensors those of this rank."""
    parameters = list(model.parameters())
    weights = _bytes(parameters) + _bytes(model.buffers())
    gradients = _bytes(p.grad for p in parameters if p.grad is not None)
    moments = _bytes(value for state in optimizer.state.values() for value in state.values() if _is_on(value, device))
    reserved = torch.cuda.memory_reserved(device) - used if device.type == "cuda" else 0
    rest = max(used - weights - gradients - moments, 0)
    return MemoryUse(weights, gradients, moments, rest, missing, capacity_bytes(device), max(reserved, 0))


def gib(count: float) -> str:
    """Bytes as text, in GiB, or MiB below one."""
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / 2**20:.1f} MiB"


def _is_on(value: object, device: torch.device) -> bool:
    return isinstance(value, Tensor) and value.device.type == device.type


def _bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages of tensors, each counted once."""
    locals_ = [getattr(tensor, "_local_tensor", tensor) for tensor in tensors]
    return sum({id(one): one.numel() * one.element_size() for one in locals_}.values())
