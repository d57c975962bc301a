"""Images in memory as PNG files, which keep every value."""

from __future__ import annotations

import io

from torch import Tensor


def png_of(image: Tensor) -> bytes:
    """The file of an image, uint8[3, H, W] on any device."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy()).save(out, "PNG")  # [H, W, 3]
    return out.getvalue()


__all__ = ["png_of"]
