"""Wrong files, damaged files and unusual folders in the preparation scripts: a message with the next step."""

from __future__ import annotations

import argparse
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from chatbridge.common.errors import DataError
from dataset_prep import audiocap, cc_sbu_align, extract_frames, multis, verify, wavcaps, web_images, web_videos
from dataset_prep.common import arguments
from dataset_prep.common.input_files import rows_of
from dataset_prep.common.manifest import MadeFile, Manifest
from dataset_prep.common.preparation import Preparation
from dataset_prep.common.workers import Unusable
from dataset_prep.extract_frames import extract_frames as frames_of
from dataset_prep.image_index import ImageIndex
from dataset_prep.link_lists import SETS, read_links
from dataset_prep.media_jobs import convert, files_of, ids_of
from tests.helpers.tiny_media import jpeg, mp4

HEAD = b"audiocap_id,youtube_id,start_time,caption\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n", "has no column audiocap_id and youtube_id and start_time and caption; its columns: none"),
        (HEAD + b"1,ab,1,fine\n2,cd,1,caf\xe9\n", "line 3: is not UTF-8 text .*iconv"),
        (HEAD + b'1,ab,1,"never closed\n' + b"2,cd,1,x\n" * 30, "line 2: .* missing closing quote"),
        (HEAD + b"1,ab,1," + b"x" * 200_000, "line 2: cannot be read: field larger"),
        (HEAD + b"1\n", "line 2: start_time is '', expected seconds"),
        (HEAD + b"1,ab,nan,x\n", "line 2: start_time is 'nan', expected seconds, 0 or more"),
    ],
)
def test_tables(tmp_path: Path, content: bytes, message: str):
    """fails when a wrong or damaged csv gives a traceback, or an unclosed quote removes rows without a message"""
    (tmp_path / "train.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        audiocap.read_csv(tmp_path / "train.csv")


def test_short_rows_are_empty(tmp_path: Path):
    """fails when a row without its last column stops the script"""
    (tmp_path / "a.csv").write_text('id,name\n1\n2,"two\nlines"\n')
    assert list(rows_of(tmp_path / "a.csv", ("id", "name"))) == [
        (2, {"id": "1", "name": ""}), (4, {"id": "2", "name": "two\nlines"})
    ]  # fmt: skip


@pytest.mark.parametrize("content", [b"", b"<html>", b'{"FreeSound": ["a', b"\x80\xff", b"[" * 100_000])
def test_lists_of_invalid_json(tmp_path: Path, content: bytes):
    """fails when an incomplete download, or a wrong file, is an unexpected error"""
    path = tmp_path / "list.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match="list.json: is (not|empty|a web page)"):
        wavcaps.excluded_ids(path, "FreeSound")
    with pytest.raises(DataError, match="list.json: is (not|empty|a web page)"):
        web_images.main(["laion", "--list", str(path), "--out", str(tmp_path / "out")])


def test_truncated_and_damaged_archives(tmp_path: Path):
    """fails when an incomplete directory of an archive is an unexpected error, or one damaged image stops the script"""
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        records = [{"image_id": str(number), "caption": "c"} for number in (1, 2)]
        archive.writestr("filter_cap.json", json.dumps({"annotations": records}))
        for number in (1, 2):
            archive.writestr(f"image/{number}.jpg", jpeg(10) + bytes(range(256)) * 4)
        place = archive.getinfo("image/2.jpg").header_offset + 30 + len("image/2.jpg")
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[place : place + 50] = b"\xff" * 50
    (tmp_path / "a.zip").write_bytes(content)
    assert cc_sbu_align.main(["--zip", str(tmp_path / "a.zip"), "--out", str(tmp_path / "out")]) == 0
    manifest = Manifest.read(tmp_path / "out")
    assert manifest is not None and manifest.skipped == {"its image cannot be opened": 1}
    (tmp_path / "cut.zip").write_bytes(content[:-4])
    with pytest.raises(DataError, match="download it again"):
        wavcaps.open_zip(tmp_path / "cut.zip")


@pytest.mark.parametrize(
    "content", ['{"name": 1}', '{"name": "a", "made_by": 2, "made_with": 3, "files": [], "skipped": 4}']
)
def test_foreign_manifests(tmp_path: Path, content: str):
    """fails when a manifest.json of a different program is an unexpected error"""
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(DataError, match="is not a manifest of dataset_prep"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "x", ""])
def test_quantities(text: str):
    """fails when --fps 0 makes every video unusable, or --fps -1 never ends"""
    with pytest.raises(argparse.ArgumentTypeError, match="expected a number above 0"):
        arguments.above_zero(text)
    assert arguments.above_zero("0.5") == 0.5


