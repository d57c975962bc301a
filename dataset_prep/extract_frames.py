"""Write the frames of videos as JPEG files, a folder per video: <out>/<name of the video>/img_0001.jpg ...

MULTIS has four frames per second. Training then opens only the images it needs and decodes no video. The frames are
those displayed at 0, 0.25, 0.5 ... seconds, rotated by the display matrix, with a short side of at most 256 pixels;
--side 10000 keeps the size of the video.

    python -m dataset_prep.extract_frames --from raw/msrvtt/videos --out data/multis/msrvtt/frames_fps4

--ids takes JSON lists of records and extracts only the videos that their video_id (or image_id) names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset_prep.common import arguments
from dataset_prep.common.preparation import Preparation
from dataset_prep.media_jobs import (
    VIDEO_ENDINGS,
    add_ids_argument,
    add_media_arguments,
    add_source_arguments,
    convert,
    wanted_files,
    whole_or_nothing,
)
from dataset_prep.video_frames import first_video, frames_every, opened, small_frame


@dataclass(frozen=True)
class FrameSettings:
    """The rate, size and quality of the frames."""

    fps: float = 4.0  # frames per second
    side: int = 256  # largest short side, in pixels
    quality: int = 90  # of the JPEGs, 1 to 95


def extract_frames(source: Path, folder: Path, settings: FrameSettings = FrameSettings()) -> int:
    """Write the frames of a video into `folder` (completely or not at all) and return their number.

    raises   Unusable for a video without frames, truncated or damaged; any error of PyAV for an unreadable one
    """
    from PIL import Image

    count = 0
    with whole_or_nothing(folder, folder=True) as part, opened(source) as container:
        for frame in frames_every(container, first_video(container), 1 / settings.fps):
            count += 1
            image = Image.fromarray(small_frame(frame, settings.side))
            image.save(part / f"img_{count:04d}.jpg", quality=settings.quality)
    return count


@dataclass(frozen=True)
class _Job:
    source: Path
    folder: Path
    settings: FrameSettings


def _do(job: _Job) -> int:
    return extract_frames(job.source, job.folder, job.settings)


def extract_all(
    made: Preparation, videos: dict[str, Path], settings: FrameSettings, workers: int, limit_s: float
) -> None:
    """Extract the frames of every video (name -> file) into the folder of the set."""
    jobs = [(name, _Job(path, made.folder / name, settings)) for name, path in videos.items()]
    convert(made, jobs, _do, workers, limit_s)


def main(given: Sequence[str] | None = None) -> int:
    parser = arguments.parser(__doc__, "dataset_prep.extract_frames")
    parser.add_argument("--fps", type=arguments.above_zero, default=4.0, help="frames per second (default: 4)")
    parser.add_argument("--side", type=arguments.positive, default=256, help="pixels of the short side (default: 256)")
    parser.add_argument("--quality", type=arguments.positive, default=90, help="JPEG quality (default: 90)")
    add_media_arguments(parser)
    add_source_arguments(parser)
    add_ids_argument(parser)
    asked = parser.parse_args(given)
    settings = FrameSettings(asked.fps, asked.side, asked.quality)
    with Preparation(asked.out, asked.name or asked.out.name, "dataset_prep.extract_frames", vars(settings)) as made:
        videos = wanted_files(made, asked.source, VIDEO_ENDINGS, asked.ids, asked.limit)
        extract_all(made, videos, settings, asked.workers, asked.time_limit_s)
    print(made.report())
    return 130 if made.stops else 0


if __name__ == "__main__":
    arguments.run(main)
