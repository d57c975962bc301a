"""Audio files that libsndfile knows: wav, flac, ogg, mp3 and more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from chatbridge.common.errors import MediaError
from chatbridge.processors.audio_reader import AudioEndsEarly, AudioReader, ChannelMixer, Kept, joined

BLOCK = 1 << 20  # numbers decoded at a time, all channels together
UNKNOWN = 1 << 60  # soundfile's "as many as there are"
PROBES = 16  # positions at which audio after a hole is looked for
MP3_LEAD = 10 * 1152  # samples decoded before a wanted position: a frame needs bits of up to 7 frames before it


class SoundFileReader:
    """Seeks to the sample in every format. `can_seek` is false for the few files in which libsndfile cannot."""

    def __init__(self, handle: Any, channels: Kept = "mean"):
        if not handle.samplerate > 0:
            raise MediaError(f"its header states {handle.samplerate} samples per second")
        self._handle = handle
        self._channels: Kept = channels
        self.format: str = handle.format
        self.can_seek = bool(handle.seekable())
        self._lead = MP3_LEAD if handle.format == "MP3" else 0
        self.rate_hz = int(handle.samplerate)
        self.num_samples = int(handle.frames)
        if not 0 <= self.num_samples < UNKNOWN and self.can_seek:
            self.num_samples = sum(map(len, self._blocks(UNKNOWN, ChannelMixer(channels))))

    def read(self, start: int, stop: int) -> np.ndarray:
        """float32[stop - start]

        raises   MediaError for damage before `stop`, AudioEndsEarly when the audio ends there
        """
        if start >= stop:
            return np.zeros(0, dtype=np.float32)
        lead = min(start, self._lead)
        mixer = ChannelMixer(self._channels)
        self._handle.seek(start - lead)
        samples = joined([*self._blocks(stop - start + lead, mixer)])[lead:]
        if len(samples) < stop - start:
            end = start + len(samples) if len(samples) else self._end()
            if self._continues(end):
                raise MediaError(f"its data are damaged at {end / self.rate_hz:.2f} s; the audio continues after that")
            raise AudioEndsEarly(end)
        mixer.check()
        return samples

    def close(self) -> None:
        self._handle.close()

    def _end(self) -> int:
        """Samples that can be decoded."""
        self._handle.seek(0)
        return sum(map(len, self._blocks(UNKNOWN, ChannelMixer(self._channels))))

    def _continues(self, end: int) -> bool:
        """Whether there is audio after the position where reading stopped, so that this is a hole and not the end."""
        rest = int(self._handle.frames) - end
        for number in range(1, PROBES):
            try:
                self._handle.seek(end + rest * number // PROBES)
                if len(self._handle.read(1, dtype="float32", always_2d=True)):
                    return True
            except RuntimeError:  # nothing there
                continue
        return False

    def _blocks(self, wanted: int, mixer: ChannelMixer) -> Iterator[np.ndarray]:
        size = max(1, BLOCK // self._handle.channels)
        while wanted > 0:
            block = self._handle.read(min(size, wanted), dtype="float32", always_2d=True)
            if not len(block):
                return
            wanted -= len(block)
            yield mixer(block)


class ChainedReader:
    """Audio files one after the other, of one rate: the links of a chained Ogg file, MP3 files joined together."""

    def __init__(self, links: Sequence[AudioReader]):
        self._links = links
        self.rate_hz = links[0].rate_hz
        if any(link.rate_hz != self.rate_hz for link in links):
            rates = ", ".join(str(link.rate_hz) for link in links)
            raise MediaError(f"its parts have different rates ({rates} Hz); convert it to one")
        self.num_samples = sum(link.num_samples for link in links)

    def read(self, start: int, stop: int) -> np.ndarray:
        """float32[stop - start]"""
        pieces: list[np.ndarray] = []
        first = 0
        for link in self._links:
            begin, end = max(start - first, 0), min(stop - first, link.num_samples)
            if begin < end:
                pieces.append(link.read(begin, end))
            first += link.num_samples
        return joined(pieces)

    def close(self) -> None:
        for link in self._links:
            link.close()
