"""Convert the videos of VALOR (ten seconds of AudioSet each) to frames and audio in the layout of MULTIS.

    data/multis/audioset/frames_recons/<video>/img_0001.jpg ...
    data/multis/audioset/audio_22050hz_recons/<video>.wav

    python -m dataset_prep.valor --videos raw/audioset --ids raw/multis/audiovideo_*_10k.json

<video> is the name of the file without its ending. With --ids only the videos that these lists name are converted, with
the names of the lists: a file is found by its YouTube id (AudioSet has one segment of each video), whatever its suffix.
A video without an audio track has no WAV and is listed; dataset_prep.multis then skips its records, which are about the
audio.
"""

from __future__ import annotations

from collections.abc import Sequence

from dataset_prep import extract_audio, extract_frames
from dataset_prep.common import arguments
from dataset_prep.common.preparation import Preparation
from dataset_prep.extract_audio import RATE_HZ
from dataset_prep.extract_frames import FrameSettings
from dataset_prep.media_jobs import VIDEO_ENDINGS, add_ids_argument, add_media_arguments, wanted_files

MADE_BY = "dataset_prep.valor"


def main(given: Sequence[str] | None = None) -> int:
    parser = arguments.parser(__doc__, MADE_BY, out="data/multis")
    parser.add_argument(
        "--videos", "--clips", type=arguments.existing_folder, required=True, help="folder, searched recursively"
    )
    parser.add_argument("--fps", type=arguments.above_zero, default=4.0, help="frames per second (default: 4)")
    parser.add_argument("--side", type=arguments.positive, default=256, help="short side of the frames (default: 256)")
    add_media_arguments(parser)
    add_ids_argument(parser)
    asked = parser.parse_args(given)
    settings = FrameSettings(asked.fps, asked.side)
    folder = asked.out / "audioset"
    with Preparation(folder / "frames_recons", "audioset_frames", MADE_BY, vars(settings)) as made:
        videos = wanted_files(made, asked.videos, VIDEO_ENDINGS, asked.ids, asked.limit, by_youtube_id=True)
        extract_frames.extract_all(made, videos, settings, asked.workers, asked.time_limit_s)
    print(made.report())
    if made.stops:
        return 130
    with Preparation(folder / "audio_22050hz_recons", "audioset_sound", MADE_BY, {"rate_hz": RATE_HZ}) as made:
        videos = wanted_files(made, asked.videos, VIDEO_ENDINGS, asked.ids, asked.limit, by_youtube_id=True)
        extract_audio.extract_all(made, videos, RATE_HZ, asked.workers, asked.time_limit_s)
    print(made.report())
    return 130 if made.stops else 0


if __name__ == "__main__":
    arguments.run(main)
