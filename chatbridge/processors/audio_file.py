"""Opens audio: a file, the audio track of a video, or a waveform, as one channel at the rate that a model wants.

Only the wanted slices are decoded, so an hour of audio costs what a minute costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chatbridge.common.errors import MediaError
from chatbridge.processors.audio_header_check import check_header
from chatbridge.processors.audio_mp3_ogg import content_of, mp3_parts, ogg_links
from chatbridge.processors.audio_reader import (
    AudioEndsEarly,
    AudioReader,
    ChannelMixer,
    Kept,
    RolledReader,
    WaveformReader,
)
from chatbridge.processors.audio_soundfile import ChainedReader, SoundFileReader
from chatbridge.processors.limits import Limits
from chatbridge.processors.media_source import NoAudio, Ref, Rolled, name_of, opened, reasons

DEFAULTS = Limits()
EXAMINED_SECONDS = 10
MP3_SLACK = 4 * 1152  # samples: the frame of the header, and what encoder and decoder put around the audio
LOUDEST = 1000.0  # peak of samples in -1..1; float files may exceed 1, and whole numbers as floats are far beyond
RATIO_LIMIT = 1000  # of the resampling ratio's denominator: exact for every usual rate, one part in a million otherwise


class ResampledAudio:
    """Audio at the rate that a model wants.

    The resampling filter is torchaudio's. A slice is resampled with enough of its surroundings that it equals the same
    slice of the whole audio, resampled at once, to 1e-5 (float32 summed in another order).
    """

    def __init__(self, source: AudioReader, rate_hz: int):
        self.source, self.rate_hz = source, rate_hz
        self._ratio = Fraction(source.rate_hz, rate_hz).limit_denominator(RATIO_LIMIT)
        if not self._ratio:
            lowest = rate_hz / RATIO_LIMIT
            raise MediaError(f"its header states {source.rate_hz} samples per second, at least {lowest:g} are needed")

    def __len__(self) -> int:
        """Samples at rate_hz."""
        return -(-self.source.num_samples * self._ratio.denominator // self._ratio.numerator)

    def read(self, start: int, stop: int) -> Tensor:
        """float[stop - start], fewer at the end of the audio.

        raises   MediaError for samples that are not numbers, AudioEndsEarly when the audio is shorter than its header
                 states
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

    def at_source_rate(self) -> Tensor:
        """float[samples] at the rate of the file, with channels "each" float[samples, channels]"""
        try:
            return _checked(self.source.read(0, self.source.num_samples))
        except AudioEndsEarly as error:
            self.source.num_samples = error.num_samples
            return _checked(self.source.read(0, error.num_samples))

    def examine(self) -> None:
        """Read all of it, slice by slice.

        raises   MediaError for holes, samples that are not numbers, and a silent mix
        """
        step = EXAMINED_SECONDS * self.source.rate_hz
        for start in range(0, self.source.num_samples, step):
            try:
                _checked(self.source.read(start, min(start + step, self.source.num_samples)))
            except AudioEndsEarly as error:  # the header promises more than there is; up to here it is intact
                if error.num_samples > start:
                    _checked(self.source.read(start, error.num_samples))
                return

    def pieces(self, choose: Callable[[], list[tuple[int, int]]], make: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """The result of `make`, float[...], for each slice (start, stop) of `choose`; equal slices are read once.

        When the audio ends earlier than its header states, `choose` is asked again, with the length corrected.
        """
        try:
            wanted = choose()
            made = {piece: make(self.read(*piece)) for piece in dict.fromkeys(wanted)}
        except AudioEndsEarly as error:
            if error.num_samples >= self.source.num_samples:
                raise
            self.source.num_samples = error.num_samples
            return self.pieces(choose, make)
        return [made[piece] for piece in wanted]


@contextmanager
def open_audio(
    ref: Ref | Rolled, rate_hz: int, limits: Limits = DEFAULTS, channels: Kept = "mean"
) -> Iterator[ResampledAudio]:
    """The audio of a file, of the first audio track of a video, or of a waveform float[samples] or [channels, samples],
    as one channel: the mean of the channels, or the first one. "each" keeps all, for `at_source_rate` alone.
    Rolled audio begins with its second half.

    raises   NoAudio when the file has none; MediaError when it is too long; what the decoder raises for a broken one
    """
    source = _open(ref.ref if isinstance(ref, Rolled) else ref, rate_hz, channels)
    try:
        source.num_samples = _allowed(source, limits)
        yield ResampledAudio(RolledReader(source) if isinstance(ref, Rolled) else source, rate_hz)
    finally:
        source.close()


def examine_audio(processor: Any, ref: Ref) -> None:
    """Read all of an audio file, for a processor of audio. raises MediaError"""
    if isinstance(ref, Tensor) and ref.ndim > 2:
        return
    with reasons(ref, "audio"), open_audio(ref, processor.rate_hz, processor.limits, processor.channels) as audio:
        audio.examine()


def open_reader(ref: str | Path | bytes, channels: Kept = "mean") -> AudioReader:
    """soundfile where it knows the format and the length of the audio, else PyAV.

    raises   MediaError when the header states less audio than the file holds; what the decoder raises for a broken one
    """
    from chatbridge.common.extras import need

    soundfile = need("soundfile", "reading audio")
    check_header(ref)
    source, refusal = None, None
    try:
        source = SoundFileReader(soundfile.SoundFile(opened(ref)), channels)
        if len(parts := _parts(source, ref)) > 1:
            return ChainedReader([open_reader(part, channels) for part in parts])
        if source.can_seek and source.num_samples and not _is_estimate(source, ref):
            return source
    except soundfile.LibsndfileError as error:
        refusal = error
    try:
        from chatbridge.processors.audio_pyav import AudioTrackReader

        return AudioTrackReader(ref, channels)
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


def _is_estimate(source: SoundFileReader, ref: str | Path | bytes) -> bool:
    """Whether the length differs from that of the frames of an MP3: its header is missing, or that of a part."""
    if source.format not in ("MP3", "MPEG"):
        return False
    return abs(sum(samples for _, samples in mp3_parts(content_of(ref))) - source.num_samples) > MP3_SLACK


def _parts(source: SoundFileReader, ref: str | Path | bytes) -> list[bytes]:
    """The files that are joined in this one; [] for formats where that does not happen."""
    data = content_of(ref)
    if source.format == "OGG":
        starts = ogg_links(data)
    elif source.format in ("MP3", "MPEG"):
        starts = [start for start, _ in mp3_parts(data)]
    else:
        return []
    ends = [*starts[1:], len(data)]
    return [data[start:end] for start, end in zip(starts, ends, strict=True)] if len(starts) > 1 else []


def _open(ref: Ref, rate_hz: int, channels: Kept) -> AudioReader:
    if isinstance(ref, Tensor):
        if not ref.is_floating_point():
            raise MediaError(f"{name_of(ref)} of {ref.dtype}: a waveform is floats in -1..1")
        return WaveformReader(ref if ref.ndim == 1 else _mono(ref, channels), rate_hz)
    return open_reader(ref, channels)


def _mono(wave: Tensor, channels: Kept) -> Tensor:
    """float[channels, samples] -> float[samples], with "each" float[samples, channels]"""
    mixer = ChannelMixer(channels)
    mono = mixer(wave.float().numpy().T)
    mixer.check()
    return torch.from_numpy(mono)


def _allowed(source: AudioReader, limits: Limits) -> int:
    """Samples within the time limit."""
    if not source.num_samples:
        raise NoAudio("the audio is empty (0 samples)")
    most = int(limits.max_seconds * source.rate_hz)
    if source.num_samples > most and limits.too_long == "refuse":
        lasts = source.num_samples / source.rate_hz
        allowed = f"{limits.max_seconds:g} s are allowed (data.media.max_seconds)"
        raise MediaError(f"the audio lasts {lasts:.0f} s, {allowed}")
    return min(source.num_samples, most)


def _checked(samples: np.ndarray) -> Tensor:
    peak = float(np.abs(samples).max(initial=0.0))
    if not peak < float("inf"):
        raise MediaError("it holds samples that are not numbers")
    if peak > LOUDEST:
        raise MediaError(f"its samples reach {peak:.1e}, expected -1..1; divide whole numbers of 16 bits by 32768")
    return torch.from_numpy(samples)


@lru_cache(maxsize=8)
def _resampler(from_hz: int, to_hz: int) -> Any:
    """torchaudio's defaults. The filter is made once: it costs more than its use on short audio."""
    import torchaudio.transforms

    return torchaudio.transforms.Resample(from_hz, to_hz)
