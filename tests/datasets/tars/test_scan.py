"""Odd and broken tars: every sample is right or has a reason; indexing of many tars."""

from __future__ import annotations

import gzip
import random
import subprocess
import tarfile
from pathlib import Path

import pytest

from chatbridge.common.errors import DataError
from chatbridge.datasets.tars import parallel_indexing as indexing
from chatbridge.datasets.tars.index import TarIndex, find_index, open_index
from chatbridge.datasets.tars.parallel_indexing import index_tars
from chatbridge.datasets.tars.scan import scan
from tests.helpers.tar_files import file, link, opened, outcomes, outcomes_or_refusal, pack, read
from tests.helpers.tiny_media import jpeg, pairs, write_tar


def test_links_are_followed(tmp_path: Path):
    """fails when a deduplicated member is lost, gives other bytes, or a dangling link is taken for an empty file"""
    tar = pack(
        tmp_path / "l.tar",
        [
            file("raw/picture.bin", jpeg(9)),
            link("a/0.jpg", "raw/picture.bin", tarfile.LNKTYPE), file("a/0.txt", "hard"),
            link("a/1.jpg", "../raw/picture.bin", tarfile.SYMTYPE), file("a/1.txt", "soft"),
            link("a/2.jpg", "1.jpg", tarfile.SYMTYPE), file("a/2.txt", "soft to soft"),
            link("a/3.jpg", "4.jpg", tarfile.SYMTYPE), file("a/3.txt", "forward"),
            file("a/4.jpg", jpeg(4)), file("a/4.txt", "four"),
            link("a/5.jpg", "/etc/passwd", tarfile.SYMTYPE), file("a/5.txt", "outside"),
            link("a/6.jpg", "a/6.jpg", tarfile.LNKTYPE), file("a/6.txt", "itself"),
        ],
    )  # fmt: skip
    found = outcomes(tar)
    assert found[:3] == [(jpeg(9), "hard"), (jpeg(9), "soft"), (jpeg(9), "soft to soft")]
    assert found[3:5] == [(jpeg(4), "forward"), (jpeg(4), "four")]
    assert all("is a link to a file that is not in the tar" in str(reason) for reason in found[5:])


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names(tmp_path: Path, format: int):
    """fails when the extra headers of long or non-ASCII names shift what is read"""
    names = ["n" * 240, "ordner/ünïcödé/" + "é" * 90, "short"]
    members = [member for name in names for member in (file(f"{name}.jpg", jpeg(7)), file(f"{name}.txt", name[-3:]))]
    source = opened(pack(tmp_path / "n.tar", members, format))
    assert [source.sample_id(index) for index in range(3)] == [f"n.tar/{name}" for name in names]
    assert [read(source, index) for index in range(3)] == [(jpeg(7), name[-3:]) for name in names]


def test_a_sparse_member_is_refused_with_advice(tmp_path: Path):
    """fails when the pieces of a sparse file are read as if they were the file"""
    with (tmp_path / "0.jpg").open("wb") as stream:
        stream.write(b"head")
        stream.truncate(1 << 20)
    (tmp_path / "0.txt").write_text("words")
    done = subprocess.run(["tar", "--sparse", "-cf", "s.tar", "0.jpg", "0.txt"], cwd=tmp_path, capture_output=True)
    if done.returncode or (tmp_path / "s.tar").stat().st_size > 1 << 19:
        pytest.skip("this tar or file system makes no sparse members")
    assert outcomes(tmp_path / "s.tar") == [
        "the image of 0 is stored as a sparse file; pack the tar without --sparse",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"x" * 9000), "compressed with gzip"),
        (b"BZh9" + b"x" * 900, "bunzip2"),
        (b"", "is empty"),
        (b"<!DOCTYPE html>" + b" " * 900, "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1" + b"\n" * 900, "git lfs pull"),
    ],
)
def test_a_file_that_is_not_a_tar_is_described(tmp_path: Path, content: bytes, message: str):
    """fails when the message about a compressed tar, an error page or a pointer does not help"""
    (tmp_path / "w.tar").write_bytes(content)
    with pytest.raises(DataError, match=message):
        opened(tmp_path / "w.tar")


def test_a_tar_cut_anywhere_gives_whole_samples_and_reasons(tmp_path: Path):
    """fails when a cut stops the run, loses a whole sample before it, or gives half of a file as whole"""
    long = "n" * 120
    members = [("0.jpg", jpeg(5)), ("0.txt", "zero"), (f"{long}.jpg", jpeg(6)), (f"{long}.txt", "one")]
    whole = write_tar(tmp_path / "whole.tar", members)
    expected, content = outcomes(whole), whole.read_bytes()
    ends = [int(at + size) for row in scan(whole)[0] for at, size in zip(row["at"][[0, -2]], row["size"][[0, -2]])]
    tar = tmp_path / "c.tar"
    for cut in sorted({*range(100, ends[-1] + 1500, 128), *ends, *(end - 1 for end in ends)}):
        tar.write_bytes(content[:cut])
        complete = sum(cut >= last for last in ends[1::2])
        found = outcomes_or_refusal(tar)
        if isinstance(found, str):
            assert not complete and ("not an uncompressed tar" in found or "holds no samples" in found), cut
            continue
        assert found[:complete] == expected[:complete], cut
        assert all(one in expected or isinstance(one, str) for one in found), cut
        assert open_index(tar).fault is not None or cut >= ends[-1], cut


