"""The first audio track of a container (mp4, m4a, mkv, webm and whatever else FFmpeg opens), decoded slice by slice."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError, InvalidDataError

from chatbridge.common.errors import MediaError
from chatbridge.processors.audio_reader import AudioEndsEarly, ChannelMixer, Kept, joined
from chatbridge.processors.container_file import decodable, open_container
from chatbridge.processors.media_source import NoAudio

WHOLE_SECONDS = 90.0  # a shorter track is decoded once and kept: 17 MB at 48 kHz
# Formats whose header, index or time stamps state how long a track is; others only estimate it from the bit rate.
KNOWS_LENGTH = frozenset(
    {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "wav", "w64", "aiff", "caf", "asf", "avi", "flac"}
)
BARE = frozenset({"mp3", "aac", "ac3", "eac3", "dts", "amr", "amrnb", "amrwb", "loas", "truehd"})  # packets, no index
LEAD_SECONDS = 1.0  # decoded before a wanted position and dropped: decoders need a few packets to settle


class AudioTrackReader:
    """An AudioReader by PyAV.

    `num_samples` is exact for short tracks, which are decoded once. The length of longer ones comes from the header or
    the packets, and a slice is found by the time stamps of the track, exact to their unit (1 ms in mkv and webm);
    silent gaps between packets are left out.
    """

    def __init__(self, ref: str | Path | bytes, channels: Kept = "mean"):
        self._ref = ref
        self._channels: Kept = channels
        self._container: Any = open_container(ref)
        try:
            self._stream = self._find()
            self._begin: int | None = None  # time stamp of the first decoded sample, once it is needed
            self.rate_hz = int(self._stream.rate or self._probed_rate())
            self._kept: np.ndarray | None = None
            self._mixer = ChannelMixer(channels)
            self.num_samples = self._measure()
        except BaseException:
            self._container.close()
            raise

    def read(self, start: int, stop: int) -> np.ndarray:
        """float32[stop - start]. raises AudioEndsEarly when the track ends before `stop`"""
        self._mixer = ChannelMixer(self._channels)
        if self._kept is not None:
            if stop > len(self._kept):
                raise AudioEndsEarly(len(self._kept))
            return self._kept[start:stop]
        samples = _joined(self._decoded(start), stop - start)
        if len(samples) < stop - start:
            raise AudioEndsEarly(start + len(samples) if len(samples) else self._count())
        self._mixer.check()
        return samples

    def close(self) -> None:
        self._container.close()

    def _find(self) -> Any:
        container = self._container
        if container.streams.audio:
            stream = decodable(container.streams.audio[0])
            stream.thread_type = "NONE"
            return stream
        kind = container.format.name
        if container.streams.video and not kind.endswith("_pipe") and kind != "image2":
            raise NoAudio("it has no audio track")
        raise MediaError(f"not readable audio (it is {kind})")

    def _probed_rate(self) -> int:
        """Samples per second of the first frame, where the head of the file does not state it."""
        frame = next(self._container.decode(self._stream), None)
        if frame is None or not frame.sample_rate:
            raise NoAudio("its audio track is empty")
        self._container.seek(0)
        return frame.sample_rate

    def _measure(self) -> int:
        """Samples of the track; a short one is decoded on the way."""
        seconds = self._seconds()
        if seconds is not None and seconds > WHOLE_SECONDS:
            return int(seconds * self.rate_hz)
        most = int(2 * WHOLE_SECONDS * self.rate_hz)
        kept = _joined((piece for _, piece in self._frames()), most)
        if len(kept) < most:
            self._mixer.check()
            self._kept = kept
            return len(kept)
        return self._count()  # the header is wrong or incomplete

    def _seconds(self) -> float | None:
        stream, container = self._stream, self._container
        if container.format.name not in KNOWS_LENGTH:  # an estimate from the bit rate
            count = self._count()
            self._reopen()
            return count / self.rate_hz
        if stream.duration is not None and stream.time_base is not None:
            return float(stream.duration * stream.time_base)
        if container.duration is None or container.duration / av.time_base <= WHOLE_SECONDS:
            return None
        count = self._count()  # the container's length is that of its longest track
        return count / self.rate_hz

    def _count(self) -> int:
        """Samples by the time stamps of all packets; nothing is decoded."""
        self._container.seek(0)
        base, first, end = float(self._stream.time_base), None, 0.0
        for packet in self._container.demux(self._stream):
            if packet.pts is not None:
                first = packet.pts if first is None else first
                end = max(end, (packet.pts + (packet.duration or 0) - first) * base)
        return int(end * self.rate_hz)

    def _decoded(self, start: int) -> Iterator[np.ndarray]:
        """float32 pieces from sample `start` on."""
        for at, piece in self._placed(start):
            if at + len(piece) > start:
                yield piece[max(0, start - at) :]

    def _placed(self, start: int) -> Iterator[tuple[int, np.ndarray]]:
        """Pieces with the number of their first sample, from some sample before `start` on."""
        lead = start / self.rate_hz - LEAD_SECONDS
        frames, at = self._sought(lead) if lead > 0 else None, 0
        if frames is not None:
            pts, piece = next(frames, (0, np.zeros(0, dtype=np.float32)))
            at = round(float((pts - (self._begin or 0)) * self._stream.time_base) * self.rate_hz)
            if len(piece) and at <= start:
                yield at, piece
                at += len(piece)
            else:  # there is nothing, or the container sought too far
                frames = None
        if frames is None:
            self._reopen()
            frames, at = self._frames(), 0
        for _, piece in frames:
            yield at, piece
            at += len(piece)

    def _sought(self, seconds: float) -> Iterator[tuple[int, np.ndarray]] | None:
        """Frames from so many seconds after the first sample on. None where time stamps do not lead there: in a track
        without a start time, in Ogg (after a seek they may be some packets off; FLAC: 0.6 s), and in containers that
        have no index of this track."""
        if self._stream.start_time is None or self._container.format.name == "ogg":
            return None
        if self._container.format.name in BARE:
            return self._skipped(seconds)
        if self._begin is None:  # the head of the file may be a packet or a late start off
            self._reopen()
            self._begin = next(self._frames(), (0, None))[0]
        try:
            self._container.seek(self._begin + int(seconds / self._stream.time_base), stream=self._stream)
        except FFmpegError:
            return None
        return self._frames(after_seek=True)

    def _skipped(self, seconds: float) -> Iterator[tuple[int, np.ndarray]]:
        """As _sought, for files in which a seek only guesses: packets before the position are skipped, not decoded."""
        self._reopen()
        if self._begin is None:
            self._begin = next(self._frames(), (0, None))[0]
            self._reopen()
        wanted = self._begin + seconds / float(self._stream.time_base)
        return self._frames(after_seek=True, not_before=wanted)

    def _reopen(self) -> None:
        """Back to the first sample. After a seek to 0 some containers leave out a packet, or yield one too many."""
        self._container.close()
        self._container = open_container(self._ref)
        self._stream = self._find()

    def _frames(self, after_seek: bool = False, not_before: float = -math.inf) -> Iterator[tuple[int, np.ndarray]]:
        """Time stamp and mix of each frame; after a seek, all before the first whole frame is left out, and packets
        before the time stamp `not_before` are not decoded."""
        planar = av.AudioResampler(format="fltp")  # sample format only; rate and channels stay
        is_settled = not after_seek
        for packet in self._container.demux(self._stream):
            if packet.pts is not None and packet.pts < not_before:
                continue
            try:
                frames = packet.decode()
            except InvalidDataError:
                if is_settled:
                    raise
                continue
            for frame in frames:
                is_settled = is_settled or frame.pts is not None
                pieces = [self._mixer(part.to_ndarray().T) for part in planar.resample(frame)]
                if pieces and is_settled:
                    yield frame.pts or 0, np.concatenate(pieces)


def _joined(pieces: Iterator[np.ndarray], most: int) -> np.ndarray:
    """The first `most` samples."""
    found: list[np.ndarray] = []
    count = 0
    for piece in pieces:
        found.append(piece)
        count += len(piece)
        if count >= most:
            break
    return joined(found)[:most]
