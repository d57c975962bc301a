"""Which number format a run computes in. What trains is kept in float32 either way."""

from __future__ import annotations

import torch

from chatbridge.runners.config import Precision


def compute_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """bfloat16 or float32; `auto` takes bfloat16 where the device computes in it: on a CPU it does not pay."""
    if precision == "auto":
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bf16 else torch.float32
    return torch.bfloat16 if precision == "bf16" else torch.float32