def test_links_to_folders(tmp_path: Path):
    """fails when a link to a folder above it is followed without end, or a linked folder is not searched"""
    (tmp_path / "real").mkdir()
    (tmp_path / "real/1.jpg").write_bytes(b"")
    (tmp_path / "in").mkdir()
    for name, target in {"linked": tmp_path / "real", "up": tmp_path / "in", "up too": tmp_path}.items():
        os.symlink(target, tmp_path / "in" / name)
    assert ImageIndex(tmp_path / "in").find(1) == "linked/1.jpg"
    assert files_of(tmp_path / "in", (".jpg",)) == [tmp_path / "in/linked/1.jpg"]


def test_special_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """fails when a pipe hangs the script, or a file name is read as a URL"""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.mp4")
    Path("http:a.mp4").write_bytes(mp4(num_frames=2))
    with pytest.raises(Unusable, match="is not a regular file"):
        frames_of(Path("pipe.mp4"), tmp_path / "out")
    assert frames_of(Path("http:a.mp4"), tmp_path / "out") > 0


def test_an_empty_set_is_an_error(tmp_path: Path):
    """fails when a wrong folder gives "done" and exit code 0"""
    (tmp_path / "raw").mkdir()
    command = ["--from", str(tmp_path / "raw"), "--out", str(tmp_path / "out"), "--workers", "0"]
    with pytest.raises(DataError, match="contains no samples: no usable input was found"):
        extract_frames.main(command)
    (tmp_path / "raw/a.mp4").write_bytes(b"x")
    with pytest.raises(DataError, match=r"(?s)contains no samples; see .*skipped 1: cannot be read"):
        extract_frames.main(command)


def test_rows_of_one_video(tmp_path: Path, capsys: Any):
    """fails when one of two captions of a video, or a row without a name, is skipped without a message"""
    (tmp_path / "1.mp4").write_bytes(mp4(num_frames=3))
    (tmp_path / "list.csv").write_text("videoid,name\n1,first\n1,second\n,none\n")
    for layout in ("shards", "frames"):
        command = ["webvid", "--list", str(tmp_path / "list.csv"), "--videos", str(tmp_path), "--as", layout]
        assert web_videos.main([*command, "--out", str(tmp_path / layout), "--workers", "0"]) == 0
        printed = capsys.readouterr().out
        assert "skipped 1: another row has the same name" in printed and "skipped 1: a row has no name" in printed


def test_names_outside_the_folder_are_skipped(tmp_path: Path):
    """fails when an id of a downloaded list writes outside the folder of the set"""
    target = tmp_path / "set" / "inside.wav"
    with Preparation(tmp_path / "set", "set", "tests", {}) as made:
        convert(made, [("../outside.wav", b"bad"), ("inside.wav", b"good")], target.write_bytes, 0, 9)
    assert target.read_bytes() == b"good"
    assert "is outside the folder" in (tmp_path / "set" / "skipped.jsonl").read_text()


def test_hidden_files_are_not_inputs(tmp_path: Path):
    """fails when a hidden file of macOS is read as a list of links, a list of MULTIS, a tar or a manifest"""
    parts = tmp_path / "parts"
    parts.mkdir()
    (parts / "._00000.parquet").write_bytes(b"notes of macOS")
    (parts / "00000.jsonl").write_text('{"url": "http://a/1", "caption": "x"}\n')
    asked = argparse.Namespace(list=parts, limit=None, out=tmp_path / "out", name="laion")
    assert web_images.links_of(asked, web_images.SETS["laion"]) == (parts, "jsonl")
    assert list(web_images.fingerprint(parts)["files"]) == ["00000.jsonl"]
    (parts / "._00000.jsonl").write_bytes(b"notes of macOS")
    with pytest.raises(DataError, match=r"1 hidden files \(\._00000\.jsonl\).*move them out"):
        web_images.links_of(asked, web_images.SETS["laion"])
    name = multis.LISTS[0].name
    for folder in ("raw/__MACOSX", "raw/.cache", "raw/real"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / name).write_text("[]")
    assert multis.find_list(name, [tmp_path / "raw"], tmp_path / "out") == tmp_path / "raw/real" / name
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/._0.tar").write_bytes(b"notes of macOS")
    with pytest.raises(DataError, match="contains no tars"):
        web_videos.videos_of(argparse.Namespace(list=None, videos=tmp_path / "videos"))


