"""GPUs by name: matmul rate in bfloat16 and memory.

Rates are those of the data sheets without sparsity, with accumulation in fp32: NVIDIA A100, H100, H200, B200, L40S,
L4, A10, RTX A6000 (half of the listed rate with sparsity), the Ada and Blackwell architecture white papers for the RTX
4090 and 5090 (FP16 tensor with FP32 accumulate), the Ampere white paper for the RTX 3090, and AMD's for the MI300X.
Memory is what nvidia-smi shows as total.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

GIB, TERA = 1 << 30, 10**12


@dataclass(frozen=True)
class GPU:
    """bf16 operations per second without sparsity, and bytes of memory."""

    name: str
    flops: float
    memory: int


def _gpu(name: str, teraflops: float, gib: float) -> GPU:
    return GPU(name, teraflops * TERA, int(gib * GIB))


GPUS = {
    one.name: one
    for one in (
        _gpu("a100", 312, 80.0),
        _gpu("a100-40gb", 312, 40.0),
        _gpu("h100", 989, 79.6),  # SXM
        _gpu("h100-pcie", 756, 79.6),
        _gpu("h200", 989, 140.4),
        _gpu("b200", 2250, 179.0),
        _gpu("l40s", 362, 45.0),
        _gpu("l4", 121, 22.5),
        _gpu("a10", 125, 22.5),
        _gpu("a6000", 155, 48.0),
        _gpu("rtx3090", 71, 24.0),
        _gpu("rtx4090", 165, 24.0),
        _gpu("rtx5090", 210, 31.8),
        _gpu("mi300x", 1307, 192.0),
    )
}
ALIASES = {"a100-80gb": "a100", "h100-80gb": "h100", "h100-sxm": "h100", "h200-141gb": "h200"}
_SPELLINGS = (  # of torch.cuda.get_device_name, the longest first
    ("h100 pcie", "h100-pcie"), ("a100-sxm4-40gb", "a100-40gb"), ("a100-pcie-40gb", "a100-40gb"),
    ("rtx a6000", "a6000"), ("rtx 3090", "rtx3090"), ("rtx 4090", "rtx4090"), ("rtx 5090", "rtx5090"),
    ("mi300x", "mi300x"), ("h200", "h200"),
    ("h100", "h100"), ("b200", "b200"), ("a100", "a100"), ("l40s", "l40s"),
)  # fmt: skip


def gpu_of_device(name: str) -> GPU | None:
    """The GPU of a device name as torch gives it ("NVIDIA H100 80GB HBM3"); None when it is not in the table."""
    plain = name.lower()
    key = next((key for spelling, key in _SPELLINGS if spelling in plain), None)
    if key is None and (found := re.search(r"\b(l4|a10)\b", plain)):
        key = found[1]
    return GPUS.get(key) if key is not None else None
