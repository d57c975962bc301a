"""The rate against which MFU is measured: FLOPs per second that one rank can compute at most.

Of a GPU it is that of the data sheet for bf16 without sparsity; of a CPU it is measured, as products of two matrices
with the run's threads. MFU of a CPU is thus the share of what this machine computes at its best.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import lru_cache

import torch

from chatbridge.common.log import get_logger
from chatbridge.common.types import Batch
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.flops import BatchShape, StepFlops, total
from chatbridge.runners.gpus import gpu_of_device

log = get_logger(__name__)
SIZE, ROUNDS = 768, 5  # side of the matrices; the fastest of so many products counts


def peak_rate(device: torch.device, dtype: torch.dtype) -> float | None:
    """FLOPs per second; None where it is not known: a GPU that is not in the table, or fp32 on a GPU.

    dtype   of the products: the compute dtype of the run
    """
    if device.type == "cpu":
        return _matmul_rate(dtype, torch.get_num_threads())
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return None
    gpu = gpu_of_device(torch.cuda.get_device_name(device))
    return gpu.flops if gpu is not None else None


@lru_cache
def _matmul_rate(dtype: torch.dtype, _threads: int) -> float:
    """FLOPs per second of a product on the CPU."""
    make = torch.Generator().manual_seed(0)  # the global generator stays as it is
    a, b = (torch.rand(SIZE, SIZE, generator=make).to(dtype) for _ in range(2))
    fastest = float("inf")
    for _ in range(ROUNDS):
        before = time.perf_counter()
        torch.matmul(a, b)
        fastest = min(fastest, time.perf_counter() - before)
    return 2 * SIZE**3 / fastest


def batch_flops(model: ChatModel) -> Callable[[Batch], float]:
    """batch -> FLOPs of the model, forward and backward, without repeated ones; nan if a part cannot be counted.

    Call it before the model is sharded.
    """
    count = StepFlops(model)

    def counted(batch: Batch) -> float:
        try:
            with torch.compiler.set_stance("force_eager"):  # a count compiles nothing
                return total(count(BatchShape.of(batch, _pairs(batch)))).total
        except Exception as error:  # a part of a plugin that does not run on the meta device: no reason to end a run
            log.debug("the operations of a batch cannot be counted, so there is no MFU: %s", error)
            return math.nan

    return counted


def _pairs(batch: Batch) -> float | None:
    """Query-key pairs of packed rows: the sum of the squared lengths of their conversations. None: rows are whole"""
    if batch.segments is None:
        return None
    conversation = batch.segments.conversation  # int64[B, L], -1 for padding
    rows = torch.arange(len(conversation))[:, None] * (int(conversation.max()) + 1)
    lengths = torch.bincount((conversation + rows)[conversation >= 0])
    return float((lengths**2).sum())
