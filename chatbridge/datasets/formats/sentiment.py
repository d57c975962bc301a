"""Sentiment of a speaker: CMU-MOSEI, a value from -3 to 3 per segment of a video.

mosei   CMU_MOSEI_Labels.csv as S3PRL ships it: file, index, start, end, label2b (-1, 0, 1), label7 (-3 to 3), split (0
        train, 1 val, 2 test, 3 in none of them); the segment is <file>_<index>.
        label.csv as MMSA ships it: video_id, clip_id, text, label, mode (train, valid, test); the segment is
        <video_id>/<clip_id> or <video_id>_<clip_id>.
        ChatBridge's list: [{"video_id", "subtitle", "sent"}]; the segment is <video_id>.

The answer is positive (above 0), negative (below 0) or neutral (0), and the value stays in the details. The question is
QUESTION; with `subtitles: true` the words of the speaker come first, where the file has them. Neither is published.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chatbridge.common.errors import DataError
from chatbridge.datasets.formats.csv_rows import csv_rows
from chatbridge.datasets.formats.json_fields import BadRecord, Fields, kind_of
from chatbridge.datasets.formats.json_stream import section
from chatbridge.datasets.formats.records import Format, Parsed, QuestionRecord, parsed

QUESTION = "What is the sentiment of the speaker: positive, negative or neutral?"
SPLITS = {"0": "train", "1": "val", "2": "test", "3": "none", "train": "train", "valid": "val", "test": "test"}
TABLES = ("label2b", "annotation")  # a column of S3PRL's table, and of MMSA's


def mosei(annotations: Path, subtitles: bool = True) -> Iterator[Parsed[QuestionRecord]]:
    """A record per segment. raises DataError for a table with other columns"""
    if annotations.suffix.lower() != ".csv":
        return (parsed(value, _listed, subtitles) for value in section(annotations, ""))
    return _table(annotations, subtitles)


def _table(path: Path, subtitles: bool) -> Iterator[Parsed[QuestionRecord]]:
    for value in csv_rows(path):
        if all(name not in value.value for name in TABLES):
            there = ", ".join(map(repr, value.value))[:200]
            raise DataError(f"{path}: expected a column 'label2b' (S3PRL) or 'annotation' (MMSA), found {there}")
        yield parsed(value, _s3prl if TABLES[0] in value.value else _mmsa, subtitles)


def _s3prl(fields: Fields, subtitles: bool) -> QuestionRecord:
    name = f"{fields.name('file')}_{fields.name('index')}"
    _value(fields, "label2b")
    return _record(name, (name,), fields, "label7", "", "split")


def _mmsa(fields: Fields, subtitles: bool) -> QuestionRecord:
    video, clip = fields.name("video_id"), fields.name("clip_id")
    words = fields.text("text") if subtitles else ""
    return _record(f"{video}_{clip}", (f"{video}/{clip}", f"{video}_{clip}"), fields, "label", words, "mode")


def _listed(fields: Fields, subtitles: bool) -> QuestionRecord:
    name = fields.name("video_id")
    words = " ".join(fields.texts("subtitle")) if subtitles else ""
    return _record(name, (name,), fields, "sent", words, "")


def _record(name: str, names: tuple[str, ...], fields: Fields, label: str, words: str, split: str) -> QuestionRecord:
    value = _value(fields, label)
    answer = "neutral" if value == 0 else "positive" if value > 0 else "negative"
    said = f'The speaker says: "{words.strip()}"\n' if words.strip() else ""
    details: dict[str, Any] = {"sentiment": value}
    if split:
        details["split"] = _split(fields, split)
    return QuestionRecord(id=name, names=names, questions=((f"{said}{QUESTION}", (answer,)),), details=details)


def _split(fields: Fields, name: str) -> str:
    written = fields.name(name)
    if written not in SPLITS:
        raise BadRecord(f"{name!r} is {written!r}, expected one of {', '.join(SPLITS)}")
    return SPLITS[written]


def _value(fields: Fields, name: str) -> float:
    """A number from -3 to 3, which may be in quotes."""
    found = fields.get(name)
    try:
        value = float(found) if isinstance(found, (str, int, float)) and not isinstance(found, bool) else math.nan
    except (ValueError, OverflowError):
        value = math.nan
    if not -3 <= value <= 3:
        raise BadRecord(f"{name!r} is {kind_of(found)}, expected a number from -3 to 3")
    return value


SENTIMENT_FORMATS = {"mosei": Format(mosei, ("subtitles",), has_splits=True)}
