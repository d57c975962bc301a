"""Odd and broken tars: every sample is right or has a reason; indexing of many tars."""

from __future__ import annotations

import gzip
import io
import random
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest

from chatbridge.common.errors import DataError, MediaError
from chatbridge.config.schema import parse
from chatbridge.datasets.builders.web_pairs import WebPairs
from chatbridge.datasets.tars import parallel_indexing as indexing
from chatbridge.datasets.tars.index import TarIndex, find_index, open_index
from chatbridge.datasets.tars.parallel_indexing import index_tars
from chatbridge.datasets.tars.scan import scan
from tests.helpers.tiny_media import jpeg, pairs, write_tar


def opened(tar: Path | str, **options: object) -> WebPairs:
    return WebPairs(parse(WebPairs.Config, {"shards": str(tar), "modality": "image", **options}), "pairs")


def read(source: WebPairs, index: int) -> tuple[bytes, str] | str:
    """Picture and caption of a sample, or the reason why there are none."""
    try:
        turns = source.record(index, np.random.default_rng(0)).conversation
    except MediaError as error:
        return str(error)
    return turns[0].media[0].ref, turns[1].text


def outcomes(tar: Path, **options: object) -> list[tuple[bytes, str] | str]:
    source = opened(tar, **options)
    return [read(source, index) for index in range(len(source))]


def outcomes_or_refusal(tar: Path) -> list[tuple[bytes, str] | str] | str:
    try:
        return outcomes(tar)
    except DataError as error:
        return str(error)


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def file(name: str, content: bytes | str) -> tuple[tarfile.TarInfo, bytes]:
    content = content.encode() if isinstance(content, str) else content
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info, content


