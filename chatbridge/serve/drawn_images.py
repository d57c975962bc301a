"""Images that answers drew, as files that a page can show. They are gone with the process."""

from __future__ import annotations

import hashlib
import tempfile
from functools import cache
from pathlib import Path

from torch import Tensor


def image_file(image: Tensor) -> Path:
    """A PNG of uint8[3, H, W]; the same image is the same file."""
    from PIL import Image

    pixels = image.permute(1, 2, 0).contiguous().numpy()
    name = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()[:32]
    path = Path(_folder().name) / f"{name}.png"
    if not path.exists():
        Image.fromarray(pixels).save(path)
    return path


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="chatbridge_drawn_")
