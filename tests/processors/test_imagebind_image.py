"""The two rules for the crop of ImageBind's images."""

from __future__ import annotations

import numpy as np
import torch

from chatbridge.processors.imagebind_image import imagebind_image


def test_the_rules_differ_by_one_pixel_of_the_crop() -> None:
    """Fails when the sides are swapped, the crop is elsewhere, or a rule gets the other's rounding (of 299 rows, a
    margin of 75: from row 38 or 37)."""
    pixels = np.zeros((299, 224, 3), np.uint8)
    pixels[:, :, 0] = (np.arange(299) % 256)[:, None]
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    first = {rule: imagebind_image(224, rule, lean=True)(image)[0, 0, 0].item() for rule in ("imagebind", "chatbind")}
    assert first == {"imagebind": 38, "chatbind": 37}


def test_bytes_are_exact() -> None:
    """Fails when a training image differs from one of evaluation after it is normalised on the device."""
    image = torch.randint(0, 256, (3, 50, 61), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    lean, full = imagebind_image(32, lean=True), imagebind_image(32)
    assert lean(image).dtype == torch.uint8
    torch.testing.assert_close(lean.statistics.normalised(lean(image)), full(image), atol=1e-6, rtol=0)
