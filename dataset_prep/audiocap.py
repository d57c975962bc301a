"""Convert AudioCaps to mono WAV of 22,050 Hz and captions in the layout of MULTIS.

    data/multis/audiocaps/audio_22050hz/<youtube id>.wav       from a folder of audio or video files (--audio)
    data/multis/aud_cap_audiocaps.json                         from train.csv (--csv), for the files that exist

train.csv (audiocap_id, youtube_id, start_time, caption) is at https://github.com/cdjkim/audiocaps; the ten seconds of
each row have to be downloaded from YouTube or taken from a copy. File names may be <audiocap_id>, <youtube_id>_<start>,
<youtube_id>_<start>_<stop> or <youtube_id>; the last three may begin with Y. A file <youtube_id> may be the complete
video, of which ten seconds from start_time are cut.

    python -m dataset_prep.audiocap --csv raw/audiocaps/train.csv --audio raw/audiocaps/train
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from chatbridge.common.errors import DataError
from chatbridge.datasets.formats.records import CaptionRecord, Parsed
from dataset_prep.annotation_file import AnnotationFile
from dataset_prep.common import arguments
from dataset_prep.common.input_files import rows_of
from dataset_prep.common.preparation import Preparation
from dataset_prep.extract_audio import RATE_HZ, AudioJob, Cut, do_job
from dataset_prep.media_jobs import AUDIO_ENDINGS, VIDEO_ENDINGS, add_media_arguments, convert, wanted_files
from dataset_prep.multis_records import FoldersByName, captions

MADE_BY = "dataset_prep.audiocap"
CLIP_S = 10.0
COLUMNS = ("audiocap_id", "youtube_id", "start_time", "caption")


@dataclass
class AudioCapsItem:
    """Ten seconds of a video and their captions; `name` is the id in MULTIS."""

    name: str
    youtube_id: str
    start_s: float
    row_ids: list[str]
    captions: list[str]


def main(given: Sequence[str] | None = None) -> int:
    parser = arguments.parser(__doc__, MADE_BY, out="data/multis")
    parser.add_argument("--csv", type=arguments.existing_file, required=True, help="train.csv of AudioCaps")
    parser.add_argument(
        "--audio", "--sounds", type=arguments.existing_folder, help="audio or video files; default: only the captions"
    )
    add_media_arguments(parser)
    asked = parser.parse_args(given)
    items = read_csv(asked.csv)[: asked.limit]
    folder = asked.out / "audiocaps/audio_22050hz"
    if asked.audio:
        with Preparation(folder, "audiocaps_sound", MADE_BY, {"rate_hz": RATE_HZ, "clip_s": CLIP_S}) as made:
            convert(made, _jobs(made, items, asked.audio), do_job, asked.workers, asked.time_limit_s)
        print(made.report())
        if made.stops:
            return 130
    existing = FoldersByName(folder, AUDIO_ENDINGS)
    if not len(existing):
        raise DataError(f"{folder}: contains no audio; use --audio")
    file = AnnotationFile(
        asked.out / "aud_cap_audiocaps.json", MADE_BY, {"csv": asked.csv}, audio_files=len(existing), limit=asked.limit
    )
    found = (
        Parsed(one.name, CaptionRecord(id=one.name, names=(one.name,), captions=tuple(one.captions))) for one in items
    )
    print(file.write(captions(found, "video_id", existing.find, file)))
    return 0


def read_csv(path: Path) -> list[AudioCapsItem]:
    """Items in the order of the file; rows of the same ten seconds (val.csv has five each) are one item.

    raises   DataError for a file with other columns, or a row without a start time, with its line
    """
    items: dict[tuple[str, str], AudioCapsItem] = {}
    names: set[str] = set()
    for line, row in rows_of(path, COLUMNS, "; expected train.csv of AudioCaps"):
        youtube_id, start = row["youtube_id"], row["start_time"]
        item = items.get((youtube_id, start))
        if item is None:
            name = youtube_id if youtube_id not in names else f"{youtube_id}_{start}"
            item = items[youtube_id, start] = AudioCapsItem(name, youtube_id, _seconds(path, line, start), [], [])
            names.add(name)
        item.row_ids.append(row["audiocap_id"])
        item.captions.append(row["caption"].strip())
    return list(items.values())


def _seconds(path: Path, line: int, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise DataError(f"{path}, line {line}: start_time is {text!r}, expected seconds, 0 or more")
    return seconds


def _jobs(made: Preparation, items: list[AudioCapsItem], folder: Path) -> list[tuple[str, AudioJob]]:
    files = wanted_files(made, folder, AUDIO_ENDINGS | VIDEO_ENDINGS, (), None)
    jobs = []
    for item in items:
        path = f"{item.name}.wav"
        found = next((files[name] for name in file_names(item) if name in files), None)
        if found is None:
            made.skip(item.name, "its file does not exist", file=path)
            continue
        jobs.append((path, AudioJob(found, made.folder / path, RATE_HZ, Cut(item.start_s, CLIP_S))))
    return jobs


def file_names(item: AudioCapsItem) -> Iterator[str]:
    """Possible names of its file without ending, the most specific first."""
    start, stop = round(item.start_s), round(item.start_s + CLIP_S)
    yield from item.row_ids
    for begun, ended in ((start, stop), (start * 1000, stop * 1000), (f"{start}.000", f"{stop}.000")):
        for first in (item.youtube_id, f"Y{item.youtube_id}"):
            yield f"{first}_{begun}"
            yield f"{first}_{begun}_{ended}"
    yield item.youtube_id
    yield f"Y{item.youtube_id}"


if __name__ == "__main__":
    arguments.run(main)
