"""The fast way for plain JPEG pictures: torchvision's decoder, used only where it gives the pixels Pillow gives."""

from __future__ import annotations

import re
import struct
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

_STANDALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a length behind them
_FRAMES = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended, progressive: what both decoders read
_ORIENTATION = 0x0112
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_XMP_TURNS = re.compile(rb'tiff:Orientation(="|>)[^1]')
_HEAD_BYTES = 65536  # frames come later only behind large notes; such files take the slow way


class Header(NamedTuple):
    width: int
    height: int
    components: int


def read(ref: str | Path | bytes, max_pixels: int) -> Tensor | None:
    """uint8[3, H, W] that lies in memory as [H, W, 3], or None where Pillow has to look: no JPEG, CMYK, turned by EXIF
    or XMP, too large, broken.

    Both decoders are libjpeg-turbo with the same settings: equal pixels (tested over subsamplings and progressive).
    """
    if find_spec("torchvision") is None:
        return None
    try:
        data = ref if isinstance(ref, bytes) else Path(ref).read_bytes()
        header = upright_header(data)
        if header is None or header.width * header.height > max_pixels:
            return None
        return _decoded(data)
    except (OSError, RuntimeError, struct.error, IndexError):  # Pillow says what is wrong
        return None


def _decoded(data: bytes) -> Tensor:
    """raises RuntimeError for a broken picture"""
    from torchvision.io import ImageReadMode, decode_jpeg

    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    x: Any = decode_jpeg(encoded, mode=ImageReadMode.RGB)
    return x


def upright_header(data: bytes) -> Header | None:
    """Size and channels of a grey or colour JPEG of 8 bits that is shown as it is stored; None for anything else.

    raises   struct.error or IndexError for a header that breaks off
    """
    if data[:2] != b"\xff\xd8":
        return None
    at = 2
    while at < _HEAD_BYTES:
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF or marker in _STANDALONE:
            at += 1 if marker == 0xFF else 2
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        if marker == 0xE1 and _may_turn(data[at + 4 : at + 2 + length]):
            return None
        if marker in _FRAMES:
            bits, height, width, components = struct.unpack_from(">BHHB", data, at + 4)
            return Header(width, height, components) if bits == 8 and components in (1, 3) and height else None
        at += 2 + length
    return None


def _may_turn(notes: bytes) -> bool:
    """Whether these notes ask for the picture to be turned, or cannot be read. Without EXIF, XMP counts."""
    if notes.startswith(_EXIF):
        return orientation(notes[len(_EXIF) :]) != 1
    return notes.startswith(_XMP) and _XMP_TURNS.search(notes) is not None


def orientation(tiff: bytes) -> int:
    """How EXIF data say a picture is to be turned; 1 = not at all, 0 = they cannot be read."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 0
    try:
        (first,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, first)
        for entry in range(first + 2, first + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(order + "HH", tiff, entry)
            if tag == _ORIENTATION:
                return struct.unpack_from(order + "H", tiff, entry + 8)[0] if kind == 3 else 0
    except struct.error:
        return 0
    return 1
