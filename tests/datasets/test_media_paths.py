"""Names of media in annotations, equal in all builders; hidden files in every reader of folders, zips and tars."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatbridge.cli.data.index import main as index_main
from chatbridge.common.errors import MediaError
from chatbridge.common.file_names import is_hidden
from chatbridge.config.schema import parse
from chatbridge.datasets.builders import BUILDERS
from chatbridge.processors.image import ImageProcessor
from chatbridge.processors.video import read_folder
from dataset_prep.cc_sbu_align import members
from dataset_prep.media_jobs import files_of
from tests.helpers.tiny_media import jpeg, write_json

FOUND = [  # name in the annotation, file on the disk
    ("a b.jpg", "a b.jpg"),
    ("a.jpg", "a.JPG"),
    ("a.JPG", "a.jpg"),
    ("sub\\a.jpg", "sub/a.jpg"),
    ("sub\\a.jpg", "sub/a.JPG"),
    ("caf\u00e9.jpg", "cafe\u0301.jpg"),
    ("cafe\u0301.jpg", "caf\u00e9.jpg"),
    ("odd\\name.jpg", "odd\\name.jpg"),
    ("a%20b.jpg", "a%20b.jpg"),
    ("a:b.jpg", "a:b.jpg"),
]
REFUSED = [
    ("https://host/a.jpg", "is an address"),
    ("s3://bucket/a.jpg", "is an address"),
    ("data:image/png;base64,AAAA", "is an address"),
    ("file://host/a.jpg", "another machine"),
    ("C:\\data\\a.jpg", "path of Windows"),
]


def by_records(folder: Path, name: str) -> Path:
    turns = [{"role": "user", "content": [{"type": "image", "path": name}]}, {"role": "assistant", "content": "x"}]
    file = write_json(folder / "r.jsonl", [{"messages": turns}])
    return media("records", file=str(file), root=str(folder))


def by_captions(folder: Path, name: str) -> Path:
    file = write_json(folder / "c.json", [{"image_id": name, "caption": "x"}])
    return media("captions", annotations=str(file), tag="ti-cap", image_folder=str(folder))


def by_llava(folder: Path, name: str) -> Path:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "x"}]
    file = write_json(folder / "l.json", [{"id": "0", "image": name, "conversations": turns}])
    return media("dialogues", annotations=str(file), tag="ti-conv", format="llava", image_folder=str(folder))


def media(builder: str, **config: Any) -> Path:
    part = BUILDERS.get(builder)
    record = part(parse(part.Config, config), "mine").record(0, np.random.default_rng(0))
    return Path(next(item.ref for message in record.conversation for item in message.media))


@pytest.mark.parametrize("way", [by_records, by_captions, by_llava])
def test_a_name_is_found_by_all_builders(tmp_path: Path, way: Any, monkeypatch: pytest.MonkeyPatch):
    """fails when a differently spelled name is found by one builder and not by another"""
    for number, (name, file) in enumerate(FOUND):
        path = tmp_path / str(number) / file
        path.parent.mkdir(parents=True)
        path.write_bytes(jpeg())
        found = way(tmp_path / str(number), name)
        assert found.is_file() and found.samefile(path), name
    monkeypatch.setenv("HOME", str(tmp_path / "0"))
    assert way(tmp_path, "~/a b.jpg").samefile(tmp_path / "0" / "a b.jpg")
    assert way(tmp_path, f"file://{tmp_path}/0/a%20b.jpg").samefile(tmp_path / "0" / "a b.jpg")
    for name, reason in REFUSED:
        with pytest.raises(MediaError, match=reason):
            way(tmp_path, name)


def test_a_zero_character_in_a_name_is_a_failure_of_the_sample(tmp_path: Path):
    """fails when a name that no file can have ends the run"""
    for way in (by_captions, by_llava):
        with pytest.raises(MediaError):
            way(tmp_path, "a\0.jpg")
    assert not by_records(tmp_path, "a\0.jpg").exists()


def test_hidden_files_are_not_media(tmp_path: Path, capsys: pytest.CaptureFixture):
    """fails when macOS's hidden files in a folder or a zip are read as frames, images or shards"""
    for name in ("1.JPG", "2.jpg", "._1.jpg", ".cache/3.jpg", "__MACOSX/2.jpg", "sub/.DS_Store.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(jpeg())
    assert [path.name for path in files_of(tmp_path, (".jpg",))] == ["1.JPG", "2.jpg"]
    counts: list[int] = []
    read_folder(tmp_path, lambda count: counts.append(count) or [], ImageProcessor(4))
    assert counts == [2]
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        for name in (
            "d/filter_cap.json",
            "d/._filter_cap.json",
            "d/image/1.JPG",
            "d/image/._1.jpg",
            "__MACOSX/image/2.jpg",
        ):
            archive.writestr(name, json.dumps({}))
    with zipfile.ZipFile(tmp_path / "z.zip") as archive:
        assert members(archive) == {"filter_cap.json": "d/filter_cap.json", "image/1.jpg": "d/image/1.JPG"}
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "._a.tar").write_bytes(b"x")
    with pytest.raises(Exception, match="no tars"):
        index_main([str(tmp_path / "t")])


@pytest.mark.parametrize("name", ["._x.jpg", "a/.DS_Store", "__MACOSX/a/x.jpg", ".git/x.jpg", "a\\._x.jpg", "./.x"])
def test_names_of_hidden_files(name: str):
    """fails when a hidden name is accepted"""
    assert is_hidden(name)


@pytest.mark.parametrize("name", ["x.jpg", "./a/x.jpg", "../x.jpg", "a.b/x..jpg", "__x.jpg", "x"])
def test_names_of_other_files(name: str):
    """fails when a plain name counts as hidden"""
    assert not is_hidden(name)
