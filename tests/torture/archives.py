"""Odd tars of images and captions. `reads`: whether a source over this one tar opens; `marks`: the samples that can be
read, in order."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from tests.torture.images import encoded
from tests.torture.odd_file import OddFile

JPEG = encoded("JPEG")
Members = Iterable[tuple[str, bytes]]


def _pairs(*names: str) -> list[tuple[str, bytes]]:
    return [
        (f"{name}.{ending}", content) for name in names for ending, content in (("jpg", JPEG), ("txt", b"a square"))
    ]


def _packed(members: Members, style: int = tarfile.USTAR_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=style) as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def _tar(path: Path, members: Members, style: int = tarfile.USTAR_FORMAT) -> None:
    path.write_bytes(_packed(members, style))


def _cut(path: Path, keep: int) -> None:
    path.write_bytes(_packed(_pairs("a", "b", "c"))[:keep])


def _links(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in _pairs("a"):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        folder, link = tarfile.TarInfo("folder"), tarfile.TarInfo("b.jpg")
        folder.type, link.type, link.linkname = tarfile.DIRTYPE, tarfile.SYMTYPE, "../../etc/passwd"
        archive.addfile(folder)
        archive.addfile(link)


def _spoiled(path: Path) -> None:
    """The header of the second pair is overwritten."""
    content = bytearray(_packed(_pairs("a", "b", "c")))
    second = content.index(b"b.jpg")
    content[second : second + 400] = b"\xaa" * 400
    path.write_bytes(content)


def _bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)


_PAIR = 512 + -(-len(JPEG) // 512) * 512 + 1024  # bytes of one pair in a tar
_LONG = "deep/" * 40 + "n" * 90
_A = _pairs("a")

ARCHIVES = (
    OddFile("plain.tar", partial(_tar, members=_pairs("a", "b")), marks="a b"),
    OddFile("no_end.tar", partial(_cut, keep=3 * _PAIR), marks="a b c"),
    OddFile("cut_in_caption.tar", partial(_cut, keep=3 * _PAIR - 511), marks="a b"),
    OddFile("cut_in_image.tar", partial(_cut, keep=2 * _PAIR + 512 + len(JPEG) // 2), marks="a b"),
    OddFile("cut_in_header.tar", partial(_cut, keep=2 * _PAIR + 100), marks="a b"),
    OddFile("spoiled.tar", _spoiled, marks="a"),
    OddFile("long_names_gnu.tar", partial(_tar, members=_pairs(_LONG), style=tarfile.GNU_FORMAT), marks=_LONG),
    OddFile(
        "long_names_pax.tar",
        partial(_tar, members=_pairs(_LONG, "größe"), style=tarfile.PAX_FORMAT),
        marks=f"{_LONG} größe",
    ),
    OddFile("capitals.tar", partial(_tar, members=[("a.JPG", JPEG), ("a.TXT", b"a square")]), marks="a"),
    OddFile("links.tar", _links, marks="a"),
    OddFile("same_name_twice.tar", partial(_tar, members=_pairs("a", "a")), marks="a a#2"),
    OddFile("no_caption.tar", partial(_tar, members=[*_A, ("b.jpg", JPEG)]), marks="a"),
    OddFile("no_image.tar", partial(_tar, members=[*_A, ("b.txt", b"words")]), marks="a"),
    OddFile("empty_caption.tar", partial(_tar, members=[*_A, ("b.jpg", JPEG), ("b.txt", b"  \n")]), marks="a"),
    OddFile("empty_image.tar", partial(_tar, members=[*_A, ("b.jpg", b""), ("b.txt", b"words")]), marks="a"),
    OddFile(
        "latin_1.tar", partial(_tar, members=[*_A, ("b.jpg", JPEG), ("b.txt", "Größe".encode("latin-1"))]), marks="a"
    ),
    OddFile(
        "json_only.tar",
        partial(_tar, members=[("a.jpg", JPEG), ("a.json", json.dumps({"caption": "x"}).encode())]),
        marks="a",
    ),
    OddFile("json_broken.tar", partial(_tar, members=[*_A, ("b.jpg", JPEG), ("b.json", b'{"caption": ')]), marks="a"),
    OddFile(
        "json_without_caption.tar",
        partial(_tar, members=[*_A, ("b.jpg", JPEG), ("b.json", b'{"alt": "x"}')]),
        marks="a",
    ),
    OddFile(
        "other_files.tar", partial(_tar, members=[("README", b"x"), (".hidden", b"y"), *_A, ("a.cls", b"3")]), marks="a"
    ),
    OddFile(
        "squeezed.tar.gz", partial(_bytes, content=gzip.compress(_packed(_A))), reads=False, message="uncompressed"
    ),
    OddFile("squeezed.tar", partial(_bytes, content=gzip.compress(_packed(_A))), reads=False, message="uncompressed"),
    OddFile("no_members.tar", partial(_tar, members=[]), reads=False, message="no samples"),
    OddFile("empty.tar", partial(_bytes, content=b""), reads=False, message="empty.tar"),
    OddFile("zeros.tar", partial(_bytes, content=bytes(20480)), reads=False, message="no samples"),
    OddFile(
        "page.tar",
        partial(_bytes, content=b"<html>403 Forbidden</html>" * 60),
        reads=False,
        message="not an uncompressed tar",
    ),
)
