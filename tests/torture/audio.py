"""Odd audio files. Those that can be read have a tone of 1000 Hz in the first channel."""

from __future__ import annotations

import struct
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.torture.odd_file import OddFile, changed

PITCH_HZ = 1000.0


def tone(seconds: float = 1.0, rate_hz: int = 16000, channels: int = 1) -> np.ndarray:
    """float[samples, channels]: the tone in the first channel, a low and quiet one in the others."""
    times = np.arange(round(seconds * rate_hz)) / rate_hz
    pitches = [PITCH_HZ, *[PITCH_HZ / 3] * (channels - 1)]
    levels = [0.4, *[0.4 / channels**2] * (channels - 1)]
    return np.stack([level * np.sin(2 * np.pi * hz * times) for level, hz in zip(levels, pitches)], axis=1)


def _file(path: Path, rate_hz: int = 16000, channels: int = 1, seconds: float = 1.0, **options: Any) -> None:
    import soundfile

    soundfile.write(str(path), tone(seconds, rate_hz, channels), rate_hz, **options)


def _samples(path: Path, samples: np.ndarray, rate_hz: int = 16000) -> None:
    import soundfile

    soundfile.write(str(path), samples, rate_hz, subtype="FLOAT")


def _by_av(path: Path, codec: str, container: str | None = None) -> None:
    """A codec that soundfile does not write."""
    import av

    rate_hz = {"libopus": 48000, "wmav2": 44100}.get(codec, 16000)
    with av.open(str(path), "w", format=container) as target:
        track: Any = target.add_stream(codec, rate=rate_hz, layout="mono")
        track.bit_rate = 64_000
        samples = tone(1.0, rate_hz).T.astype(np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = rate_hz, 0
        resampler = av.AudioResampler(
            format=track.format, layout="mono", rate=rate_hz, frame_size=track.frame_size or None
        )
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            target.mux(track.encode(part))
        target.mux(track.encode())


def _hour(path: Path) -> None:
    """An hour of tone in a small file, written piece by piece."""
    import soundfile

    piece = tone(60.0, 8000)
    with soundfile.SoundFile(str(path), "w", 8000, 1, format="FLAC") as target:
        for _ in range(60):
            target.write(piece)


def _cut(path: Path, share: float, **options: Any) -> None:
    _file(path, **options)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def _wrong_length(path: Path) -> None:
    """A WAV whose header states four gigabytes, as recorders leave it when they lose power."""
    _file(path)
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = struct.pack("<I", 0xFFFFFFFF)
    path.write_bytes(content)


def _damaged(path: Path, **options: Any) -> None:
    _file(path, **options)
    path.write_bytes(changed(path.read_bytes(), 0.5, b"\xff" * 400))


def _bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)


_NAN = np.where(np.arange(16000) % 1000 == 5, np.nan, tone()[:, 0])
_LOUD = tone()[:, 0] * 40

AUDIO_FILES = (
    OddFile("plain.wav", _file, marks="tone"),
    OddFile("stereo.wav", partial(_file, channels=2), marks="tone"),
    OddFile("six_channels.wav", partial(_file, channels=6), marks="tone"),
    OddFile("8_bit.wav", partial(_file, subtype="PCM_U8"), marks="tone"),
    OddFile("24_bit.wav", partial(_file, subtype="PCM_24"), marks="tone"),
    OddFile("32_bit.wav", partial(_file, subtype="PCM_32"), marks="tone"),
    OddFile("float.wav", partial(_file, subtype="FLOAT"), marks="tone"),
    OddFile("double.wav", partial(_file, subtype="DOUBLE"), marks="tone"),
    OddFile("ulaw.wav", partial(_file, subtype="ULAW"), marks="tone"),
    OddFile("adpcm.wav", partial(_file, subtype="IMA_ADPCM"), marks="tone"),
    OddFile("8_khz.wav", partial(_file, rate_hz=8000), marks="tone"),
    OddFile("11025_hz.wav", partial(_file, rate_hz=11025), marks="tone"),
    OddFile("44100_hz.wav", partial(_file, rate_hz=44100, channels=2), marks="tone"),
    OddFile("192_khz.wav", partial(_file, rate_hz=192_000), marks="tone"),
    OddFile("rf64.wav", partial(_file, format="RF64"), marks="tone"),
    OddFile("plain.flac", _file, marks="tone"),
    OddFile("plain.ogg", partial(_file, format="OGG", subtype="VORBIS"), marks="tone"),
    OddFile("plain.mp3", partial(_file, format="MP3"), marks="tone"),
    OddFile("plain.aiff", _file, marks="tone"),
    OddFile("opus.ogg", partial(_by_av, codec="libopus"), marks="tone"),
    OddFile("plain.m4a", partial(_by_av, codec="aac", container="ipod"), marks="tone"),
    OddFile("plain.aac", partial(_by_av, codec="aac", container="adts"), marks="tone"),
    OddFile("plain.wma", partial(_by_av, codec="wmav2", container="asf"), marks="tone"),
    OddFile("matroska.mkv", partial(_by_av, codec="libopus"), marks="tone"),
    OddFile("mp3_inside.wav", partial(_file, format="MP3"), marks="tone"),
    OddFile("hour.flac", _hour, marks="tone"),
    OddFile("loud.wav", partial(_samples, samples=_LOUD), marks="tone"),
    OddFile("wrong_length.wav", _wrong_length, marks="tone"),
    OddFile("cut.wav", partial(_cut, share=0.6), marks="tone"),
    OddFile("cut.mp3", partial(_cut, share=0.6, format="MP3"), marks="tone"),
    OddFile("cut.flac", partial(_cut, share=0.6), reads=None),
    OddFile("damaged.mp3", partial(_damaged, format="MP3"), reads=None),
    OddFile("damaged.ogg", partial(_damaged, format="OGG", subtype="VORBIS"), reads=None),
    OddFile("not_numbers.wav", partial(_samples, samples=_NAN), reads=False, message="not numbers"),
    OddFile("infinite.wav", partial(_samples, samples=np.full(16000, np.inf)), reads=False, message="not numbers"),
    OddFile("one_sample.wav", partial(_samples, samples=np.zeros(1)), reads=False, message="25 ms"),
    OddFile("no_samples.wav", partial(_samples, samples=np.zeros(0)), reads=False, message="the audio is empty"),
    OddFile("24_ms.wav", partial(_file, seconds=0.024), reads=False, message="25 ms"),
    OddFile("26_ms.wav", partial(_file, seconds=0.026)),
    OddFile("silence.wav", partial(_samples, samples=np.zeros(16000)), marks="silence"),
    OddFile("cut_in_header.wav", partial(_cut, share=0.0008), reads=False, message="not readable audio"),
    OddFile("empty.wav", partial(_bytes, content=b""), reads=False, message="empty"),
    OddFile("zeros.mp3", partial(_bytes, content=bytes(5000)), reads=False, message="not readable audio"),
    OddFile(
        "text.wav",
        partial(_bytes, content=b"this is a text file, not audio\n" * 40),
        reads=False,
        message="not readable audio",
    ),
)
