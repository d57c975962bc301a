"""Load a frozen language model in 8 bit (LLM.int8, Dettmers et al. 2022) with bitsandbytes: half the memory of bf16."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from chatbridge.common.extras import how_to_install


def eight_bit_obstacle(device: torch.device) -> str | None:
    """The reason why weights cannot be stored in 8 bit on this device, or None."""
    if importlib.util.find_spec("bitsandbytes") is None:
        return f"8 bit needs bitsandbytes; {how_to_install('bitsandbytes')}"
    try:
        bitsandbytes = importlib.import_module("bitsandbytes")
    except Exception as error:  # a build for a different machine
        return f"bitsandbytes is installed but does not run here: {error}"
    supported = getattr(bitsandbytes, "supported_torch_devices", {"cuda"})  # a CPU since 0.46
    if device.type not in supported:
        return f"this bitsandbytes runs on {', '.join(sorted(supported))}, this run is on {device.type}"
    return None


def eight_bit_arguments(device: torch.device) -> dict[str, Any]:
    """Keyword arguments of `from_pretrained` that load into 8 bit on one device."""
    from transformers import BitsAndBytesConfig

    return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True), "device_map": {"": device}}