def test_hidden_files_do_not_change_a_set(tmp_path: Path, capsys: Any):
    """fails when hidden files of the Finder make a set differ from its manifest"""
    (tmp_path / "image").mkdir()
    (tmp_path / "image/1.jpg").write_bytes(b"x")
    manifest = Manifest("set", "test", {}, {"image": MadeFile.of(tmp_path, "image", 1)}, {})
    manifest.write(tmp_path)
    for name in ("image/.DS_Store", "._manifest.json"):
        (tmp_path / name).write_bytes(b"notes of macOS")
    assert verify.verify(tmp_path) == 0


NO_TEXTS = [["a", "b"], {"a": 1}, True, 1.5, float("nan")]


@pytest.mark.parametrize("value", NO_TEXTS, ids=repr)
def test_other_types_are_not_text(tmp_path: Path, value: Any):
    """fails when a list, an object or true becomes the text of a caption, a link or an id"""
    good = {"url": "http://a/1", "caption": "a dog"}
    listed, lines = tmp_path / "list.json", tmp_path / "list.jsonl"
    listed.write_text(json.dumps({"image_urls": ["http://a/1", value], "captions": [value, "a dog"]}))
    lines.write_text("".join(json.dumps({**good, key: value}) + "\n" for key in ("caption", "url")))
    for path in (listed, lines):
        assert [link.fault for link in read_links(path, SETS["sbu"])] == [
            "its caption is not text",
            "its url is not text",
        ]

    ids = tmp_path / "ids.json"
    ids.write_text(json.dumps([{"video_id": 7}, {"image_id": "8"}]))
    assert ids_of(ids) == {"7", "8"}
    ids.write_text(json.dumps([{"video_id": value}]))
    with pytest.raises(DataError, match="'video_id' is .*, expected text or a whole number"):
        ids_of(ids)
    assert multis._id_fault({"video_id": value}) == "its id is not text or a number"

    excluded = tmp_path / "excluded.json"
    excluded.write_text(json.dumps({"FreeSound": [7, "8", value]}))
    with pytest.raises(DataError, match="'FreeSound' contains .*, expected ids"):
        wavcaps.excluded_ids(excluded, "FreeSound")

    with zipfile.ZipFile(tmp_path / "sounds.zip", "w") as archive:
        archive.writestr("1.flac", b"")
    sounds = tmp_path / "sounds.json"
    sounds.write_text(json.dumps({"data": [{"id": 1, "caption": value}]}))
    found, _ = wavcaps.read_items(sounds, tmp_path / "sounds.zip", frozenset())
    with pytest.raises(Unusable, match="its caption is not text"):
        wavcaps.sample(found[0])
    sounds.write_text(json.dumps({"data": [{"id": value, "caption": "rain"}]}))
    with pytest.raises(DataError, match="record 0: 'id' is "):
        wavcaps.read_items(sounds, tmp_path / "sounds.zip", frozenset())

    for number, record in enumerate(({"image_id": value, "caption": "c"}, {"image_id": "1", "caption": value})):
        with zipfile.ZipFile(tmp_path / "align.zip", "w") as archive:
            archive.writestr("filter_cap.json", json.dumps({"annotations": [record]}))
        with pytest.raises(DataError, match="record 0: '(image_id|caption)' is .*, expected text"):
            cc_sbu_align.main(["--zip", str(tmp_path / "align.zip"), "--out", str(tmp_path / f"align{number}")])


def test_a_web_page_in_a_zip(tmp_path: Path):
    """fails when the message about an error page among the zip members is about JSON"""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("cc_sbu_align/filter_cap.json", "<!doctype html><html>")
    with pytest.raises(DataError, match="a.zip: filter_cap.json is a web page"):
        cc_sbu_align.main(["--zip", str(tmp_path / "a.zip"), "--out", str(tmp_path / "out")])
