"""The fast path for usual JPEG files: torchvision's decoder, used only where it gives the pixels that Pillow gives."""

from __future__ import annotations

import re
import struct
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

_STANDALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers that no length follows
_FRAMES = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended, progressive: what both decoders read
_ORIENTATION, _SHORT = 0x0112, 3  # a tag of EXIF, and its type
_APP1, _SCAN = 0xE1, 0xDA
_EXIF, _HTTP = b"Exif\0\0", b"http://"  # how EXIF and the parts of XMP begin
_XMP_TURNS = re.compile(rb'tiff:Orientation(="|>)[^1]')
_HEAD_BYTES = 65536  # frames come later only after large metadata; such files are left to Pillow


class Header(NamedTuple):
    width: int
    height: int
    components: int


def read_jpeg(ref: str | Path | bytes, max_pixels: int) -> Tensor | None:
    """uint8[3, H, W] upright, or None for what is left to Pillow: other formats, CMYK, orientations by XMP or
    in unusual EXIF data, files that are too large or broken.

    Both decoders are libjpeg-turbo with the same settings: equal pixels (tested over subsamplings, progressive files
    and all orientations). An upright file lies in memory as [H, W, 3].
    """
    if find_spec("torchvision") is None:
        return None
    try:
        data = ref if isinstance(ref, bytes) else Path(ref).read_bytes()
        header = usual_header(data)
        if header is None or header.width * header.height > max_pixels:
            return None
        return _decoded(data)
    except (OSError, RuntimeError, struct.error, IndexError):  # Pillow names the reason
        return None


def _decoded(data: bytes) -> Tensor:
    """uint8[3, H, W], rotated as EXIF asks. raises RuntimeError for a broken file"""
    from torchvision.io import ImageReadMode, decode_jpeg

    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    x: Any = decode_jpeg(encoded, mode=ImageReadMode.RGB, apply_exif_orientation=True)
    return x


def usual_header(data: bytes) -> Header | None:
    """Stored size and channels of a grey or colour JPEG of 8 bits that both decoders orient alike; else None.

    raises   struct.error or IndexError for a header that breaks off
    """
    if data[:2] != b"\xff\xd8":
        return None
    header: Header | None = None
    at, num_exif = 2, 0
    while at < _HEAD_BYTES:
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF or marker in _STANDALONE:
            at += 1 if marker == 0xFF else 2
            continue
        if marker == _SCAN:  # metadata may follow the frame, but not the first scan
            return header
        (length,) = struct.unpack_from(">H", data, at + 2)
        if marker == _APP1:
            metadata = data[at + 4 : at + 2 + length]
            num_exif += metadata.startswith(_EXIF)
            if num_exif > 1 or not _is_oriented_alike(metadata):
                return None
        if marker in _FRAMES:
            bits, height, width, components = struct.unpack_from(">BHHB", data, at + 4)
            if header is not None or bits != 8 or components not in (1, 3) or not height:
                return None
            header = Header(width, height, components)
        at += 2 + length
    return None


def _is_oriented_alike(metadata: bytes) -> bool:
    """Whether torchvision and Pillow orient the image alike: EXIF is read by both, XMP by Pillow alone, and
    torchvision takes the rest of any other APP1 segment for EXIF."""
    if metadata.startswith(_EXIF):
        return is_plain_exif(metadata[len(_EXIF) :])
    return metadata.startswith(_HTTP) and _XMP_TURNS.search(metadata) is None


def is_plain_exif(tiff: bytes) -> bool:
    """Whether EXIF data are complete and have at most one orientation, a single SHORT: all else is read differently by
    different readers."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return False
    try:
        (first,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, first)
        entries = [struct.unpack_from(order + "HHIH2x", tiff, first + 2 + 12 * at) for at in range(count)]
    except struct.error:
        return False
    found = [(kind, num, value) for tag, kind, num, value in entries if tag == _ORIENTATION]
    return not found or (found[0][:2] == (_SHORT, 1) and found[0][2] in range(1, 9) and len(found) == 1)
