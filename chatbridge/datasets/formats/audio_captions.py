"""Captions of audio. A record is an audio file with all its captions.

clotho      clotho_captions_evaluation.csv: file_name, caption_1 ... caption_5.
audiocaps   AudioCaps' train.csv, val.csv, test.csv: audiocap_id, youtube_id, start_time, caption; a row per caption, so
            an audio of val and test has five. Its file may be <youtube_id>, <youtube_id>_<start>,
            <youtube_id>_<start>_<end> (seconds, or milliseconds as in AudioSet), with or without a Y in front, or
            <audiocap_id> of one of its rows.

`ids` names a list of the audio that is used (formats/id_lists.py): what can still be downloaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from chatbridge.datasets.formats.csv_rows import csv_rows
from chatbridge.datasets.formats.id_lists import only
from chatbridge.datasets.formats.json_fields import BadRecord, Fields
from chatbridge.datasets.formats.records import CaptionRecord, Format, Parsed
from chatbridge.datasets.formats.video_captions import Captioned, joined

CLIP_S = 10  # seconds of a segment of AudioSet
CAPTIONS = "caption_"  # begins the columns of Clotho


def clotho(annotations: Path, ids: Path | None = None) -> Iterator[Parsed[CaptionRecord]]:
    """A record per row."""
    return only(joined(csv_rows(annotations, "file_name", f"{CAPTIONS}1"), _clotho, is_once=True), ids)


def _clotho(fields: Fields) -> Captioned:
    name = fields.name("file_name")
    columns = [column for column in fields.record if column.startswith(CAPTIONS)]
    return Captioned(name, (name,), tuple(fields.text(column) for column in columns))


def audiocaps(annotations: Path, ids: Path | None = None) -> Iterator[Parsed[CaptionRecord]]:
    """A record per segment."""
    columns = ("audiocap_id", "youtube_id", "start_time", "caption")
    return only(joined(csv_rows(annotations, *columns), _audiocaps), ids)


def _audiocaps(fields: Fields) -> Captioned:
    video, written = fields.name("youtube_id"), fields.name("start_time").strip()
    try:
        start = int(float(written))
    except ValueError:
        raise BadRecord(f"'start_time' is {written!r}, expected seconds") from None
    spans = [f"_{start}_{start + CLIP_S}", f"_{start * 1000}_{(start + CLIP_S) * 1000}", f"_{start}", ""]
    names = [f"{letter}{video}{span}" for span in spans for letter in ("", "Y")]
    return Captioned(video, (*names, fields.name("audiocap_id")), (fields.text("caption"),), {"start_time": start})


AUDIO_CAPTION_FORMATS = {"clotho": Format(clotho, ("ids",)), "audiocaps": Format(audiocaps, ("ids",))}
