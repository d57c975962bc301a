"""Lists of the media items that a split consists of, in the layouts in which splits are published.

.txt     an id per line: test_list.txt of MSVD. An ending of a media file does not count
.csv     the column video_id, file_name, youtube_id or id: MSRVTT_JSFUSION_test.csv, the 1,000 videos of "1k-A"
.json    a list of ids, or of objects with one of these fields
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath

from chatbridge.common.errors import DataError
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.datasets.formats.csv_rows import csv_rows, file_text
from chatbridge.datasets.formats.json_fields import BadRecord, Fields, file_name_of
from chatbridge.datasets.formats.json_stream import section
from chatbridge.datasets.formats.records import CaptionRecord, Parsed

COLUMNS = ("video_id", "videoID", "file_name", "youtube_id", "id")


def only(found: Iterable[Parsed[CaptionRecord]], ids: Path | None) -> Iterator[Parsed[CaptionRecord]]:
    """The records whose id is in the list, in the order of their own file, and every fault; all without a list.

    An id of the list without a record is a fault. raises DataError for a list that cannot be read
    """
    if ids is None:
        yield from found
        return
    left = dict.fromkeys(read_ids(ids))
    for one in found:
        if one.record is None:
            yield one
        elif (name := plain_id(one.record.id)) in left:
            del left[name]
            yield one
    if left:
        count = f"{len(left)} ids have" if len(left) > 1 else "1 id has"
        yield Parsed(ids.name, None, f"{count} no captions here, the first is {next(iter(left))!r}; the same release?")


def read_ids(path: Path) -> list[str]:
    """The ids in a list. raises DataError for another layout, and for a list without ids"""
    found = [plain_id(one) for one in _ids(path) if one.strip()]
    if not found:
        raise DataError(f"{path}: has no ids")
    return found


def plain_id(name: str) -> str:
    """An id without the ending of a media file: "-4wsuPCjDBc_5_15.avi" -> "-4wsuPCjDBc_5_15"."""
    name = name.strip()
    ending = PurePath(name).suffix.lower().removeprefix(".")
    return name[: -len(ending) - 1] if ending in _endings() else name


def _ids(path: Path) -> Iterator[str]:
    if path.suffix.lower() == ".txt":
        yield from file_text(path).splitlines()
        return
    values = csv_rows(path) if path.suffix.lower() == ".csv" else section(path, "")
    for value in values:
        if value.fault is not None:
            raise DataError(f"{path}: {value.place}: {value.fault}")
        if isinstance(value.value, dict):
            try:
                yield Fields(value.value).name(next((name for name in COLUMNS if name in value.value), COLUMNS[0]))
            except BadRecord as error:
                raise DataError(f"{path}: {value.place}: {error}") from None
        elif (name := file_name_of(value.value)) is not None:
            yield name
        else:
            raise DataError(f"{path}: {value.place}: is neither an id nor an object with one")


def _endings() -> frozenset[str]:
    return frozenset(ending.lower() for one in MODALITIES for ending in one.endings.lookup)
