"""Recognise a file by its first bytes if another kind was expected: pointers, error pages, archives.

A failed download leaves a file with the right name; the message has to state its content.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from chatbridge.common.errors import DataError
from chatbridge.common.text_repair import is_utf16

OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"  # torch.save before 1.6
MOST_HEADER = 100_000_000  # bytes of a safetensors header, its format's limit
HEAD = 512  # bytes read: a tar has its magic number within them
LFS = "is a Git LFS pointer, the file itself was not fetched; run: git lfs pull"
PAGE = "is a web page: the download returned an error or a login form"
_SIGNATURES = (
    (b"\x1f\x8b", "is compressed with gzip; unpack it with: gunzip {path}"),
    (b"BZh", "is compressed with bzip2; unpack it with: bunzip2 {path}"),
    (b"\xfd7zXZ\0", "is compressed with xz; unpack it with: unxz {path}"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd; unpack it with: unzstd {path}"),
    (b"PK\x03\x04", "is a zip file; unpack it and use the files inside"),
    (b"PK\x05\x06", "is an empty zip file"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive; unpack it and use the files inside"),
    (b"Rar!", "is a rar archive; unpack it and use the files inside"),
    (b"version https://git-lfs", LFS),
    (b"PAR1", "is a parquet file; pandas.read_parquet(A).to_json(B, orient='records', lines=True) makes a .jsonl"),
    (b"ARROW1", "is an Arrow file; datasets.Dataset.from_file(...).to_json(...) makes a .jsonl"),
    (b"\x89HDF", "is an HDF5 file"),
    (b"SQLite format 3", "is an SQLite database"),
    (b"%PDF", "is a PDF document"),
    (b"\xff\xd8\xff", "is a JPEG image"),
    (b"\x89PNG", "is a PNG image"),
)  # fmt: skip
_PAGES = (b"<!doctype", b"<html", b"<head", b"<body", b"<?xml", b"<error")


def other_kind(head: bytes, path: Path) -> str | None:
    """Return a predicate that describes a file by its first HEAD bytes ("is a zip file; ..."), or None if unknown.

    Text, JSON and YAML included, is unknown; UTF-16 is recognised.
    """
    if not head:
        return "is empty (0 bytes)"
    if not head.strip(b"\0"):
        return "contains only zero bytes, as after a full disk or an interrupted download"
    if holds_tensors(head):
        return f"is a file of weights; `python -m chatbridge weights inspect {path}` lists its tensors"
    start = head.lstrip()
    for signature, what in _SIGNATURES:
        if start.startswith(signature):
            return what.format(path=path)
    if start.lower().startswith(_PAGES):
        return PAGE
    if head[257:262] == b"ustar":
        return "is a tar file; unpack it and use the files inside"
    if is_utf16(head[: len(head) & ~1]):
        return f"is UTF-16 text, expected UTF-8; convert it with: iconv -f UTF-16 -t UTF-8 {path}"
    return None


def holds_tensors(head: bytes) -> bool:
    """Return whether a file that begins with these HEAD bytes is one of torch.save or of safetensors."""
    is_safetensors = head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < MOST_HEADER
    return is_safetensors or (head.startswith(b"PK") and b"/data.pkl" in head) or head.startswith(OLD_TORCH)


def head_of(path: Path) -> bytes:
    """Return the first HEAD bytes. Raises OSError."""
    with path.open("rb") as stream:
        return stream.read(HEAD)


def refuse_other_kind(path: Path, may_be_empty: bool = False) -> None:
    """Raise DataError if the first bytes show that the file is not UTF-8 text; OSError if it cannot be read."""
    what = other_kind(head_of(path), path)
    if what is not None and not (may_be_empty and path.stat().st_size == 0):
        raise DataError(f"{path}: {what}")


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file.

    raises   DataError that states what the file is instead; OSError
    """
    refuse_other_kind(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from None
    except ValueError as error:  # also for a number of thousands of digits
        raise DataError(f"{path}: cannot be read as JSON ({error})") from None
    except RecursionError:
        raise DataError(f"{path}: cannot be read as JSON: nested too deeply") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content
