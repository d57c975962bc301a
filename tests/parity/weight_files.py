"""Write the weights of a case as a released file, so that the real loading code reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def released_file(
    weights: Mapping[str, Tensor], cfg: Mapping[str, Any] | None = None, is_flat: bool = False
) -> Iterator[Path]:
    """A pickled file as the reference writes it: tensors below `model` unless flat, sizes below `cfg` if there are."""
    content: dict[str, Any] = dict(weights) if is_flat else {"model": dict(weights)}
    if cfg is not None:
        content["cfg"] = dict(cfg)
    with TemporaryDirectory(prefix="chatbridge-parity-") as folder:
        path = Path(folder) / "released.pth"
        torch.save(content, path)
        yield path


def other_eps(module: nn.Module, given: Any, released: float) -> None:
    """Use the eps of the sidecar if it is not the released one; otherwise ours must be right without help."""
    if given is not None and given != released:
        for part in module.modules():
            if isinstance(part, nn.LayerNorm):
                part.eps = given


def hooked(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Collect the output of each module when it runs."""
    seen: dict[str, Tensor] = {}
    for name, module in modules.items():
        module.register_forward_hook(
            lambda _, args, out, name=name: seen.__setitem__(name, out[0] if isinstance(out, tuple) else out)
        )
    return seen