def test_flipped_bytes_never_stop_the_scan(tmp_path: Path):
    """fails when a broken header raises anything but a DataError, or the scan never ends"""
    whole = write_tar(tmp_path / "f.tar", [*pairs(4), ("n" * 150 + ".jpg", jpeg())]).read_bytes()
    random_bytes = random.Random(0)
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(3):
            content[random_bytes.randrange(len(content) // 512) * 512 + random_bytes.randrange(200)] ^= 0x80
        (tmp_path / "f.tar").write_bytes(content)
        try:
            rows, *_ = scan(tmp_path / "f.tar")
        except DataError:
            continue
        assert len(rows) <= 12


@pytest.mark.parametrize("size", [b"\x80" + b"\x7f" * 11, b"\xff" * 8 + b"\0" * 4, b"77777777777\0"])
def test_an_impossible_size_is_damage(tmp_path: Path, size: bytes):
    """fails when a header with exabytes or a negative size allocates that much memory or makes the scan endless"""
    tar = write_tar(tmp_path / "h.tar", pairs(2))
    content = bytearray(tar.read_bytes())
    start = int(scan(tar)[0][1]["at"][0]) - 512
    content[start + 124 : start + 136] = size
    header = bytearray(content[start : start + 512])
    header[148:156] = b" " * 8
    content[start + 148 : start + 156] = b"%06o\0 " % sum(header)
    tar.write_bytes(content)
    first, *rest = outcomes(tar)
    assert first == (jpeg(0), "picture number 0")
    assert set(rest) <= {"the tar breaks off inside the image of 00001"}
    assert open_index(tar).damage >= start, "the byte that is told is where it begins"


def test_many_tars_are_indexed_in_processes_and_once(tmp_path: Path, monkeypatch):
    """fails when parallel indexing swaps tars, indexes existing ones again, or reports only one of two broken tars"""
    monkeypatch.setattr(indexing, "WORTH_PROCESSES", 0)
    tars = [write_tar(tmp_path / f"{number:02}.tar", pairs(number + 1)) for number in range(6)]
    for broken in ("x.tar", "y.tar"):
        (tmp_path / broken).write_bytes(b"no tar" * 200)
    tars += [tmp_path / "x.tar", tmp_path / "gone.tar", tmp_path / "y.tar"]
    first = index_tars(tars, workers=3)
    assert [one.index.count for one in first[:6] if one.index] == [1, 2, 3, 4, 5, 6]
    assert [one.index is None and one.reason is not None for one in first[6:]] == [True] * 3
    assert "No such file" in str(first[7].reason)
    assert [one.is_new for one in index_tars(tars[:6], workers=3)] == [False] * 6
    with pytest.raises(DataError, match=r"(?s)x\.tar.*y\.tar"):
        opened(tmp_path / "?.tar")


def test_a_tar_without_samples_is_reported(tmp_path: Path, caplog):
    """fails when a shard of zeros, as after a full disk, is silently empty"""
    write_tar(tmp_path / "a.tar", pairs(1))
    (tmp_path / "b.tar").write_bytes(bytes(20480))
    assert len(opened(tmp_path / "[ab].tar")) == 1
    assert "b.tar holds no samples" in caplog.text
    assert isinstance(open_index(tmp_path / "b.tar"), TarIndex)


def test_concatenated_tars_are_read_as_one(tmp_path: Path):
    """fails when the content after the end of the first tar is silently lost"""
    first = pack(tmp_path / "a.tar", [file("0.jpg", b"A"), file("0.txt", "a")]).read_bytes()
    second = pack(
        tmp_path / "b.tar", [file("0.jpg", b"B"), file("0.txt", "b"), file("1.jpg", b"C"), file("1.txt", "c")]
    )
    both = tmp_path / "both.tar"
    for end in (b"", bytes(10_240), bytes(1)):
        both.write_bytes(first + second.read_bytes() + end)
        assert outcomes(both) == [(b"A", "a"), (b"B", "b"), (b"C", "c")]
        assert open_index(both).fault is None
    both.write_bytes(first + b"no header" * 100)
    assert open_index(both).fault == f"is damaged at byte {len(first)}; 1 samples before it are used"


def test_an_index_of_an_older_version_is_made_again(tmp_path: Path):
    """fails when the index of an earlier release is still used"""
    tar = write_tar(tmp_path / "v.tar", pairs(2))
    index = open_index(tar)
    content = bytearray(index.file.read_bytes())
    content[:8] = b"CBTARIX5"
    index.file.write_bytes(content)
    assert find_index(tar) is None and len(opened(tar)) == 2
    assert index.file.read_bytes()[:8] == b"CBTARIX6"
