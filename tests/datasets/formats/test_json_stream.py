"""JSON files read one value at a time: damaged ones, other encodings, unusual values, and the memory it takes."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from chatbridge.common import seeds
from chatbridge.common.errors import DataError
from chatbridge.datasets.builders import BUILDERS
from chatbridge.datasets.formats.json_stream import RECORD_LIST, section
from chatbridge.datasets.packed_records import pack
from tests.helpers.tiny_media import write_json


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + json.dumps([{"image_id": "a", "caption": "x"}]).encode(),
        json.dumps([{"image_id": "a", "caption": "x"}]).encode("utf-16"),
    ],
    ids=["utf-8 with a byte order mark", "utf-16"],
)
def test_byte_order_marks(content: bytes, tmp_path: Path):
    """fails when a file that was saved on Windows is refused"""
    (tmp_path / "a.json").write_bytes(content)
    assert [one.value for one in section(tmp_path / "a.json", *RECORD_LIST)] == [{"image_id": "a", "caption": "x"}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[{"image_id": "a", "caption": "caf\xe9"}]', "byte 34 is not valid UTF-8"),
        (b'[{"image_id": "a", "caption": "x"}] []', "Extra data at line 1"),
        (b'[{"image_id": "a", "caption": "x"}, ]', "not valid JSON: Expecting value"),
        (b'[{"image_id": "a", "caption": "x"} {}]', "not valid JSON: Expecting ',' or ']'"),
        (b'{"annotations": [{"image_id": "a", "caption": "x"}', "not valid JSON: Expecting ',' or ']'"),
        (b'{annotations: []}', "not valid JSON: Expecting a key in quotes"),
        (b'[{"image_id": "a", "caption": NaN}]', "record 0: .*neither text nor a list"),
        (b'"just words"', "expected a list of records or 'annotations', found 'the whole file'"),
        (b'{"annotations": []}', "holds no samples"),
        (b"{}", "holds no samples"),
        (b"  ", "not valid JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b"PK\x03\x04rest", "is a zip file; unpack it"),
        (b"\x1f\x8brest", "is compressed with gzip"),
        (b"version https://git-lfs.github.com/spec/v1", "run: git lfs pull"),
        (b"\n<!DOCTYPE html>", "is a web page"),
    ],
)  # fmt: skip
def test_damaged_files_are_named_with_the_position(content: bytes, message: str, tmp_path: Path):
    """fails when a damaged file gives a traceback, or no place in the file"""
    (tmp_path / "a.json").write_bytes(content)
    part: Any = BUILDERS.get("captions")
    config = part.Config(annotations=tmp_path / "a.json", tag="ti", image_folder=tmp_path)
    with pytest.raises(DataError, match=message):
        part(config, "x")


def test_unusual_but_valid_texts(tmp_path: Path):
    """fails when half a surrogate pair, a number as a caption or a line separator does not become text"""
    captions = ["half \ud83d pair", "7", "a\u2028b", "\U0001f600", "2.5"]
    write_json(tmp_path / "a.jsonl", [{"image_id": str(k), "caption": text} for k, text in enumerate(captions)])
    part: Any = BUILDERS.get("captions")
    for number in range(len(captions)):
        (tmp_path / f"{number}.jpg").write_bytes(b"x")
    source = part(part.Config(annotations=tmp_path / "a.jsonl", tag="ti", clean=False, image_folder=tmp_path), "x")
    read = [source.record(k, seeds.stream(0, "test")).references[0] for k in range(len(source))]
    assert read == ["half \ufffd pair", "7", "a\u2028b", "\U0001f600", "2.5"]


def test_numbers_that_json_does_not_have(tmp_path: Path):
    """fails when NaN beside a caption reaches the results, which are then not valid JSON"""
    (tmp_path / "a.jsonl").write_text('{"image_id": "a", "score": NaN, "more": [Infinity, {"x": -Infinity}, 1.5]}')
    values = ((one.place, one.value, one.fault) for one in section(tmp_path / "a.jsonl", *RECORD_LIST))
    assert list(pack(tmp_path / "a.jsonl", values)) == [
        {"image_id": "a", "score": None, "more": [None, {"x": None}, 1.5]}
    ]


def test_a_large_file_is_not_a_list_of_objects(tmp_path: Path):
    """fails when opening builds every record as an object: then memory is a multiple of the file's size"""
    questions = {str(k): {"imageId": str(k % 99), "question": "is it red or blue or green? " * 4, "answer": "red",
                          "types": {"structural": "query", "semantic": "attr"}} for k in range(3_000)}  # fmt: skip
    path = write_json(tmp_path / "train.json", questions)
    part: Any = BUILDERS.get("questions")
    config = part.Config(annotations=path, tag="ti-qa", format="gqa", image_folder=tmp_path)
    size = path.stat().st_size
    del questions
    tracemalloc.start()
    source = part(config, "x")
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(source) == 3_000
    assert kept < 1.6 * size and peak < 4.5 * size
