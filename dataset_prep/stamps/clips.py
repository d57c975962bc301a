"""Clips of equal length from recordings of any length, with altered copies.

Every clip has SECONDS at RATE_HZ in mono and the same loudness, and a short sound is repeated. So neither the length
nor the loudness tells what is heard, and an encoder that pads to a fixed window does not see mostly silence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio

from chatbridge.common.seeds import stream
from dataset_prep.common.manifest import part_of
from dataset_prep.stamps.sounds import Recording, read_sound

RATE_HZ = 16_000
SECONDS = 3.0
COMMON = 20  # Hz; smallest common divisor of two rates that are resampled by a filter
PAUSE = 0.2  # seconds between repetitions
LOUDNESS = 0.08  # root mean square of a clip; peaks above 1 are clipped
SILENT = 0.02  # of the peak: what is quieter at the ends is cut off


@dataclass(frozen=True)
class Alteration:
    """speed: the factor of tempo and pitch; noise: share of the loudness"""

    name: str
    speed: float = 1.0
    noise: float = 0.0


TRAINED = (Alteration("as-is"), Alteration("slower", 0.92), Alteration("faster", 1.08), Alteration("noisy", 1.0, 0.1))
HELD_OUT = (Alteration("as-is"),)
# for a recording of which another copy was trained on: a speed and a noise that no training copy has
HELD_OUT_COPY = (Alteration("altered", 0.96, 0.05),)


def clips(one: Recording, folder: Path) -> list[Path]:
    """The clips of a recording, written below `folder`; existing files are kept."""
    variants = TRAINED if not one.held_out else HELD_OUT_COPY if one.held_out == "altered" else HELD_OUT
    made = []
    for variant in variants:
        path = (folder / (one.held_out or "train") / f"{one.key}_{variant.name}.wav").absolute()
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = part_of(path)
            soundfile.write(str(part), clip(one, variant), RATE_HZ, subtype="PCM_16", format="WAV")
            part.replace(path)
        made.append(path)
    return made


def clip(one: Recording, variant: Alteration) -> np.ndarray:
    """float32[SECONDS * RATE_HZ], mono."""
    wave = _decoded(one.path)
    begin, end = (round(share * len(wave)) for share in one.part)
    filled = _repeated(_at_speed(_cut(wave[begin:end]), variant.speed), round(SECONDS * RATE_HZ))
    filled = filled * (LOUDNESS / max(1e-6, float(np.sqrt(np.mean(filled**2)))))
    if variant.noise:
        noise = stream(0, f"noise {one.key} {variant.name}").standard_normal(len(filled))
        filled = filled + variant.noise * LOUDNESS * noise
    return np.clip(filled, -1, 1).astype(np.float32)


@lru_cache(maxsize=1)  # the copies of a recording are made one after another
def _decoded(path: Path) -> np.ndarray:
    """float32[samples] at RATE_HZ, mono."""
    samples, rate = read_sound(path)
    mono = samples.mean(axis=1)
    if math.gcd(rate, RATE_HZ) < COMMON:  # 11,127 Hz: the filter of an exact resampling has a kernel per sample
        return _at_speed(mono, rate / RATE_HZ)
    return torchaudio.functional.resample(torch.from_numpy(mono), rate, RATE_HZ).numpy()


def _at_speed(wave: np.ndarray, speed: float) -> np.ndarray:
    """The sound faster or slower, pitch included; linear between samples, since no rate divides the other."""
    places = np.arange(0, len(wave) - 1, speed)
    return np.interp(places, np.arange(len(wave)), wave).astype(np.float32) if speed != 1 else wave


def _cut(wave: np.ndarray) -> np.ndarray:
    """Without silence at both ends."""
    loud = np.flatnonzero(np.abs(wave) > SILENT * np.abs(wave).max(initial=0))
    return wave[loud[0] : loud[-1] + 1] if len(loud) else wave


def _repeated(wave: np.ndarray, length: int) -> np.ndarray:
    """The sound again and again, with pauses, up to the length."""
    once = np.concatenate([wave, np.zeros(round(PAUSE * RATE_HZ), np.float32)])
    return np.tile(once, -(-length // len(once)))[:length]
