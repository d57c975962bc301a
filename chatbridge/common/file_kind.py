"""What a file is, by its first bytes, where another kind was expected: pointers, error pages, archives.

A download that went wrong leaves a file with the right name; the message has to say what is in it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from chatbridge.common.errors import DataError
from chatbridge.common.text_repair import is_utf16

HEAD = 512  # bytes that are looked at: the block with the mark of a tar
LFS = "is a pointer of Git LFS, the file itself was not fetched; run: git lfs pull"
PAGE = "is a web page: the download gave an error or asked for a login"
_SIGNS = (
    (b"\x1f\x8b", "is compressed with gzip; unpack it with: gunzip {path}"),
    (b"BZh", "is compressed with bzip2; unpack it with: bunzip2 {path}"),
    (b"\xfd7zXZ\0", "is compressed with xz; unpack it with: unxz {path}"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd; unpack it with: unzstd {path}"),
    (b"PK\x03\x04", "is a zip file; unpack it and name what is inside"),
    (b"PK\x05\x06", "is an empty zip file"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive; unpack it and name what is inside"),
    (b"Rar!", "is a rar archive; unpack it and name what is inside"),
    (b"version https://git-lfs", LFS),
    (b"PAR1", "is a parquet file; pandas.read_parquet(A).to_json(B, orient='records', lines=True) makes a .jsonl"),
    (b"ARROW1", "is an Arrow file; datasets.Dataset.from_file(...).to_json(...) makes a .jsonl of it"),
    (b"\x89HDF", "is an HDF5 file"),
    (b"SQLite format 3", "is an SQLite database"),
    (b"%PDF", "is a PDF document"),
    (b"\xff\xd8\xff", "is a JPEG image"),
    (b"\x89PNG", "is a PNG image"),
)  # fmt: skip
_PAGES = (b"<!doctype", b"<html", b"<head", b"<body", b"<?xml", b"<error")


def other_kind(head: bytes, path: Path) -> str | None:
    """A sentence without its subject about what a file is, by its first HEAD bytes; None when they tell nothing.

    Text of any kind, JSON and YAML among it, tells nothing; UTF-16 does.
    """
    if not head:
        return "is empty (0 bytes)"
    if not head.strip(b"\0"):
        return "holds nothing but zero bytes, as a full disk or a download that broke off leaves it"
    start = head.lstrip()
    for sign, what in _SIGNS:
        if start.startswith(sign):
            return what.format(path=path)
    if start.lower().startswith(_PAGES):
        return PAGE
    if head[257:262] == b"ustar":
        return "is a tar; unpack it and name what is inside"
    if is_utf16(head[: len(head) & ~1]):
        return f"is UTF-16 text, expected UTF-8; convert it with: iconv -f UTF-16 -t UTF-8 {path}"
    return None


def head_of(path: Path) -> bytes:
    """raises   OSError"""
    with path.open("rb") as stream:
        return stream.read(HEAD)


def refuse_other_kind(path: Path, may_be_empty: bool = False) -> None:
    """raises   DataError when the file is no text in UTF-8, and its first bytes say what it is; OSError"""
    what = other_kind(head_of(path), path)
    if what is not None and not (may_be_empty and path.stat().st_size == 0):
        raise DataError(f"{path}: {what}")


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object that a file holds.

    raises   DataError that says what the file is instead; OSError
    """
    refuse_other_kind(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from None
    except ValueError as error:  # also a number with thousands of digits
        raise DataError(f"{path}: cannot be read as JSON ({error})") from None
    except RecursionError:
        raise DataError(f"{path}: cannot be read as JSON: its brackets are nested too deeply") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content
