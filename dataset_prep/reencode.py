"""Re-encode videos for fast reading: H.264, short side 256 pixels, a key frame every second.

To read four frames of a ten-minute video at full size, a decoder has to decode thousands of large frames. With a key
frame every second it seeks close to each of them and decodes few small frames. The audio track is kept (as AAC), the
rotation is applied, and time stamps are unchanged, also for a variable frame rate. Videos are never enlarged.

    python -m dataset_prep.reencode --from raw/webvid --out data/webvid/videos --workers 16

Requires PyAV (pip install 'chatbridge[video]') but no ffmpeg program. Unreadable videos are listed in skipped.jsonl.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from dataset_prep.common import arguments
from dataset_prep.common.preparation import Preparation
from dataset_prep.media_jobs import (
    VIDEO_ENDINGS,
    add_media_arguments,
    add_source_arguments,
    convert,
    files_of,
    whole_or_nothing,
)
from dataset_prep.video_frames import DecodedFrames, first_video, fitted, opened, upright

TICKS_HZ = 90_000  # time base of the written frames
# Key frames are placed by time, not by count or by scene. Seven of eight frames are B-frames that no other frame refers
# to, so a reader can skip them, and the entropy coder is the fast one: reading four frames of a 10 s video takes 16 ms
# instead of 25 ms with the default of x264, at the same size (one core, 640 x 360 before).
X264 = "keyint=infinite:scenecut=0:bframes=7:b-adapt=0:b-pyramid=none:cabac=0"
AAC_RATES_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


@dataclass(frozen=True)
class WrittenVideo:
    """The properties of a re-encoded video."""

    frames: int
    seconds: float
    has_audio: bool


def reencode(source: Path, target: Path, side: int = 256, key_seconds: float = 1, crf: int = 23) -> WrittenVideo:
    """Write `source` as an mp4 with a short side of at most `side` pixels and a key frame every `key_seconds`.

    crf      quality of x264: lower is better and larger; 23 is its default
    raises   Unusable when the file has no frames, is truncated or damaged; any error of PyAV for an unreadable file.
             Nothing is written to `target` then
    """
    import av

    with whole_or_nothing(target) as part, opened(source) as read:
        with av.open(str(part), "w", "mp4", options={"movflags": "faststart"}) as written:
            start_s = (read.start_time or 0) / av.time_base
            video = first_video(read)
            frames = _VideoTrack(written, video, DecodedFrames(read, video), side, key_seconds, crf, start_s)
            tracks: dict[int, _VideoTrack | _AudioTrack] = {video.index: frames}
            if read.streams.audio:
                tracks[read.streams.audio[0].index] = _AudioTrack(written, read.streams.audio[0], start_s)
            for packet in read.demux(*(track.source for track in tracks.values())):
                for frame in packet.decode():
                    tracks[packet.stream_index].add(frame)
            for track in tracks.values():
                track.close()
        frames.decoded.check()
    return WrittenVideo(frames.count, frames.decoded.length_s(), len(tracks) > 1)


class _VideoTrack:
    """Scales and encodes frames as H.264. The first frame determines the size of the track."""

    def __init__(
        self, written: Any, source: Any, decoded: DecodedFrames, side: int, key_seconds: float, crf: int, start_s: float
    ):
        self.source, self.decoded, self.count = source, decoded, 0
        self._written, self._side, self._start_s, self._last = written, side, start_s, -1
        self._key_ticks, self._next_key = max(1, round(key_seconds * TICKS_HZ)), 0
        rate = source.average_rate or Fraction(25)
        options = {"crf": str(crf), "preset": "veryfast", "forced-idr": "1", "x264-params": X264}
        self._track = written.add_stream("libx264", rate=rate, options=options)
        self._track.pix_fmt = "yuv420p"
        self._track.codec_context.time_base = Fraction(1, TICKS_HZ)
        self._track.codec_context.thread_count = 1  # the same bytes on every machine; videos are encoded in parallel
        self._size: tuple[int, int] | None = None

    def add(self, frame: Any) -> None:
        from av.video.frame import PictureType

        ticks = round((self.decoded.time_of(frame) - self._start_s) * TICKS_HZ)
        if ticks <= self._last:
            return  # of two frames with the same time the first is used
        small = self._scaled(frame)
        small.pts, small.time_base = ticks, Fraction(1, TICKS_HZ)
        small.pict_type = PictureType.I if ticks >= self._next_key else PictureType.NONE
        if ticks >= self._next_key:
            self._next_key = (ticks // self._key_ticks + 1) * self._key_ticks
        self._last, self.count = ticks, self.count + 1
        self._written.mux(self._track.encode(small))

    def close(self) -> None:
        if self.count:
            self._written.mux(self._track.encode())

    def _scaled(self, frame: Any) -> Any:
        """The frame scaled to the size of the track and rotated; yuv420p requires even sides."""
        import av

        quarters = round(frame.rotation / 90) % 4
        if self._size is None:
            self._size = fitted(frame.width, frame.height, self._side, multiple=2)
            self._track.width, self._track.height = self._size[::-1] if quarters % 2 else self._size
            for tag in ("colorspace", "color_primaries", "color_trc"):
                setattr(self._track.codec_context, tag, getattr(frame, tag))
        width, height = self._size
        if not quarters:
            return frame.reformat(width, height, "yuv420p", interpolation="AREA")
        pixels = frame.to_ndarray(width=width, height=height, format="rgb24", interpolation="AREA")
        return av.VideoFrame.from_ndarray(upright(pixels, frame.rotation), "rgb24").reformat(format="yuv420p")


class _AudioTrack:
    """Encodes audio as AAC, at its own sample rate if AAC supports it."""

    def __init__(self, written: Any, source: Any, start_s: float):
        import av

        self.source = source
        self._written, self._start_s, self._samples = written, start_s, None
        self._rate_hz = min(AAC_RATES_HZ, key=lambda rate_hz: abs(rate_hz - source.rate))
        layout = "mono" if source.channels == 1 else "stereo"
        self._track = written.add_stream("aac", rate=self._rate_hz, layout=layout)
        self._resampler = av.AudioResampler("fltp", layout, self._rate_hz)

    def add(self, frame: Any) -> None:
        if self._samples is None:  # the audio may begin after the first frame
            start_s = 0.0 if frame.time is None else frame.time - self._start_s
            self._samples = max(0, round(start_s * self._rate_hz))
        self._encode(self._resampler.resample(frame))

    def close(self) -> None:
        if self._samples is not None:
            self._encode(self._resampler.resample(None))
            self._written.mux(self._track.encode())

    def _encode(self, frames: list[Any]) -> None:
        for frame in frames:
            frame.pts, frame.time_base = self._samples, Fraction(1, self._rate_hz)
            self._samples += frame.samples
            self._written.mux(self._track.encode(frame))


def main(given: Sequence[str] | None = None) -> int:
    parser = arguments.parser(__doc__, "dataset_prep.reencode")
    parser.add_argument("--side", type=arguments.positive, default=256, help="pixels of the short side (default: 256)")
    parser.add_argument(
        "--key-seconds", type=arguments.above_zero, default=1.0, help="seconds between key frames (default: 1)"
    )
    parser.add_argument("--crf", type=arguments.count, default=23, help="quality of x264, 0 to 51 (default: 23)")
    add_media_arguments(parser)
    add_source_arguments(parser)
    asked = parser.parse_args(given)
    made_with = {"side": asked.side, "key_seconds": asked.key_seconds, "crf": asked.crf}
    with Preparation(asked.out, asked.name or asked.out.name, "dataset_prep.reencode", made_with) as made:
        jobs = {}
        for source in files_of(asked.source, VIDEO_ENDINGS)[: asked.limit]:
            path = source.relative_to(asked.source).with_suffix(".mp4").as_posix()
            if path in jobs:
                made.skip(str(source), "another file has the same name", str(jobs[path].source), file=str(source))
            else:
                jobs[path] = _Job(source, asked.out / path, **made_with)
        convert(made, list(jobs.items()), _do, asked.workers, asked.time_limit_s)
    print(made.report())
    return 130 if made.stops else 0


@dataclass(frozen=True)
class _Job:
    source: Path
    target: Path
    side: int
    key_seconds: float
    crf: int


def _do(job: _Job) -> int:
    reencode(job.source, job.target, job.side, job.key_seconds, job.crf)
    return 1


if __name__ == "__main__":
    arguments.run(main)
