"""Write the sound of clips and sound files as mono WAV: <out>/<name>.wav.

22,050 Hz and 16 bits is the form MULTIS has; the model hears 16,000 Hz in the end, so --rate-hz 16000 saves a quarter
of the disk and the resampling. Several channels become one by their mean.

    python -m dataset_prep.extract_sound --from raw/audiocaps --out data/multis/audiocaps/audio_22050hz

--ids takes JSON lists of records and extracts only the sounds that their video_id names. Clips without a sound track
are skipped and listed: no silence is made up for them.
"""

from __future__ import annotations

import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dataset_prep.clips import opened
from dataset_prep.common import arguments
from dataset_prep.common.preparation import Preparation
from dataset_prep.common.workers import Unusable
from dataset_prep.media_jobs import (
    SOUND_ENDINGS,
    VIDEO_ENDINGS,
    add_ids_argument,
    add_media_arguments,
    add_source_arguments,
    convert,
    wanted_files,
    whole_or_nothing,
)

RATE_HZ = 22_050
SLACK_S = 2.0  # cutting tools stop at the next packet or key frame


@dataclass(frozen=True)
class Cut:
    """A piece of a longer recording, in seconds. A file that is no longer than the piece is the piece already."""

    start_s: float
    length_s: float

    def samples(self, duration_s: float | None, rate_hz: int) -> slice:
        """Where the piece is in a file of this length."""
        is_piece = duration_s is not None and duration_s <= self.length_s + SLACK_S
        start_s = 0.0 if is_piece else self.start_s
        return slice(round(start_s * rate_hz), round((start_s + self.length_s) * rate_hz))


def extract_sound(source: Path, target: Path, rate_hz: int = RATE_HZ, cut: Cut | None = None) -> float:
    """Write the first sound track of a file as mono 16-bit WAV and return its length in seconds.

    raises   Unusable without a sound track or without a sample in it; whatever PyAV raises for a file it cannot read
    """
    with opened(source) as container:
        if not container.streams.audio:
            raise Unusable("has no sound track")
        wave_ = _read(container, rate_hz, cut)
    if not len(wave_):
        raise Unusable("its sound track is empty")
    with whole_or_nothing(target) as part:
        _write(part, wave_, rate_hz)
    return len(wave_) / rate_hz


def _read(container: Any, rate_hz: int, cut: Cut | None) -> np.ndarray:
    """int16[samples], the mean of the channels at `rate_hz`."""
    import av

    resampler = av.AudioResampler("fltp", None, rate_hz)
    chunks, length = [np.zeros(0, np.float32)], 0
    duration_s = None if container.duration is None else container.duration / av.time_base
    piece = slice(0, None) if cut is None else cut.samples(duration_s, rate_hz)
    for frame in container.decode(audio=0):
        for part in resampler.resample(frame):
            chunks.append(part.to_ndarray().mean(axis=0))
            length += part.samples
        if piece.stop is not None and length >= piece.stop:
            break
    else:
        chunks += [part.to_ndarray().mean(axis=0) for part in resampler.resample(None)]
    samples = np.concatenate(chunks)[piece]
    return np.round(samples.clip(-1, 1) * 32767).astype("<i2")


def _write(path: Path, samples: np.ndarray, rate_hz: int) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(samples.tobytes())


@dataclass(frozen=True)
class SoundJob:
    """A sound on its way from a file into another."""

    source: Path
    target: Path
    rate_hz: int
    cut: Cut | None = None


def do_job(job: SoundJob) -> int:
    extract_sound(job.source, job.target, job.rate_hz, job.cut)
    return 1


def extract_all(made: Preparation, sounds: dict[str, Path], rate_hz: int, workers: int, limit_s: float) -> None:
    """The sound of every file (name -> file) in the folder of the set."""
    jobs = [(f"{name}.wav", SoundJob(path, made.folder / f"{name}.wav", rate_hz)) for name, path in sounds.items()]
    convert(made, jobs, do_job, workers, limit_s)


def main(given: Sequence[str] | None = None) -> int:
    parser = arguments.parser(__doc__, "dataset_prep.extract_sound")
    parser.add_argument("--rate-hz", type=arguments.positive, default=RATE_HZ, help=f"(default: {RATE_HZ})")
    add_media_arguments(parser)
    add_source_arguments(parser)
    add_ids_argument(parser)
    asked = parser.parse_args(given)
    made_with = {"rate_hz": asked.rate_hz}
    with Preparation(asked.out, asked.name or asked.out.name, "dataset_prep.extract_sound", made_with) as made:
        sounds = wanted_files(made, asked.source, SOUND_ENDINGS | VIDEO_ENDINGS, asked.ids, asked.limit)
        extract_all(made, sounds, asked.rate_hz, asked.workers, asked.time_limit_s)
    print(made.report())
    return 130 if made.stops else 0


if __name__ == "__main__":
    arguments.run(main)
