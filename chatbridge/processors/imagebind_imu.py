"""Recordings of motion (accelerometer and gyroscope) as ImageBind reads them: float[6, length]."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from chatbridge.common.errors import MediaError
from chatbridge.processors.imu_file import CHANNELS, Recording, checked, read_recording
from chatbridge.processors.media_processor import MediaProcessor
from chatbridge.processors.media_source import Ref, name_of, reasons


class ImageBindImuProcessor(MediaProcessor):
    """Five seconds from the middle of a recording, in `length` steps, the same in training and evaluation.

    length    steps; 2000 in the released weights
    seconds   that they cover. A recording with a column of time is resampled, linearly; one without it is taken step by
              step, so it should have length / seconds steps per second (400)

    The channels are the accelerometer (x, y, z; m/s^2), then the gyroscope (x, y, z; rad/s), not normalised. A shorter
    recording is followed by zeros. ImageBind published no code for motion: the paper states six channels, five seconds
    and 2000 steps (its section on the encoders); the order of channels and the units are not known for sure.
    """

    channel_names = tuple(f"{sensor} {axis}" for sensor in ("accelerometer", "gyroscope") for axis in "xyz")

    def __init__(self, length: int = 2000, seconds: float = 5.0):
        self.length = length
        self.seconds = seconds

    @property
    def item_shape(self) -> tuple[int, ...]:
        return CHANNELS, self.length

    def __call__(self, ref: Ref, rng: np.random.Generator | None = None) -> Tensor:
        """float[6, length]. A tensor is a recording float[6, steps] or float[steps, 6].

        raises   MediaError for a file that holds no such recording
        """
        with reasons(ref, "motion recording"):
            if isinstance(ref, Tensor):
                return self.from_recording(Recording(_channels_first(ref.double().numpy(), ref), None))
            self.check_file(ref)
            return self.from_recording(read_recording(ref))

    def from_recording(self, found: Recording) -> Tensor:
        """float[6, length]"""
        values = found.values if found.times is None else self._resampled(found.values, found.times)
        start = max(0, (values.shape[1] - self.length) // 2)
        kept = values[:, start : start + self.length]
        padded = np.pad(kept, ((0, 0), (0, self.length - kept.shape[1])))
        return torch.from_numpy(padded).float()

    def _resampled(self, values: np.ndarray, times: np.ndarray) -> np.ndarray:
        """float[6, steps] at times float[steps] in seconds -> float[6, steps at length / seconds per second], at most
        `length` of them, from the middle."""
        lasts = min(self.seconds, float(times[-1] - times[0]))
        count = min(self.length, int(lasts * self.length / self.seconds) + 1)
        middle = (times[0] + times[-1]) / 2
        wanted = middle - lasts / 2 + np.arange(count) * self.seconds / self.length
        return np.stack([np.interp(wanted, times, channel) for channel in values])


def _channels_first(values: np.ndarray, ref: Tensor) -> np.ndarray:
    if values.ndim == 2 and CHANNELS in values.shape and values.size:
        return checked(values if values.shape[0] == CHANNELS else values.T, None).values
    raise MediaError(f"{name_of(ref)}: a motion recording is float[{CHANNELS}, steps] or float[steps, {CHANNELS}]")
