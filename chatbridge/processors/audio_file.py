"""A sound of any length, read in stretches: only what is wanted is decoded, and never the whole file held in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from chatbridge.common.errors import MediaError
from chatbridge.processors.audio_channels import Channels, Mixer
from chatbridge.processors.audio_headers import check_declared
from chatbridge.processors.audio_lengths import content_of, mp3_parts, ogg_links
from chatbridge.processors.limits import Limits, NoSound
from chatbridge.processors.media_source import Ref, opened, reasons

DEFAULTS = Limits()
EXAMINED_SECONDS = 10
BLOCK = 1 << 20  # numbers decoded at a time, all channels together
UNKNOWN = 1 << 60  # soundfile's "as many as there are"
MP3_SLACK = 4 * 1152  # samples: the frame of the header, and what encoder and decoder put around the sound
PROBES = 16  # places at which a hole is looked behind
MP3_LEAD = 10 * 1152  # samples decoded before a wanted place: a frame needs bits of up to 7 frames before it
RATIO_LIMIT = 1000  # of the resampling ratio's denominator: exact for every usual rate, one part in a million otherwise


class Shorter(Exception):
    """A sound ends before the place its header names; `num_samples` is where."""

    def __init__(self, num_samples: int):
        super().__init__(f"the sound ends after {num_samples} samples, sooner than its header says")
        self.num_samples = num_samples


class Stretches(Protocol):
    """A sound as one channel, in the file's own rate."""

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

    def examine(self) -> None:
        """Read all of it in pieces. raises MediaError for holes, samples that are no numbers, and a silent mix"""
        step = EXAMINED_SECONDS * self.source.rate_hz
        for start in range(0, self.source.num_samples, step):
            try:
                _checked(self.source.read(start, min(start + step, self.source.num_samples)))
            except Shorter as error:  # the header says more than there is; up to here it is sound
                if error.num_samples > start:
                    _checked(self.source.read(start, error.num_samples))
                return

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

    def __init__(self, handle: Any, channels: Channels = "mean"):
        if not handle.samplerate > 0:
            raise MediaError(f"its header says {handle.samplerate} samples per second")
        self._handle, self._channels = handle, channels
        self.format: str = handle.format
        self.can_seek = bool(handle.seekable())
        self._lead = MP3_LEAD if handle.format == "MP3" else 0
        self.rate_hz = int(handle.samplerate)
        self.num_samples = int(handle.frames)
        if not 0 <= self.num_samples < UNKNOWN and self.can_seek:
            self.num_samples = sum(map(len, self._blocks(UNKNOWN, Mixer(channels))))

    def read(self, start: int, stop: int) -> np.ndarray:
        if start >= stop:
            return np.zeros(0, dtype=np.float32)
        lead = min(start, self._lead)
        mixer = Mixer(self._channels)
        self._handle.seek(start - lead)
        samples = np.concatenate([np.zeros(0, dtype=np.float32), *self._blocks(stop - start + lead, mixer)])[lead:]
        if len(samples) < stop - start:
            end = start + len(samples) if len(samples) else self._end()
            if self._continues(end):
                raise MediaError(f"its data are damaged at {end / self.rate_hz:.2f} s; the sound goes on after that")
            raise Shorter(end)
        mixer.check()
        return samples

    def close(self) -> None:
        self._handle.close()

    def _end(self) -> int:
        """Samples that are really there."""
        self._handle.seek(0)
        return sum(map(len, self._blocks(UNKNOWN, Mixer(self._channels))))

    def _continues(self, end: int) -> bool:
        """Whether there is sound behind the place where reading stopped, so that this is a hole and not the end."""
        rest = int(self._handle.frames) - end
        for number in range(1, PROBES):
            try:
                self._handle.seek(end + rest * number // PROBES)
                if len(self._handle.read(1, dtype="float32", always_2d=True)):
                    return True
            except RuntimeError:  # nothing there
                continue
        return False

    def _blocks(self, wanted: int, mixer: Mixer) -> Iterator[np.ndarray]:
        size = max(1, BLOCK // self._handle.channels)
        while wanted > 0:
            block = self._handle.read(min(size, wanted), dtype="float32", always_2d=True)
            if not len(block):
                return
            wanted -= len(block)
            yield mixer(block)


class Chain:
    """Sounds one behind the other, of one rate: the links of a chained Ogg file."""

    def __init__(self, links: Sequence[Stretches]):
        self._links = links
        self.rate_hz = links[0].rate_hz
        if any(link.rate_hz != self.rate_hz for link in links):
            rates = ", ".join(str(link.rate_hz) for link in links)
            raise MediaError(f"its parts have different rates ({rates} Hz); convert it to one")
        self.num_samples = sum(link.num_samples for link in links)

    def read(self, start: int, stop: int) -> np.ndarray:
        pieces, first = [np.zeros(0, dtype=np.float32)], 0
        for link in self._links:
            begin, end = max(start - first, 0), min(stop - first, link.num_samples)
            if begin < end:
                pieces.append(link.read(begin, end))
            first += link.num_samples
        return np.concatenate(pieces)

    def close(self) -> None:
        for link in self._links:
            link.close()


@contextmanager
def open_sound(ref: Ref, rate_hz: int, limits: Limits = DEFAULTS, channels: Channels = "mean") -> Iterator[Sound]:
    """The sound of a file, of the first sound track of a video, or of a waveform float[samples] or [channels, samples],
    as one channel: the mean of the channels, or the first one.

    raises   NoSound when the file has none; MediaError when it is too long; what the decoder raises for a broken one
    """
    source = _open(ref, rate_hz, channels)
    try:
        source.num_samples = _allowed(source, limits)
        yield Sound(source, rate_hz)
    finally:
        source.close()


def examine_sound(processor: Any, ref: Ref) -> None:
    """All of a sound, for a processor of sounds. raises MediaError"""
    if isinstance(ref, Tensor) and ref.ndim > 2:
        return
    with reasons(ref, "sound"), open_sound(ref, processor.rate_hz, processor.limits, processor.channels) as sound:
        sound.examine()


def open_stretches(ref: str | Path | bytes, channels: Channels = "mean") -> Stretches:
    """soundfile where it knows the format and the length of the sound, else PyAV.

    raises   MediaError when the header states less sound than the file holds; what the decoder raises for a broken one
    """
    from chatbridge.common.extras import need

    soundfile = need("soundfile", "reading sounds")
    check_declared(ref)
    source, refusal = None, None
    try:
        source = SoundFile(soundfile.SoundFile(opened(ref)), channels)
        if len(parts := _parts(source, ref)) > 1:
            return Chain([open_stretches(part, channels) for part in parts])
        if source.can_seek and source.num_samples and not _is_estimate(source, ref):
            return source
    except soundfile.LibsndfileError as error:
        refusal = error
    try:
        from chatbridge.processors.audio_track import SoundTrack

        return SoundTrack(ref, channels)
    except ModuleNotFoundError:
        if source is None:
            raise refusal or MediaError(
                "its length is only known after decoding, which needs the package 'av'"
            ) from None
        return source
    except Exception:
        if source is None or source.num_samples:
            raise
        return source  # empty for both


def _is_estimate(source: SoundFile, ref: str | Path | bytes) -> bool:
    """Whether the length is another one than that of the frames of an MP3: its header is missing, or of a part."""
    if source.format not in ("MP3", "MPEG"):
        return False
    return abs(sum(samples for _, samples in mp3_parts(content_of(ref))) - source.num_samples) > MP3_SLACK


def _parts(source: SoundFile, ref: str | Path | bytes) -> list[bytes]:
    """The files that lie one behind the other in this one; [] for formats where that does not happen."""
    data = content_of(ref)
    if source.format == "OGG":
        starts = ogg_links(data)
    elif source.format in ("MP3", "MPEG"):
        starts = [start for start, _ in mp3_parts(data)]
    else:
        return []
    ends = [*starts[1:], len(data)]
    return [data[start:end] for start, end in zip(starts, ends, strict=True)] if len(starts) > 1 else []


def _open(ref: Ref, rate_hz: int, channels: Channels) -> Stretches:
    if isinstance(ref, Tensor):
        return Waveform(ref if ref.ndim == 1 else _mono(ref, channels), rate_hz)
    return open_stretches(ref, channels)


def _mono(wave: Tensor, channels: Channels) -> Tensor:
    """float[channels, samples] -> float[samples]"""
    mixer = Mixer(channels)
    mono = mixer(wave.float().numpy().T)
    mixer.check()
    return torch.from_numpy(mono)


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
