"""From the channels of a sound to the one channel that encoders hear."""

from __future__ import annotations

from typing import Literal

import numpy as np

from chatbridge.common.errors import MediaError

Channels = Literal["mean", "first"]
_SILENT, _LOUD = 1e-4, 1e-2  # peaks of samples in -1..1: below the noise of 16 bits with room; plainly audible


class Mixer:
    """Makes one channel of many, piece by piece, and sees whether the mix lost what there is to hear.

    channels   mean: of all channels; first: the first one alone, as the released ChatBridge heard it
    """

    def __init__(self, channels: Channels):
        self._channels = channels
        self._heard = self._loudest = 0.0

    def __call__(self, block: np.ndarray) -> np.ndarray:
        """float[samples, channels] -> float32[samples]"""
        if block.shape[1] == 1:
            return np.ascontiguousarray(block[:, 0], dtype=np.float32)
        mono = block[:, 0] if self._channels == "first" else block.mean(axis=1)
        if len(block):
            self._heard = max(self._heard, float(np.abs(mono).max()))
            self._loudest = max(self._loudest, float(np.abs(block).max()))
        return np.ascontiguousarray(mono, dtype=np.float32)

    def check(self) -> None:
        """raises MediaError when silence was made of a stretch that is not silent"""
        if self._heard < _SILENT and self._loudest > _LOUD:
            if self._channels == "first":
                raise MediaError("its first channel is silent and another is not; set channels: mean on the encoder")
            raise MediaError("its channels cancel each other out in their mean; set channels: first on the encoder")
