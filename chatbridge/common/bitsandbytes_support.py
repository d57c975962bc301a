"""Whether bitsandbytes can store weights and moments in 8 or 4 bits on a device."""

from __future__ import annotations

import importlib
import importlib.util
import logging

from chatbridge.common.extras import how_to_install


def bitsandbytes_obstacle(bits: int, device: str) -> str | None:
    """The reason why values cannot be stored in so many bits on a type of device ("cpu", "cuda"), or None."""
    if importlib.util.find_spec("bitsandbytes") is None:
        return f"{bits} bit needs bitsandbytes; {how_to_install('bitsandbytes')}"
    silence()
    try:
        bitsandbytes = importlib.import_module("bitsandbytes")
    except Exception as error:  # a build for a different machine
        return f"bitsandbytes is installed but does not run here: {error}"
    supported = getattr(bitsandbytes, "supported_torch_devices", {"cuda"})  # a CPU since 0.46
    if device not in supported:
        return f"this bitsandbytes runs on {', '.join(sorted(supported))}, this run is on {device}"
    return None


def silence() -> None:
    """Drop the warning of bitsandbytes about a kernel that is not needed; before it is imported, also by peft."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
