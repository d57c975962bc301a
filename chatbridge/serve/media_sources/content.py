"""What every kind of reference becomes before it is stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Content:
    """A media item that can be read once.

    chunks   its bytes
    shown    its reference for messages, without secrets and data
    type     its declared type, "image/png"; "" if none is declared
    name     a file name that its reference has, as it was sent; "" for none
    length   declared number of bytes; None if unknown
    """

    chunks: Iterator[bytes]
    shown: str
    type: str = ""
    name: str = ""
    length: int | None = None
