"""A hash of every value of a model, by component: what an evaluation was made with, wherever its files are.

Unlike the fingerprints of checkpoints, which sample a thousand values of a tensor, a hash changes with every bit, and
with the dtype in which the values are kept.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from chatbridge.models.component_tensors import by_component

CHUNK = 1 << 26  # values that leave the device at once
MOST_THREADS = 4


def weights_digest(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Component -> {"values": number, "dtype": "bfloat16", "sha256"} of its parameters and stored buffers.

    hashlib lets the other threads run, so several tensors are hashed at a time.
    """
    with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1)) as pool:
        return {name: _component(tensors, pool) for name, tensors in sorted(by_component(model.state_dict()).items())}


def _component(tensors: Mapping[str, Tensor], pool: ThreadPoolExecutor) -> dict[str, Any]:
    names = sorted(name for name, value in tensors.items() if isinstance(value, Tensor))
    digest = hashlib.sha256()
    for name, one in zip(names, pool.map(lambda name: tensor_digest(tensors[name]), names), strict=True):
        digest.update(f"{name} {one}\n".encode())
    dtypes = sorted({str(tensors[name].dtype).removeprefix("torch.") for name in names})
    values = sum(tensors[name].numel() for name in names)
    return {"values": values, "dtype": ", ".join(dtypes), "sha256": digest.hexdigest()[:16]}


def tensor_digest(tensor: Tensor) -> str:
    """A hash of the shape, dtype and all bytes of a tensor [...] on any device."""
    digest = hashlib.sha256(f"{tuple(tensor.shape)} {tensor.dtype}\n".encode())
    flat = tensor.detach().contiguous().flatten()
    for start in range(0, flat.numel(), CHUNK):
        part = flat[start : start + CHUNK].cpu()
        digest.update(part.view(torch.uint8).numpy().data)
    return digest.hexdigest()
