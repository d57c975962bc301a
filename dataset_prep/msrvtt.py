"""Convert MSRVTT to frames (four per second), captions and questions in the layout of MULTIS.

    data/multis/msrvtt/frames_fps4/video0/img_0001.jpg ...     from the folder of videos (--videos)
    data/multis/vid_cap_msrvtt.json                            from train_val_videodatainfo.json (--info)
    data/multis/vid_qa_msrvtt.json                             from train_qa.json of MSRVTT-QA (--qa)

    python -m dataset_prep.msrvtt --videos raw/msrvtt/TrainValVideo --info raw/msrvtt/train_val_videodatainfo.json \\
        --qa raw/msrvtt_qa/train_qa.json

Each part can be converted separately; captions and questions are written for videos whose frames exist. The captions
are those of the split "train"; --split selects others.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from chatbridge.common.errors import DataError
from chatbridge.datasets.formats.json_fields import BadRecord, Fields
from chatbridge.datasets.formats.records import CaptionRecord, Parsed, each
from chatbridge.datasets.formats.video_questions import msrvttqa
from dataset_prep.annotation_file import AnnotationFile
from dataset_prep.common import arguments
from dataset_prep.common.preparation import Preparation
from dataset_prep.extract_frames import FrameSettings, extract_all
from dataset_prep.media_jobs import VIDEO_ENDINGS, add_media_arguments, wanted_files
from dataset_prep.multis_records import FoldersByName, captions, first, questions

MADE_BY = "dataset_prep.msrvtt"


def main(given: Sequence[str] | None = None) -> int:
    parser = arguments.parser(__doc__, MADE_BY, out="data/multis")
    parser.add_argument(
        "--videos", type=arguments.existing_folder, help="folder of video0.mp4 ..., searched recursively"
    )
    parser.add_argument("--info", type=arguments.existing_file, help="train_val_videodatainfo.json: captions, splits")
    parser.add_argument("--qa", type=arguments.existing_file, help="train_qa.json of MSRVTT-QA")
    parser.add_argument("--split", nargs="+", choices=("train", "validate", "test"), default=["train"])
    parser.add_argument("--side", type=arguments.positive, default=256, help="short side of the frames (default: 256)")
    add_media_arguments(parser)
    asked = parser.parse_args(given)
    if not (asked.videos or asked.info or asked.qa):
        raise DataError("nothing to do: use --videos, --info or --qa")
    frames = asked.out / "msrvtt/frames_fps4"
    if asked.videos and not _extract(asked, frames):
        return 130
    existing = FoldersByName(frames)
    if not len(existing):
        raise DataError(f"{frames}: contains no frames; use --videos")
    if asked.info:
        made = _file(asked, "vid_cap_msrvtt.json", {"info": asked.info}, len(existing), split=sorted(asked.split))
        found = captioned(asked.info, asked.split)
        print(made.write(captions(first(found, asked.limit), "video_id", existing.find, made)))
    if asked.qa:
        made = _file(asked, "vid_qa_msrvtt.json", {"qa": asked.qa}, len(existing))
        found = msrvttqa(asked.qa)
        print(made.write(questions(first(found, asked.limit), "video_id", existing.find, made)))
    return 0


def _extract(asked: argparse.Namespace, frames: Path) -> bool:
    """Extract the frames; returns False if it was stopped."""
    settings = FrameSettings(fps=4.0, side=asked.side)
    with Preparation(frames, "msrvtt_frames", MADE_BY, vars(settings)) as made:
        videos = wanted_files(made, asked.videos, VIDEO_ENDINGS, (), asked.limit)
        extract_all(made, videos, settings, asked.workers, asked.time_limit_s)
    print(made.report())
    return not made.stops


def _file(asked: argparse.Namespace, name: str, inputs: dict[str, Path], videos: int, **more: Any) -> AnnotationFile:
    return AnnotationFile(asked.out / name, MADE_BY, inputs, videos=videos, limit=asked.limit, **more)


def captioned(info: Path, splits: Sequence[str]) -> Iterator[Parsed[CaptionRecord]]:
    """The videos of these splits with their captions.

    train_val_videodatainfo.json: {"videos": [{"video_id": "video0", "split": "train", ...}], "sentences":
    [{"video_id": "video0", "caption", "sen_id"}]}
    """
    sentences: dict[str, list[str]] = {}
    for sentence in each(_sentence, "sentences")(info):
        if sentence.record is None:
            yield Parsed(sentence.place, None, sentence.fault)
        else:
            sentences.setdefault(sentence.record[0], []).append(sentence.record[1])
    for video in each(_video, "videos")(info, sentences=sentences):
        if video.record is None or video.record.details["split"] in splits:
            yield video


def _sentence(fields: Fields) -> tuple[str, str]:
    """The video of a sentence, and its text."""
    text = fields.text("caption").strip()
    if not text:
        raise BadRecord("'caption' is empty")
    return fields.name("video_id"), text


def _video(fields: Fields, sentences: dict[str, list[str]]) -> CaptionRecord:
    name = fields.name("video_id")
    captions = tuple(sentences.get(name, ()))
    return CaptionRecord(id=name, names=(name,), captions=captions, details={"split": fields.text("split")})


if __name__ == "__main__":
    arguments.run(main)
