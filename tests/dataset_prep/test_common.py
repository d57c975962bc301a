"""Shared code of the preparation scripts: manifest, resume, safe stop, skipped records, shards, arguments."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chatbridge.common.errors import DataError
from dataset_prep import verify
from dataset_prep.common import arguments
from dataset_prep.common.manifest import Manifest, sha256, write_text
from dataset_prep.common.preparation import Preparation
from dataset_prep.common.shards import safe_key, shard_parts, write_shard
from dataset_prep.common.workers import spread


def prepare(folder: Path, records: list[str], stop_after: int | None = None, **made_with: Any) -> list[str]:
    """Shards of two; records that start with "bad" are skipped. Returns the files that were written."""
    written = []
    with Preparation(folder, "toy", "dataset_prep.toy", made_with) as made:
        for path, part_records in made.open_work(shard_parts(records, 2)):
            good = [(record, {"txt": record}) for record in part_records if not record.startswith("bad")]
            for record in part_records:
                if record.startswith("bad"):
                    made.skip(record, "is bad", f"{record} of {path}")
            with made.writing(path) as part:
                count = write_shard(part, good)
            made.add(path, count)
            written.append(path)
            if len(written) == stop_after:
                os.kill(os.getpid(), signal.SIGTERM)
    return written


def test_a_resumed_preparation_equals_one_run(tmp_path: Path):
    """fails when a stopped preparation loses, repeats or changes something compared with an uninterrupted one"""
    records = ["a", "bad1", "b", "c", "bad2", "bad3", "d"]
    assert prepare(tmp_path / "whole", records, size=3) == ["00000.tar", "00001.tar", "00002.tar", "00003.tar"]
    assert prepare(tmp_path / "parts", records, stop_after=1, size=3) == ["00000.tar"]
    assert prepare(tmp_path / "parts", records, size=3) == ["00001.tar", "00002.tar", "00003.tar"]
    assert prepare(tmp_path / "parts", records, size=3) == ["00002.tar"]  # had no sample: is tried again
    for name in ("manifest.json", "skipped.jsonl", "00000.tar", "00003.tar"):
        whole, parts = (sorted((tmp_path / side / name).read_bytes().splitlines()) for side in ("whole", "parts"))
        assert whole == parts, name
    manifest = Manifest.read(tmp_path / "parts")
    assert manifest is not None and manifest.samples == 4 and manifest.skipped == {"is bad": 3}
    assert manifest.faults(tmp_path / "parts") == [] and sorted(os.listdir(tmp_path / "parts")) == [
        "00000.tar", "00001.tar", "00003.tar", "manifest.json", "skipped.jsonl"
    ]  # fmt: skip


def test_a_killed_process_loses_only_its_open_file(tmp_path: Path):
    """fails when files finished before a kill -9 are repeated, or an incomplete file counts as finished"""
    script = (
        "import os, sys\nfrom pathlib import Path\n"
        "from dataset_prep.common.preparation import Preparation\n"
        "with Preparation(Path(sys.argv[1]), 'toy', 'dataset_prep.toy', {}) as made:\n"
        "    for path, _ in made.open_work([('0', 0), ('1', 0)]):\n"
        "        made.skip(path, 'is bad')\n"
        "        with made.writing(path) as part:\n"
        "            part.write_text('content')\n"
        "            path == '1' and os.kill(os.getpid(), 9)\n"
        "        made.add(path, 1)\n"
    )
    root = Path(__file__).parents[2]
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=root, capture_output=True)
    assert killed.returncode == -9
    with Preparation(tmp_path, "toy", "dataset_prep.toy", {}) as made:
        assert [path for path, _ in made.open_work([("0", 0), ("1", 0)])] == ["1"]
    assert json.loads((tmp_path / "manifest.json").read_text())["skipped"] == {"is bad": 1}


def test_two_processes_are_refused(tmp_path: Path):
    """fails when two processes prepare one folder and remove each other's files, or the refused one changes it"""
    script = (
        "import sys\nfrom pathlib import Path\nfrom dataset_prep.common.preparation import Preparation\n"
        "with Preparation(Path(sys.argv[1]), 'toy', 'dataset_prep.toy', {}):\n"
        "    print('begun', flush=True)\n    sys.stdin.read()\n"
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == b"begun\n"
        with pytest.raises(DataError, match="another process is preparing it; wait"):
            prepare(tmp_path, ["a"])
        assert os.listdir(tmp_path) == [".journal.jsonl"]
    assert prepare(tmp_path, ["a"]) == ["00000.tar"]


def test_incomplete_lines_of_a_killed_process(tmp_path: Path):
    """fails when an incomplete line or character of a killed process stops the next one, or hides its first file"""
    (tmp_path / ".journal.jsonl").write_bytes(b'{"path": "00')
    (tmp_path / "skipped.jsonl").write_bytes('5\n{"file": "x", "id": "ü'.encode()[:-1])
    with Preparation(tmp_path, "toy", "dataset_prep.toy", {}) as made:
        with made.writing("0") as part:
            part.write_text("content")
        made.add("0", 1)
        lines = (tmp_path / ".journal.jsonl").read_text().splitlines()
        assert len(lines) == 2 and json.loads(lines[1])["path"] == "0"


def test_a_full_disk_stops(tmp_path: Path):
    """fails when a full disk is an error of every single file, and the script reports success"""
    for workers in (0, 1):
        with pytest.raises(OSError, match="No space left on device: '/out/x'"):
            list(spread(fills, range(3), workers=workers, limit_s=20))


def fills(number: int) -> int:
    raise OSError(28, "No space left on device", "/out/x")


def test_a_damaged_file_is_found_and_repeated(tmp_path: Path):
    """fails when a truncated file counts as finished, or verification misses one that changed in place"""
    prepare(tmp_path, ["a", "b", "c"])
    shard = tmp_path / "00000.tar"
    content = bytearray(shard.read_bytes())
    content[520] ^= 1
    shard.write_bytes(content)
    (tmp_path / "00001.tar").write_bytes(b"short")
    manifest = Manifest.read(tmp_path)
    assert manifest is not None
    assert verify.main([str(tmp_path)]) == 1
    first, second = manifest.faults(tmp_path)
    assert first == "00000.tar: its content has changed (sha256)" and second.startswith("00001.tar: has 5 bytes")
    assert prepare(tmp_path, ["a", "b", "c"]) == ["00001.tar"]
    with pytest.raises(DataError, match="has no manifest.json"):
        verify.main([str(tmp_path / "nowhere")])
    Manifest("empty", "dataset_prep.toy", {}).write(tmp_path / "empty")
    assert verify.main([str(tmp_path / "empty")]) == 1
    prepare(tmp_path / "nowhere/frames", ["a"])
    with pytest.raises(DataError, match="there is one in .*frames"):
        verify.main([str(tmp_path / "nowhere")])


def test_other_arguments_are_refused(tmp_path: Path):
    """fails when one folder can contain files of different settings"""
    prepare(tmp_path, ["a"], size=256)
    with pytest.raises(DataError, match="size: 256 before, 224 now"):
        prepare(tmp_path, ["a"], size=224)
    with pytest.raises(DataError, match="contains the set 'toy', not 'other'"), Preparation(tmp_path, "other", "x", {}):
        pass
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(DataError, match="is not a manifest"):
        prepare(tmp_path, ["a"], size=256)


def test_shards_are_the_same_bytes_everywhere(tmp_path: Path):
    """fails when time, user or order of the members get into a shard, or two samples share a key"""
    samples = [("b", {"txt": "é", "jpg": b"1"}), ("a", {"jpg": b"2", "txt": "x"})]
    for name, umask in (("one", 0o22), ("two", 0o77)):
        before = os.umask(umask)
        assert write_shard(tmp_path / name, samples) == 2
        os.umask(before)
    assert sha256(tmp_path / "one") == sha256(tmp_path / "two")
    with pytest.raises(ValueError, match="the key 'a' occurs twice"):
        write_shard(tmp_path / "three", [samples[1], samples[1]])
    assert safe_key("Y-a_.b/c.wav") == "Y-a__b_c_wav"


def test_errors_are_messages(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """fails when a missing file gives a traceback, or an unexpected error has no hint"""
    monkeypatch.delenv("CHATBRIDGE_TRACEBACK", raising=False)

    def fails(error: Exception) -> Any:
        def main() -> None:
            raise error

        return main

    cases = [
        (FileNotFoundError(2, "No such file", str(tmp_path / "x")), 2, "x: No such file"),
        (DataError("line 3: no url"), 2, "chatbridge: line 3: no url"),
        (KeyError("a"), 1, "unexpected error: KeyError: 'a'"),
        (ValueError("b"), 1, "CHATBRIDGE_TRACEBACK=1"),
    ]
    for error, code, words in cases:
        with pytest.raises(SystemExit) as left:
            arguments.run(fails(error))
        assert left.value.code == code and words in capsys.readouterr().err
    parser = arguments.parser("About.", "dataset_prep.toy", "data/toy")
    assert parser.parse_args([]).out == Path("data/toy") and parser.parse_args(["--limit", "3"]).limit == 3
    with pytest.raises(SystemExit):
        parser.parse_args(["--limit", "0"])


def test_a_manifest_on_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """fails when the message about a full disk names no file, or an incomplete manifest remains"""

    def full(path: Path, *args: Any, **kwargs: Any) -> None:
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*manifest.json'"):
        write_text(tmp_path / "manifest.json", "{}")
    assert not list(tmp_path.iterdir())
