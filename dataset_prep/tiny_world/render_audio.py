"""Scenes as waveforms: every rendering differs in pitch, level, timing and noise."""

from __future__ import annotations

import io
import math

import numpy as np
import soundfile

from dataset_prep.tiny_world.world import Scene

RATE_HZ, SECONDS = 16000, 2.0
BASE_HZ = {"high": (1600.0, 2100.0), "medium": (600.0, 800.0), "low": (220.0, 300.0)}
LEVELS = {"loud": (0.6, 0.9), "quiet": (0.015, 0.03)}
BEATS = {
    "one beat": (1, (0.0, 0.0)),
    "fast beats": (14, (0.1, 0.12)),
}  # count, gap in s
BEAT_SECONDS = 0.4  # after that a beat has decayed to a thousandth
BACKGROUND_LEVEL = 0.08  # relative to the foreground
HUM_HZ = (50.0, 60.0)
NOISE_FLOOR = 0.0002  # standard deviation of the noise in every recording
SWEEP = 1.6  # frequency ratio between the ends of a rising or falling tone


def waveform(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """The audio of a scene.

    returns   float32[samples] in [-1, 1], mono at RATE_HZ
    """
    base_hz, level = rng.uniform(*BASE_HZ[scene["pitch"]]), rng.uniform(*LEVELS[scene["volume"]])
    return waveform_of(scene["sound"], base_hz, level, scene["background"], rng)


def waveform_of(kind: str, base_hz: float, level: float, background: str, rng: np.random.Generator) -> np.ndarray:
    """The same for any pitch and any loudness, also for values between the named ones.

    base_hz   lowest frequency of a tone
    level     peak of the waveform before noise, 0 to 1
    returns   float32[samples] in [-1, 1], mono at RATE_HZ
    """
    seconds = SECONDS * rng.uniform(0.85, 1.0)
    time = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    wave = _wave(kind, time, base_hz, rng)
    wave = wave / (np.abs(wave).max() + 1e-6) + BACKGROUND_LEVEL * _background_noise(background, time, rng)
    return np.clip(level * wave + rng.normal(0, NOISE_FLOOR, wave.shape), -1, 1).astype(np.float32)


def _background_noise(background: str, time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Constant noise of a poor recording: hiss has all frequencies, hum has the first four harmonics of the mains."""
    if background == "hissing":
        return rng.normal(size=time.size)
    if background == "humming":
        phase = 2 * math.pi * (rng.uniform(*HUM_HZ) * time + rng.uniform())
        return sum((np.sin(harmonic * phase) for harmonic in range(1, 5)), np.zeros_like(time))
    return np.zeros_like(time)


def _wave(kind: str, time: np.ndarray, base_hz: float, rng: np.random.Generator) -> np.ndarray:
    progress = time / time[-1]
    if kind == "rising tone":
        return _tone(base_hz * SWEEP**progress, time)
    if kind == "falling tone":
        return _tone(base_hz * SWEEP ** (1 - progress), time)
    if kind == "steady tone":
        return _tone(np.full_like(time, base_hz * SWEEP**0.5), time)
    if kind == "siren":
        turns_hz = rng.uniform(1.6, 2.2)
        return _tone(base_hz * SWEEP ** (0.5 + 0.5 * np.sin(2 * math.pi * turns_hz * time)), time)
    if kind == "noise":
        return _band_noise(time.size, base_hz, rng)
    return _beats(*BEATS[kind], time, base_hz, rng)


def _tone(frequency_hz: np.ndarray, time: np.ndarray) -> np.ndarray:
    phase = 2 * math.pi * np.cumsum(frequency_hz) / RATE_HZ
    fade = np.minimum(1, np.minimum(time, time[-1] - time) / 0.03)
    return fade * (np.sin(phase) + 0.3 * np.sin(2 * phase))


def _band_noise(size: int, center_hz: float, rng: np.random.Generator) -> np.ndarray:
    """Noise from center_hz / SWEEP to center_hz * SWEEP."""
    length = 1 << (size - 1).bit_length()  # an FFT whose length has a large prime factor takes ten times as long
    spectrum = np.fft.rfft(rng.normal(size=length))
    hz = np.fft.rfftfreq(length, 1 / RATE_HZ)
    spectrum[(hz < center_hz / SWEEP) | (hz > center_hz * SWEEP)] = 0
    return np.fft.irfft(spectrum, length)[:size]


def _beats(
    count: int, gaps_s: tuple[float, float], time: np.ndarray, base_hz: float, rng: np.random.Generator
) -> np.ndarray:
    """`count` short decaying tones, with a gap drawn from `gaps_s`."""
    gap_s = rng.uniform(*gaps_s)
    start_s = rng.uniform(0.05, max(0.06, time[-1] - gap_s * (count - 1) - 0.2))
    wave = np.zeros_like(time)
    for beat in range(count):
        beat_s = start_s + beat * gap_s
        first, last = np.searchsorted(time, (beat_s, beat_s + BEAT_SECONDS))
        since = time[first:last] - beat_s
        wave[first:last] += np.exp(-since / 0.05) * np.sin(2 * math.pi * 1.4 * base_hz * since)
    return wave


def wav(scene: Scene, rng: np.random.Generator) -> bytes:
    """The audio of a scene as a WAV file of 16 bits."""
    samples = waveform(scene, rng)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE_HZ, format="WAV", subtype="PCM_16")
    return buffer.getvalue()
