"""What a reader of audio provides, and how its channels become one.

Readers: WaveformReader for tensors, audio_soundfile for files that libsndfile knows, audio_pyav for everything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from torch import Tensor

from chatbridge.common.errors import MediaError

Channels = Literal["mean", "first"]
Kept = Literal["mean", "first", "each"]  # of a reader; "each": samples stay float32[samples, channels]
_SILENT, _LOUD = 1e-4, 1e-2  # peaks of samples in -1..1: below the noise of 16 bits with room; plainly audible


class AudioEndsEarly(Exception):
    """The audio ends before the position that its header promises; `num_samples` is where."""

    def __init__(self, num_samples: int):
        super().__init__(f"the audio ends after {num_samples} samples, earlier than its header states")
        self.num_samples = num_samples


class AudioReader(Protocol):
    """Audio as one channel, or with all of its channels, at the rate of its file."""

    rate_hz: int
    num_samples: int

    def read(self, start: int, stop: int) -> np.ndarray:
        """float32[stop - start] in -1..1, or with channels "each" float32[stop - start, channels]

        raises   AudioEndsEarly when the audio ends before `stop`
        """
        ...

    def close(self) -> None: ...


class WaveformReader:
    """Audio that is in memory already: float[samples] or float[samples, channels]."""

    def __init__(self, wave: Tensor, rate_hz: int):
        self.wave, self.rate_hz, self.num_samples = wave.float(), rate_hz, len(wave)

    def read(self, start: int, stop: int) -> np.ndarray:
        """float32[stop - start], or float32[stop - start, channels]"""
        return self.wave[start:stop].numpy()

    def close(self) -> None:
        pass


class RolledReader:
    """The audio of another reader with its second half first; only the wanted slices of it are read."""

    def __init__(self, source: AudioReader):
        self.source, self.rate_hz, self.num_samples = source, source.rate_hz, source.num_samples

    def read(self, start: int, stop: int) -> np.ndarray:
        """float32[stop - start], or float32[stop - start, channels]. raises AudioEndsEarly as the other reader"""
        half = self.num_samples // 2
        first = self.num_samples - half  # where the second half begins
        pieces = []
        if start < half:
            pieces.append(self.source.read(first + start, first + min(stop, half)))
        if stop > half:
            pieces.append(self.source.read(max(start, half) - half, stop - half))
        return joined(pieces)

    def close(self) -> None:
        self.source.close()


class ChannelMixer:
    """Makes one channel of many, block by block, and notices when the mix lost what the channels hold.

    channels   mean: of all channels; first: the first one alone, as in the released ChatBridge; each: all of them, the
               first of which is used
    """

    def __init__(self, channels: Kept):
        self._channels = channels
        self._peak_of_mix = self._peak = 0.0

    def __call__(self, block: np.ndarray) -> np.ndarray:
        """float[samples, channels] -> float32[samples], with "each" float32[samples, channels]"""
        if block.shape[1] == 1:
            return np.ascontiguousarray(block if self._channels == "each" else block[:, 0], dtype=np.float32)
        mono = block.mean(axis=1) if self._channels == "mean" else block[:, 0]
        if len(block):
            self._peak_of_mix = max(self._peak_of_mix, float(np.abs(mono).max()))
            self._peak = max(self._peak, float(np.abs(block).max()))
        return np.ascontiguousarray(block if self._channels == "each" else mono, dtype=np.float32)

    def check(self) -> None:
        """raises MediaError when the mix of audio that is not silent is silent"""
        if self._peak_of_mix < _SILENT and self._peak > _LOUD:
            if self._channels != "mean":
                raise MediaError("its first channel is silent and another is not; set channels: mean on the encoder")
            raise MediaError("its channels cancel each other out in their mean; set channels: first on the encoder")


def joined(pieces: Sequence[np.ndarray]) -> np.ndarray:
    """Pieces of a reader, one after the other; float32[0] without any."""
    return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.float32)