def pack(tar: Path, members: list, format: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(tar, "w", format=format) as archive:
        for member in members:
            info, content = member if isinstance(member, tuple) else (member, b"")
            archive.addfile(info, io.BytesIO(content))
    return tar


def test_links_mean_what_they_point_at(tmp_path: Path):
    """fails when a deduplicated member is lost, reads other bytes, or a dangling link passes as an empty file"""
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


def test_doubles_and_several_pictures_of_one_sample(tmp_path: Path):
    """fails when a repeated key hides a sample, or a preview beside the picture makes a sample of its own"""
    tar = write_tar(
        tmp_path / "d.tar",
        [
            ("0.gif", b"preview"), ("0.jpg", jpeg(1)), ("0.png", b"mask"), ("0.txt", "first"),
            ("0.jpg", jpeg(2)), ("0.txt", "second of the same key"),
            ("1.jpg", b""), ("1.txt", "nothing to see"), ("2.jpg", jpeg(3)), ("2.txt", ""),
            ("3.TIFF", b"tiff"), ("3.txt", "endings in capitals"),
        ],
    )  # fmt: skip
    assert outcomes(tar) == [
        (jpeg(1), "first"),
        (jpeg(2), "second of the same key"),
        "the image of 1 is empty (0 bytes)",
        "the caption of 2 is empty",
        (b"tiff", "endings in capitals"),
    ]


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names(tmp_path: Path, format: int):
    """fails when the extra headers of long or non-ASCII names shift what is read"""
    names = ["n" * 240, "ordner/ünïcödé/" + "é" * 90, "short"]
    members = [member for name in names for member in (file(f"{name}.jpg", jpeg(7)), file(f"{name}.txt", name[-3:]))]
    source = opened(pack(tmp_path / "n.tar", members, format))
    assert [source.sample_id(index) for index in range(3)] == [f"n.tar/{name}" for name in names]
    assert [read(source, index) for index in range(3)] == [(jpeg(7), name[-3:]) for name in names]


def test_a_sparse_member_is_refused_with_the_way_out(tmp_path: Path):
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
def test_what_is_no_tar_is_named(tmp_path: Path, content: bytes, message: str):
    """fails when a compressed tar, an error page or a pointer ends in a message that does not help"""
    (tmp_path / "w.tar").write_bytes(content)
    with pytest.raises(DataError, match=message):
        opened(tmp_path / "w.tar")


def test_a_tar_cut_anywhere_gives_sound_samples_and_reasons(tmp_path: Path):
    """fails when a cut makes the scan stop the run, lose a whole sample before it, or give half of a file as whole"""
    long = "n" * 120
    members = [("0.jpg", jpeg(5)), ("0.txt", "zero"), (f"{long}.jpg", jpeg(6)), (f"{long}.txt", "one")]
    whole = write_tar(tmp_path / "whole.tar", members)
    expected, content = outcomes(whole), whole.read_bytes()
    ends = [int(at + size) for row in scan(whole)[0] for at, size in zip(row["at"][[0, 3]], row["size"][[0, 3]])]
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
    """fails when a broken header raises anything but a DataError, or the scan runs in a circle"""
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
def test_a_size_that_cannot_be_is_damage(tmp_path: Path, size: bytes):
    """fails when a header that claims exabytes, or less than nothing, asks for that much memory or turns in a circle"""
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
    """fails when parallel indexing mixes tars up, indexes again what exists, or hides one broken tar behind another"""
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


def test_a_tar_without_samples_is_told(tmp_path: Path, caplog):
    """fails when a shard of zeros, as a full disk leaves it, is silently nothing"""
    write_tar(tmp_path / "a.tar", pairs(1))
    (tmp_path / "b.tar").write_bytes(bytes(20480))
    assert len(opened(tmp_path / "[ab].tar")) == 1
    assert "b.tar holds no samples" in caplog.text
    assert isinstance(open_index(tmp_path / "b.tar"), TarIndex)


def test_tars_laid_end_to_end_are_read_as_one(tmp_path: Path):
    """fails when what stands behind the end of the first tar is lost in silence"""
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


def keys(tar: Path) -> list[str]:
    source = opened(tar)
    return [source.sample_id(index).partition("/")[2] for index in range(len(source))]


def test_a_key_ends_at_the_last_ending(tmp_path: Path):
    """fails when a name with dots, spaces or capitals vanishes from a tar, or loses its caption"""
    names = ["Track 2.0 (Clean)", "img_v1.5_7", "a..b", "Dr. No.1962", "x.y/2.5.1", "0"]
    tar = write_tar(
        tmp_path / "k.tar",
        [member for n in names for member in ((f"{n}.JPG", jpeg(len(n))), (f"{n}.Txt", f"c{len(n)}"))],
    )
    assert keys(tar) == names
    assert outcomes(tar) == [(jpeg(len(n)), f"c{len(n)}") for n in names]
    assert open_index(tar).left_out == 0


def test_further_files_of_a_sample_are_no_samples(tmp_path: Path):
    """fails when a mask beside its image becomes a sample of its own, or the caption `0.caption.txt` is lost"""
    tar = write_tar(
        tmp_path / "f.tar",
        [
            ("p/0.jpg", jpeg(1)), ("p/0.seg.png", b"mask"), ("p/0.caption.txt", "named caption"),
            ("1.jpg", jpeg(2)), ("1.jpg.txt", "beside the file"),
            ("2.jpg", jpeg(3)), ("2.txt", "own"), ("2.caption.txt", "other"), ("2.left.png", b"x"),
            ("3.0.jpg", jpeg(4)), ("3.0.txt", "own sample"), ("3.jpg", jpeg(5)), ("3.txt", "three"),
            ("4.5.jpg", jpeg(6)),
        ],
    )  # fmt: skip
    assert keys(tar) == ["p/0", "1", "2", "3.0", "3", "4.5"]
    assert outcomes(tar) == [
        (jpeg(1), "named caption"), (jpeg(2), "beside the file"), (jpeg(3), "own"), (jpeg(4), "own sample"),
        (jpeg(5), "three"), "the tar has no text of 4.5 (txt or json)",
    ]  # fmt: skip
    left = open_index(tar).left()
    assert left.kinds == {"further files of a sample": (3, ["p/0.seg.png", "2.caption.txt", "2.left.png"])}


def test_what_belongs_to_no_sample_is_counted_and_named(tmp_path: Path, caplog):
    """fails when the reader of tars passes over a file without a word, in the index or in the log of a run"""
    tar = pack(
        tmp_path / "n.tar",
        [
            file("./0.jpg", jpeg(1)), file("./0.txt", "zero"), file("0.png", b"x"),
            file("./0.cls", "3"), file("1.cls", "3"), file("README", "x"), file("x.json.gz", b"x"),
            file("y.heic", b"x"), file("z.Mr. Very Long Name", b"x"),
            file("._0.jpg", b"x"), file("__MACOSX/0.jpg", b"x"), file("d/.DS_Store", b"x"), file(".cache/0.jpg", b"x"),
            link("pipe.jpg", "", tarfile.FIFOTYPE), link("folder.jpg", "", tarfile.DIRTYPE),
        ],
    )  # fmt: skip
    caplog.set_level("INFO")
    assert keys(tar) == ["0"]
    assert open_index(tar).left().kinds == {
        "a second image of a sample": (1, ["0.png"]),
        "with the ending .cls": (2, ["./0.cls", "1.cls"]),
        "without an ending": (1, ["README"]),
        "with the ending .json.gz": (1, ["x.json.gz"]),
        "with the ending .heic": (1, ["y.heic"]),
        "with other endings": (1, ["z.Mr. Very Long Name"]),
        "hidden": (4, ["._0.jpg", "__MACOSX/0.jpg", "d/.DS_Store"]),
        "devices and pipes": (1, ["pipe.jpg"]),
    }
    assert (
        "source pairs: 12 files belong to no sample: hidden 4 (._0.jpg, __MACOSX/0.jpg, d/.DS_Store, ...)"
        in caplog.text
    )
    assert find_index(tar) == open_index(tar), "what was written is found again"


def test_odd_endings_do_not_fill_the_index(tmp_path: Path):
    """fails when every file of a tar has a kind of its own, and the notes are as long as the tar"""
    tar = write_tar(tmp_path / "o.tar", [*pairs(1), *((f"{n}.e{n}", b"x") for n in range(500))])
    left = open_index(tar).left()
    assert left.count == 500 and len(left.kinds) <= 21
    assert "500 files belong to no sample" in str(left)


def test_equal_keys_have_names_of_their_own(tmp_path: Path):
    """fails when two samples of a tar are called alike: a quarantine list would take out the wrong one"""
    one = [("0.jpg", jpeg(1)), ("0.txt", "a")]
    assert keys(write_tar(tmp_path / "e.tar", [*one, ("0#2.jpg", jpeg(2)), ("0#2.txt", "b"), *one, *one])) == [
        "0", "0#2", "0#3", "0#4",
    ]  # fmt: skip


def test_composed_and_decomposed_letters_are_one_name(tmp_path: Path):
    """fails when an image packed on macOS (e and accent as two letters) loses the caption that was written elsewhere"""
    tar = write_tar(tmp_path / "u.tar", [("cafe\u0301.jpg", jpeg(1)), ("caf\u00e9.txt", "coffee")])
    assert outcomes(tar) == [(jpeg(1), "coffee")] and keys(tar) == ["caf\u00e9"]


def test_an_index_of_an_older_version_is_made_anew(tmp_path: Path):
    """fails when the index that an earlier release left beside a tar still decides which samples there are"""
    tar = write_tar(tmp_path / "v.tar", pairs(2))
    index = open_index(tar)
    content = bytearray(index.file.read_bytes())
    content[:8] = b"CBTARIX4"
    index.file.write_bytes(content)
    assert find_index(tar) is None and len(opened(tar)) == 2
    assert index.file.read_bytes()[:8] == b"CBTARIX5"
