"""No command replaces a file that it reads, and two processes never write one folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chatbridge.common.errors import DataError
from dataset_prep.textbind.__main__ import main
from tests.helpers.lock_holder import held
from tests.helpers.tiny_media import write_json

RAW = {"id": "a", "image": ["<img0> a kite </img0>"], "image_idx": [1], "url": ["http://x/1"], "file": ["gone.jpg"],
       "response": "Human: Hi\n\nAssistant: See <img0> a kite </img0>\n\nHuman: Nice"}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "arguments"),
    [
        ("x.reform.json", [{"conversation": []}], ["reformat", "x.reform.json", "--image-dir", "images"]),
        ("x.clean.json", [RAW], ["clean", "x.clean.json", "--min-turns", "9"]),
        ("x.json", [{"conversation": []}], ["stats", "x.json", "--out", "x.json"]),
        ("x.jsonl", [RAW], ["sample", ".", "--number", "1", "--besides", "x.jsonl", "--out", "x.jsonl"]),
    ],
)
def test_a_file_that_is_read_is_not_replaced(
    name: str, content: Any, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """fails when a command that is given the wrong file empties it, or replaces earlier samples"""
    monkeypatch.chdir(tmp_path)
    before = write_json(tmp_path / name, content).read_text()
    with pytest.raises(DataError, match="is a file that the command reads"):
        main(arguments)
    assert (tmp_path / name).read_text() == before


def test_ratings_go_into_a_file_of_their_own(tmp_path: Path):
    """fails when examples are appended to the list of the conversations, which no command can read then"""
    path = write_json(tmp_path / "x.clean.json", [RAW])
    table = tmp_path / "r.csv"
    table.write_text("id,conversation,quality,characteristics,errors\na,x,Excellent,,\n")
    before = path.read_text()
    with pytest.raises(DataError, match="name a file of its own"):
        main(["rate", "import", str(table), "--conversations", str(path), "--examples", str(path)])
    assert path.read_text() == before


def test_other_files_are_no_earlier_samples(tmp_path: Path):
    """fails when a file without image_idx ends in a traceback"""
    write_json(tmp_path / "other.json", [{"conversation": []}])
    with pytest.raises(DataError, match="record 1 has no list image_idx"):
        main(["sample", str(tmp_path), "--number", "1", "--besides", str(tmp_path / "other.json"),
              "--out", str(tmp_path / "s.jsonl")])  # fmt: skip


def test_a_folder_of_images_has_one_writer(tmp_path: Path):
    """fails when two downloads of one folder replace each other's list of failures"""
    raw = write_json(tmp_path / "x.clean.json", [RAW])
    listed = write_json(tmp_path / "x.img-cap.json", [{"image": "1.png", "url": "http://127.0.0.1:9/x"}])
    for command in (["download", str(listed)], ["collect", str(raw)]):
        with held(tmp_path / "out/.download.in_use"), pytest.raises(DataError, match="out: another process writes it"):
            main([*command, "--out", str(tmp_path / "out")])
