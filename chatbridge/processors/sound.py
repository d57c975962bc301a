"""A sound of any length, read in stretches: only what is wanted is decoded, and never the whole file held in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from chatbridge.common.errors import MediaError
from chatbridge.processors.limits import Limits, NoSound
from chatbridge.processors.source import Ref, opened

DEFAULTS = Limits()
BLOCK = 1 << 20  # numbers decoded at a time, all channels together
UNKNOWN = 1 << 60  # soundfile's "as many as there are"
MP3_LEAD = 10 * 1152  # samples decoded before a wanted place: a frame needs bits of up to 7 frames before it
RATIO_LIMIT = 1000  # of the resampling ratio's denominator: exact for every usual rate, one part in a million otherwise


class Shorter(Exception):
    """A sound ends before the place its header names; `num_samples` is where."""

    def __init__(self, num_samples: int):
        super().__init__(f"the sound ends after {num_samples} samples, sooner than its header says")
        self.num_samples = num_samples


class Stretches(Protocol):
    """The first channel of a sound, in the file's own rate."""

    rate_hz: int
    num_samples: int

    def read(self, start: int, stop: int) -> np.ndarray:
        """float32[stop - start] in -1..1; raises Shorter when the sound ends before `stop`"""
        ...

    def close(self) -> None: ...


class Sound:
    """One sound at the rate that a model wants.

    The resampling filter is torchaudio's. A stretch is resampled with enough of its surroundings that it equals the
    same stretch of the whole sound, resampled at once, to 1e-5 (float32 summed in another order).
    """

    def __init__(self, source: Stretches, rate_hz: int):
        self.source, self.rate_hz = source, rate_hz
        self._ratio = Fraction(source.rate_hz, rate_hz).limit_denominator(RATIO_LIMIT)

    def __len__(self) -> int:
        """Samples at rate_hz."""
        return -(-self.source.num_samples * self._ratio.denominator // self._ratio.numerator)

    def read(self, start: int, stop: int) -> Tensor:
        """float[stop - start], fewer at the end of the sound.

        raises   MediaError for numbers that are none, Shorter when the sound is shorter than its header says
        """
        stop = min(stop, len(self))
        taken, given = self._ratio.numerator, self._ratio.denominator  # so many samples in become so many out
        if taken == given:
            return _checked(self.source.read(start, stop))
        resample = _resampler(taken, given)
        margin = -(-resample.width // taken)  # blocks of `taken` samples that the filter looks back and ahead
        first = max(0, start // given - margin)
        last = min(-(-stop // given) + margin, -(-self.source.num_samples // taken))
        wave = _checked(self.source.read(first * taken, min(last * taken, self.source.num_samples)))
        return resample(wave)[start - first * given : stop - first * given]

    def read_all(self) -> Tensor:
        """float[samples]"""
        return self.pieces(lambda: [(0, len(self))], lambda wave: wave)[0]

    def pieces(self, choose: Callable[[], list[tuple[int, int]]], make: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """What `make` makes of each stretch (start, stop) that `choose` wants; equal stretches are read once.

        When the sound ends sooner than its header says, `choose` is asked again, with the length corrected.
        """
        try:
            wanted = choose()
            made = {stretch: make(self.read(*stretch)) for stretch in dict.fromkeys(wanted)}
        except Shorter as error:
            if error.num_samples >= self.source.num_samples:
                raise
            self.source.num_samples = error.num_samples
            return self.pieces(choose, make)
        return [made[stretch] for stretch in wanted]


class Waveform:
    """A sound that is in memory already."""

    def __init__(self, wave: Tensor, rate_hz: int):
        self.wave, self.rate_hz, self.num_samples = wave.float(), rate_hz, len(wave)

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.wave[start:stop].numpy()

    def close(self) -> None:
        pass


class SoundFile:
    """A file that libsndfile knows: wav, flac, ogg, mp3 and more. Seeks to the sample, in all of them."""

    def __init__(self, handle: Any):
        if not handle.samplerate > 0:
            raise MediaError(f"its header says {handle.samplerate} samples per second")
        self._handle = handle
        self._lead = MP3_LEAD if handle.format == "MP3" else 0
        self.rate_hz = int(handle.samplerate)
        self.num_samples = int(handle.frames)
        if not 0 <= self.num_samples < UNKNOWN or not handle.seekable():
            self.num_samples = sum(map(len, self._blocks(UNKNOWN)))

    def read(self, start: int, stop: int) -> np.ndarray:
        if start >= stop:
            return np.zeros(0, dtype=np.float32)
        lead = min(start, self._lead)
        self._handle.seek(start - lead)
        samples = np.concatenate([np.zeros(0, dtype=np.float32), *self._blocks(stop - start + lead)])[lead:]
        if len(samples) < stop - start:
            raise Shorter(start + len(samples) if len(samples) else self._end())
        return samples

    def close(self) -> None:
        self._handle.close()

    def _end(self) -> int:
        """Samples that are really there."""
        self._handle.seek(0)
        return sum(map(len, self._blocks(UNKNOWN)))

    def _blocks(self, wanted: int) -> Iterator[np.ndarray]:
        size = max(1, BLOCK // self._handle.channels)
        while wanted > 0:
            block = self._handle.read(min(size, wanted), dtype="float32", always_2d=True)
            if not len(block):
                return
            wanted -= len(block)
            yield np.ascontiguousarray(block[:, 0])


@contextmanager
def open_sound(ref: Ref, rate_hz: int, limits: Limits = DEFAULTS) -> Iterator[Sound]:
    """The sound of a file, of the first sound track of a video, or of a waveform float[samples] or [channels, samples].

    raises   NoSound when the file has none; MediaError when it is too long; what the decoder raises for a broken one
    """
    source = _open(ref, rate_hz)
    try:
        source.num_samples = _allowed(source, limits)
        yield Sound(source, rate_hz)
    finally:
        source.close()


def open_stretches(ref: str | Path | bytes) -> Stretches:
    """soundfile where it knows the format, else PyAV."""
    from chatbridge.common.extras import need

    soundfile = need("soundfile", "reading sounds")
    try:
        return SoundFile(soundfile.SoundFile(opened(ref)))
    except soundfile.LibsndfileError as error:
        try:
            from chatbridge.processors.sound_track import SoundTrack
        except ModuleNotFoundError:
            raise error from None
    return SoundTrack(ref)


def _open(ref: Ref, rate_hz: int) -> Stretches:
    if isinstance(ref, Tensor):
        return Waveform(ref if ref.ndim == 1 else ref[0], rate_hz)
    return open_stretches(ref)


def _allowed(source: Stretches, limits: Limits) -> int:
    """Samples that are looked at."""
    if not source.num_samples:
        raise NoSound("the sound lasts no time at all")
    most = int(limits.max_seconds * source.rate_hz)
    if source.num_samples > most and limits.too_long == "refuse":
        lasts = source.num_samples / source.rate_hz
        allowed = f"{limits.max_seconds:g} s are allowed (data.media.max_seconds)"
        raise MediaError(f"the sound lasts {lasts:.0f} s, {allowed}")
    return min(source.num_samples, most)


def _checked(samples: np.ndarray) -> Tensor:
    if not np.isfinite(samples).all():
        raise MediaError("it holds samples that are not numbers")
    return torch.from_numpy(samples)


@lru_cache(maxsize=8)
def _resampler(from_hz: int, to_hz: int) -> Any:
    """torchaudio's defaults. The filter is made once: it costs more than its use on a short sound."""
    import torchaudio.transforms

    return torchaudio.transforms.Resample(from_hz, to_hz)
