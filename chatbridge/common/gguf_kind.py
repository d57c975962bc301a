"""Recognise a GGUF file by its name and its first bytes."""

from __future__ import annotations

from pathlib import Path

GGUF = b"GGUF"  # the first four bytes of every file
SUFFIX = ".gguf"


def is_gguf_name(path: Path) -> bool:
    """Whether a setting names a GGUF file rather than a folder."""
    return path.suffix.lower() == SUFFIX


def is_gguf(path: Path) -> bool:
    """Whether a file begins as GGUF does."""
    try:
        with path.open("rb") as file:
            return file.read(len(GGUF)) == GGUF
    except OSError:
        return False
