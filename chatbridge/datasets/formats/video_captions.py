"""Captions of videos. A record is a video with all its captions.

msrvtt        MSR-VTT's train_val_videodatainfo.json, test_videodatainfo.json, or MSRVTT_data.json with both: {"videos":
              [{"video_id": "video7010", "split": "train" | "validate" | "test", "category"}], "sentences":
              [{"video_id", "caption", "sen_id"}]}.
msvd          MSVD's AllVideoDescriptions.txt: lines "-4wsuPCjDBc_5_15 a squirrel is eating a peanut", comments begin
              with "#"; or video_corpus.csv: VideoID, Start, End, Language, Description and others, of which the
              English ones are read.
vatex         vatex_public_test_english_v1.1.json, vatex_validation_v1.0.json: [{"videoID":
              "Ptf_2VRj-V0_000122_000132", "enCap": ten}].
caption_list  a record per caption or per video: VALOR-32K's desc_test.json [{"video_id":
              "x-2Abohj8VY_30.000_40.000", "desc"}], and lists as LAVIS converts them [{"video" or "video_id",
              "caption"}]. Captions of one video are joined.

`ids` names a list of the videos that are used (formats/id_lists.py): the splits of MSVD, "1k-A" of MSR-VTT.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatbridge.common.errors import DataError
from chatbridge.datasets.formats.csv_rows import csv_rows, file_text
from chatbridge.datasets.formats.id_lists import only
from chatbridge.datasets.formats.json_fields import BadRecord, Fields
from chatbridge.datasets.formats.json_stream import RECORD_LIST, JsonValue, json_values, section
from chatbridge.datasets.formats.records import CaptionRecord, Format, Parsed, parsed

CORPUS_COLUMNS = ("VideoID", "Start", "End", "Language", "Description")  # of MSVD's video_corpus.csv


@dataclass
class Item:
    """A media item whose captions are in several rows. place: of the first row"""

    place: str
    names: dict[str, None]  # in order, each once
    captions: list[str] = field(default_factory=list)
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Captioned:
    """What one row has: the id of its item, names of the file, captions."""

    id: str
    names: tuple[str, ...]
    captions: tuple[str, ...]
    details: Mapping[str, Any] = field(default_factory=dict)


def joined(
    values: Iterable[JsonValue], read: Callable[[Fields], Captioned | None], is_once: bool = False
) -> Iterator[Parsed[CaptionRecord]]:
    """A record per item with the captions of all its rows, in the order of the first rows; faults come first.

    read      what a row has; None for a row that is left out
    is_once   every item has one row, so that a second one is a mistake
    """
    items: dict[str, Item] = {}
    for value in values:
        found = parsed(value, read)
        row = found.record
        if row is None:
            if found.fault is not None:
                yield Parsed(found.place, None, found.fault)
            continue
        item = items.setdefault(row.id, Item(value.place, {}, details=row.details))
        if is_once and item.names:
            yield Parsed(value.place, None, f"{row.id!r} is defined twice, first in {item.place}")
        elif row.details != item.details:
            told = f"{dict(row.details)}, and {dict(item.details)} in {item.place}"
            yield Parsed(value.place, None, f"the id {row.id} has {told}; one id names one media item")
        else:
            item.names |= dict.fromkeys(row.names)
            item.captions += [text for text in row.captions if text.strip()]
    for name, item in items.items():
        record = CaptionRecord(
            id=name, names=tuple(item.names), captions=tuple(item.captions), details=dict(item.details)
        )
        yield Parsed(item.place, record)


def msrvtt(annotations: Path, ids: Path | None = None) -> Iterator[Parsed[CaptionRecord]]:
    """Videos in the order of "videos", each with its sentences."""
    return only(_msrvtt(annotations), ids)


def _msrvtt(annotations: Path) -> Iterator[Parsed[CaptionRecord]]:
    captions: dict[str, list[str]] = {}
    for value in json_values(annotations):
        if value.section != "sentences":
            continue
        try:
            fields = Fields(value.value)
            captions.setdefault(fields.name("video_id"), []).append(fields.text("caption"))
        except BadRecord as error:
            yield Parsed(value.place, None, str(error))
    seen: set[str] = set()
    yield from (parsed(value, _video, captions, seen) for value in section(annotations, "videos"))
    for video_id in captions:
        yield Parsed("sentences", None, f"the captions of video_id {video_id} have no entry in 'videos'")


def _video(fields: Fields, captions: dict[str, list[str]], seen: set[str]) -> CaptionRecord:
    video_id = fields.new_name("video_id", seen)
    texts = captions.pop(video_id, [])
    return CaptionRecord(
        id=video_id,
        names=(video_id,),
        captions=tuple(text for text in texts if text.strip()),
        details={"split": fields.text("split"), **fields.kept("category")},
    )


def msvd(annotations: Path, ids: Path | None = None) -> Iterator[Parsed[CaptionRecord]]:
    """Both files of MSVD, distinguished by their first line."""
    text = file_text(annotations)
    is_table = text.lstrip().startswith(CORPUS_COLUMNS[0])
    rows = csv_rows(annotations, *CORPUS_COLUMNS) if is_table else _described(annotations, text)
    return only(joined(rows, _corpus_row if is_table else _description), ids)


def _described(path: Path, text: str) -> Iterator[JsonValue]:
    """The lines of AllVideoDescriptions.txt. raises DataError where the first one is not a name and a sentence"""
    is_first = True
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, sentence = line.strip().partition(" ")
        if is_first and (not sentence or name[0] in '[{"'):
            hint = "" if sentence else "; a list of names is for `ids`"
            raise DataError(
                f"{path}: line {number}: expected the name of a video and a sentence, got {line[:60]!r}{hint}"
            )
        is_first = False
        yield JsonValue(f"line {number}", "", number, {"video": name, "sentence": sentence})


def _description(fields: Fields) -> Captioned:
    name, sentence = fields.name("video"), fields.text("sentence")
    if not sentence.strip():
        raise BadRecord(f"has the name {name!r} and no sentence")
    return Captioned(name, (name,), (sentence,))


def _corpus_row(fields: Fields) -> Captioned | None:
    if fields.text("Language") != "English" or not fields.text("Description").strip():
        return None
    name = "_".join(fields.name(part) for part in CORPUS_COLUMNS[:3])
    return Captioned(name, (name,), (fields.text("Description"),))


def vatex(annotations: Path, ids: Path | None = None) -> Iterator[Parsed[CaptionRecord]]:
    """The English captions of VATEX."""
    return only(joined(section(annotations, ""), _vatex, is_once=True), ids)


def _vatex(fields: Fields) -> Captioned:
    name = fields.name("videoID")
    return Captioned(name, (name,), fields.texts("enCap"))


def caption_list(annotations: Path, ids: Path | None = None) -> Iterator[Parsed[CaptionRecord]]:
    """VALOR-32K and LAVIS's lists."""
    return only(joined(section(annotations, *RECORD_LIST), _listed), ids)


def _listed(fields: Fields) -> Captioned:
    fields.require("desc", "caption")
    name = fields.name(fields.first("video_id", "video", "audio_id", "audio"))
    return Captioned(name, (name, *fields.files("video")), fields.texts("desc", "caption"), fields.kept("split"))


VIDEO_CAPTION_FORMATS = {
    "msrvtt": Format(msrvtt, ("ids",), has_splits=True),
    "msvd": Format(msvd, ("ids",)),
    "vatex": Format(vatex, ("ids",)),
    "caption_list": Format(caption_list, ("ids",)),
}
