"""Write the audio track of video and audio files as mono WAV: <out>/<name>.wav.

MULTIS has 22,050 Hz and 16 bits. The model reads 16,000 Hz, so --rate-hz 16000 saves a quarter of the disk space and
the resampling. The channels are averaged.

    python -m dataset_prep.extract_audio --from raw/audiocaps --out data/multis/audiocaps/audio_22050hz

--ids takes JSON lists of records and extracts only the files that their video_id names. Videos without an audio track
are skipped and listed; they are not replaced by silence.
"""

from __future__ import annotations

import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dataset_prep.common import arguments
from dataset_prep.common.preparation import Preparation
from dataset_prep.common.workers import Unusable
from dataset_prep.media_jobs import (
    AUDIO_ENDINGS,
    VIDEO_ENDINGS,
    add_ids_argument,
    add_media_arguments,
    add_source_arguments,
    convert,
    wanted_files,
    whole_or_nothing,
)
from dataset_prep.video_frames import opened

RATE_HZ = 22_050
SLACK_S = 2.0  # tools that cut videos stop at the next packet or key frame


@dataclass(frozen=True)
class Cut:
    """A segment of a longer recording, in seconds. A file that is not longer than the segment is the segment itself."""

    start_s: float
    length_s: float

    def samples(self, duration_s: float | None, rate_hz: int) -> slice:
        """The samples of the segment in a file of this duration."""
        is_segment = duration_s is not None and duration_s <= self.length_s + SLACK_S
        start_s = 0.0 if is_segment else self.start_s
        return slice(round(start_s * rate_hz), round((start_s + self.length_s) * rate_hz))


def extract_audio(source: Path, target: Path, rate_hz: int = RATE_HZ, cut: Cut | None = None) -> float:
    """Write the first audio track of a file as mono 16-bit WAV and return its length in seconds.

    raises   Unusable without an audio track or without a sample in it; any error of PyAV for an unreadable file
    """
    with opened(source) as container:
        if not container.streams.audio:
            raise Unusable("has no audio track")
        wave_ = _read(container, rate_hz, cut)
    if not len(wave_):
        raise Unusable("its audio track is empty")
    with whole_or_nothing(target) as part:
        _write(part, wave_, rate_hz)
    return len(wave_) / rate_hz


def _read(container: Any, rate_hz: int, cut: Cut | None) -> np.ndarray:
    """The mean of the channels at `rate_hz`: int16[samples]."""
    import av

    resampler = av.AudioResampler("fltp", None, rate_hz)
    chunks, length = [np.zeros(0, np.float32)], 0
    duration_s = None if container.duration is None else container.duration / av.time_base
    segment = slice(0, None) if cut is None else cut.samples(duration_s, rate_hz)
    for frame in container.decode(audio=0):
        for part in resampler.resample(frame):
            chunks.append(part.to_ndarray().mean(axis=0))
            length += part.samples
        if segment.stop is not None and length >= segment.stop:
            break
    else:
        chunks += [part.to_ndarray().mean(axis=0) for part in resampler.resample(None)]
    samples = np.concatenate(chunks)[segment]
    return np.round(samples.clip(-1, 1) * 32767).astype("<i2")


def _write(path: Path, samples: np.ndarray, rate_hz: int) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(samples.tobytes())


@dataclass(frozen=True)
class AudioJob:
    """One file to convert."""

    source: Path
    target: Path
    rate_hz: int
    cut: Cut | None = None


def do_job(job: AudioJob) -> int:
    extract_audio(job.source, job.target, job.rate_hz, job.cut)
    return 1


def extract_all(made: Preparation, files: dict[str, Path], rate_hz: int, workers: int, limit_s: float) -> None:
    """Extract the audio of every file (name -> file) into the folder of the set."""
    jobs = [(f"{name}.wav", AudioJob(path, made.folder / f"{name}.wav", rate_hz)) for name, path in files.items()]
    convert(made, jobs, do_job, workers, limit_s)


def main(given: Sequence[str] | None = None) -> int:
    parser = arguments.parser(__doc__, "dataset_prep.extract_audio")
    parser.add_argument("--rate-hz", type=arguments.positive, default=RATE_HZ, help=f"sample rate (default: {RATE_HZ})")
    add_media_arguments(parser)
    add_source_arguments(parser)
    add_ids_argument(parser)
    asked = parser.parse_args(given)
    made_with = {"rate_hz": asked.rate_hz}
    with Preparation(asked.out, asked.name or asked.out.name, "dataset_prep.extract_audio", made_with) as made:
        files = wanted_files(made, asked.source, AUDIO_ENDINGS | VIDEO_ENDINGS, asked.ids, asked.limit)
        extract_all(made, files, asked.rate_hz, asked.workers, asked.time_limit_s)
    print(made.report())
    return 130 if made.stops else 0


if __name__ == "__main__":
    arguments.run(main)
