"""AudioCaps -> mono WAV of 22,050 Hz and captions in the layout of MULTIS.

    data/multis/audiocaps/audio_22050hz/<youtube id>.wav       from a folder of sounds or clips (--sounds)
    data/multis/aud_cap_audiocaps.json                         from train.csv (--csv), for the sounds that are there

train.csv (audiocap_id, youtube_id, start_time, caption) is at https://github.com/cdjkim/audiocaps; the ten seconds of
each row have to be fetched from YouTube or taken from a copy. A file is found under any of the usual names:
<audiocap_id>, <youtube_id>_<start>, <youtube_id>_<start>_<stop>, <youtube_id>, all but the first with a Y before them
or not; under the bare id it may be the whole video, of which ten seconds from start_time on are cut.

    python -m dataset_prep.audiocap --csv raw/audiocaps/train.csv --sounds raw/audiocaps/train
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
from dataset_prep.common.preparation import Preparation
from dataset_prep.common.tables import rows_of
from dataset_prep.extract_sound import RATE_HZ, Cut, SoundJob, do_job
from dataset_prep.media_jobs import SOUND_ENDINGS, VIDEO_ENDINGS, add_media_arguments, convert, wanted_files
from dataset_prep.multis_records import FoldersByName, captions

MADE_BY = "dataset_prep.audiocap"
CLIP_S = 10.0
COLUMNS = ("audiocap_id", "youtube_id", "start_time", "caption")


@dataclass
class Sound:
    """Ten seconds of a video with the sentences about them; `name` is how MULTIS calls them."""

    name: str
    youtube_id: str
    start_s: float
    row_ids: list[str]
    captions: list[str]


def main(given: Sequence[str] | None = None) -> int:
    parser = arguments.parser(__doc__, MADE_BY, out="data/multis")
    parser.add_argument("--csv", type=arguments.existing_file, required=True, help="train.csv of AudioCaps")
    parser.add_argument("--sounds", type=arguments.existing_folder, help="sounds or clips; default: only the captions")
    add_media_arguments(parser)
    asked = parser.parse_args(given)
    sounds = read_csv(asked.csv)[: asked.limit]
    folder = asked.out / "audiocaps/audio_22050hz"
    if asked.sounds:
        with Preparation(folder, "audiocaps_sound", MADE_BY, {"rate_hz": RATE_HZ, "clip_s": CLIP_S}) as made:
            convert(made, _jobs(made, sounds, asked.sounds), do_job, asked.workers, asked.time_limit_s)
        print(made.report())
        if made.stops:
            return 130
    there = FoldersByName(folder, SOUND_ENDINGS)
    if not len(there):
        raise DataError(f"{folder}: holds no sounds yet; give --sounds too")
    file = AnnotationFile(
        asked.out / "aud_cap_audiocaps.json", MADE_BY, {"csv": asked.csv}, sounds=len(there), limit=asked.limit
    )
    found = (
        Parsed(one.name, CaptionRecord(id=one.name, names=(one.name,), captions=tuple(one.captions))) for one in sounds
    )
    print(file.write(captions(found, "video_id", there.find, file)))
    return 0


def read_csv(path: Path) -> list[Sound]:
    """Sounds in the order of the file; rows of the same ten seconds (val.csv has five each) are one sound.

    raises   DataError for another file, or a row without a start time, named by its line
    """
    sounds: dict[tuple[str, str], Sound] = {}
    names: set[str] = set()
    for line, row in rows_of(path, COLUMNS, "; expected is train.csv of AudioCaps"):
        youtube_id, start = row["youtube_id"], row["start_time"]
        sound = sounds.get((youtube_id, start))
        if sound is None:
            name = youtube_id if youtube_id not in names else f"{youtube_id}_{start}"
            sound = sounds[youtube_id, start] = Sound(name, youtube_id, _seconds(path, line, start), [], [])
            names.add(name)
        sound.row_ids.append(row["audiocap_id"])
        sound.captions.append(row["caption"].strip())
    return list(sounds.values())


def _seconds(path: Path, line: int, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise DataError(f"{path}, line {line}: start_time is {text!r}, expected seconds from 0 upwards")
    return seconds


def _jobs(made: Preparation, sounds: list[Sound], folder: Path) -> list[tuple[str, SoundJob]]:
    files = wanted_files(made, folder, SOUND_ENDINGS | VIDEO_ENDINGS, (), None)
    jobs = []
    for sound in sounds:
        path = f"{sound.name}.wav"
        found = next((files[name] for name in file_names(sound) if name in files), None)
        if found is None:
            made.skip(sound.name, "its file is not there", file=path)
            continue
        jobs.append((path, SoundJob(found, made.folder / path, RATE_HZ, Cut(sound.start_s, CLIP_S))))
    return jobs


def file_names(sound: Sound) -> Iterator[str]:
    """Names without ending under which its file may lie, the surest first."""
    start, stop = round(sound.start_s), round(sound.start_s + CLIP_S)
    yield from sound.row_ids
    for begun, ended in ((start, stop), (start * 1000, stop * 1000), (f"{start}.000", f"{stop}.000")):
        for first in (sound.youtube_id, f"Y{sound.youtube_id}"):
            yield f"{first}_{begun}"
            yield f"{first}_{begun}_{ended}"
    yield sound.youtube_id
    yield f"Y{sound.youtube_id}"


if __name__ == "__main__":
    arguments.run(main)
