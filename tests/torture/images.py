"""Odd images. All show four corners: red, green / blue, white (in grey: dark red to bright white)."""

from __future__ import annotations

import io
import struct
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.torture.odd_file import OddFile, changed

SIDE = 48
CORNERS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "white": (240, 240, 240)}


def corners(height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """uint8[H, W, 3]: red, green above; blue, white below."""
    pixels = np.empty((height, width, 3), np.uint8)
    half, middle = height // 2, width // 2
    pixels[:half, :middle], pixels[:half, middle:] = CORNERS["red"], CORNERS["green"]
    pixels[half:, :middle], pixels[half:, middle:] = CORNERS["blue"], CORNERS["white"]
    return pixels


def encoded(kind: str, mode: str = "RGB", pixels: np.ndarray | None = None, **options: Any) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(corners() if pixels is None else pixels).convert(mode).save(out, kind, **options)
    return out.getvalue()


def _plain(path: Path, kind: str, mode: str = "RGB", **options: Any) -> None:
    path.write_bytes(encoded(kind, mode, **options))


def _turned(path: Path, orientation: int, stored: np.ndarray) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = orientation
    path.write_bytes(encoded("JPEG", pixels=np.ascontiguousarray(stored), exif=exif, quality=95))


def _broken_exif(path: Path) -> None:
    _plain(path, "JPEG", exif=b"Exif\x00\x00" + b"\xff" * 60, quality=95)


def _inverted_cmyk(path: Path) -> None:
    """As Adobe writes it: ink is 255 - value, marked by an APP14 segment. Pillow saves CMYK this way."""
    _plain(path, "JPEG", "CMYK", quality=95)


def _grey16(path: Path) -> None:
    from PIL import Image

    ramp = np.linspace(0, 65535, SIDE * SIDE).reshape(SIDE, SIDE).astype(np.uint16)
    Image.fromarray(ramp).save(path)


def _float_tiff(path: Path, white: float = 1.0) -> None:
    from PIL import Image

    Image.fromarray(np.linspace(0, white, SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE)).save(path, "TIFF")


def _animated(path: Path, kind: str) -> None:
    from PIL import Image

    frames = [Image.fromarray(corners()), Image.new("RGB", (SIDE, SIDE), (0, 0, 0))]
    frames[0].save(path, kind, save_all=True, append_images=frames[1:], duration=100)


def _bomb(path: Path, side: int = 40_000) -> None:
    """A valid PNG of 1.6 billion pixels in a few hundred kilobytes."""
    row = zlib.compressobj(9)
    data = b"".join(row.compress(b"\0" * (side // 8 + 1) * 100) for _ in range(side // 100)) + row.flush()
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)), (b"IDAT", data), (b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, body) for name, body in chunks))


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _no_size(path: Path) -> None:
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", 0, 0, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, body) for name, body in chunks))


def _cut(path: Path, kind: str, share: float = 0.5) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    content = encoded(kind, pixels=noise)
    path.write_bytes(content[: int(len(content) * share)])


def _bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)


IMAGES = (
    OddFile("plain.jpg", partial(_plain, kind="JPEG", quality=95), marks="corners"),
    OddFile("progressive.jpg", partial(_plain, kind="JPEG", quality=95, progressive=True), marks="corners"),
    OddFile("no_subsampling.jpg", partial(_plain, kind="JPEG", quality=95, subsampling=0), marks="corners"),
    OddFile("turned_6.jpg", partial(_turned, orientation=6, stored=np.rot90(corners(), 1)), marks="corners"),
    OddFile("turned_3.jpg", partial(_turned, orientation=3, stored=np.rot90(corners(), 2)), marks="corners"),
    OddFile("mirrored_2.jpg", partial(_turned, orientation=2, stored=corners()[:, ::-1]), marks="corners"),
    OddFile("turned_99.jpg", partial(_turned, orientation=99, stored=corners()), marks="corners"),
    OddFile("broken_exif.jpg", _broken_exif, marks="corners"),
    OddFile(
        "broken_profile.jpg", partial(_plain, kind="JPEG", quality=95, icc_profile=b"no profile" * 9), marks="corners"
    ),
    OddFile("cmyk.jpg", _inverted_cmyk, marks="corners"),
    OddFile("grey.jpg", partial(_plain, kind="JPEG", mode="L", quality=95), marks="grey"),
    OddFile("rgba.png", partial(_plain, kind="PNG", mode="RGBA"), marks="corners"),
    OddFile("palette.png", partial(_plain, kind="PNG", mode="P"), marks="corners"),
    OddFile("palette_transparent.png", partial(_plain, kind="PNG", mode="P", transparency=0), marks="corners"),
    OddFile("grey_alpha.png", partial(_plain, kind="PNG", mode="LA"), marks="grey"),
    OddFile("one_bit.png", partial(_plain, kind="PNG", mode="1"), marks=""),
    OddFile("grey_16_bit.png", _grey16, marks="ramp"),
    OddFile("float.tif", _float_tiff, marks="ramp"),
    OddFile("float_255.tif", partial(_float_tiff, white=255), reads=False, message="floats are read as 0..1"),
    OddFile("plain.tif", partial(_plain, kind="TIFF"), marks="corners"),
    OddFile("plain.bmp", partial(_plain, kind="BMP"), marks="corners"),
    OddFile("plain.webp", partial(_plain, kind="WEBP", mode="RGBA", lossless=True), marks="corners"),
    OddFile("animated.gif", partial(_animated, kind="GIF"), marks="corners"),
    OddFile("animated.png", partial(_animated, kind="PNG"), marks="corners"),
    OddFile("animated.webp", partial(_animated, kind="WEBP"), marks="corners"),
    OddFile("one_pixel.png", partial(_plain, kind="PNG", pixels=np.full((1, 1, 3), 7, np.uint8))),
    OddFile("one_pixel.jpg", partial(_plain, kind="JPEG", pixels=np.full((1, 1, 3), 7, np.uint8))),
    OddFile("one_row.jpg", partial(_plain, kind="JPEG", pixels=np.full((1, 3000, 3), 99, np.uint8))),
    OddFile("one_column.png", partial(_plain, kind="PNG", pixels=np.full((3000, 1, 3), 99, np.uint8))),
    OddFile("png_inside.jpg", partial(_plain, kind="PNG"), marks="corners"),
    OddFile("jpeg_inside.png", partial(_plain, kind="JPEG", quality=95), marks="corners"),
    OddFile(
        "text_after_end.jpg", partial(_bytes, content=encoded("JPEG", quality=95) + b"<html>" * 99), marks="corners"
    ),
    OddFile("bomb.png", _bomb, reads=False, message="pixels"),
    OddFile("no_size.png", _no_size, reads=False, message="not a readable image"),
    OddFile("cut.jpg", partial(_cut, kind="JPEG"), reads=False, message="not a readable image"),
    OddFile("cut_in_header.jpg", partial(_cut, kind="JPEG", share=0.05), reads=False, message="not a readable image"),
    OddFile("cut.png", partial(_cut, kind="PNG"), reads=False, message="not a readable image"),
    OddFile("cut.webp", partial(_cut, kind="WEBP"), reads=False, message="not a readable image"),
    OddFile(
        "bytes_changed.jpg", partial(_bytes, content=changed(encoded("JPEG"), 0.7, b"\xff\xd9\x00\xaa" * 8)), reads=None
    ),
    OddFile(
        "bytes_changed.png",
        partial(_bytes, content=changed(encoded("PNG"), 0.7, b"\x00" * 16)),
        reads=False,
        message="not a readable image",
    ),
    OddFile("empty.jpg", partial(_bytes, content=b""), reads=False, message="empty"),
    OddFile("zeros.jpg", partial(_bytes, content=bytes(5000)), reads=False, message="not a readable image"),
    OddFile(
        "page.jpg",
        partial(_bytes, content=b"<!DOCTYPE html><html><body>404 Not Found</body></html>"),
        reads=False,
        message="not a readable image",
    ),
    OddFile(
        "drawing.svg",
        partial(_bytes, content=b'<svg xmlns="http://www.w3.org/2000/svg"/>'),
        reads=False,
        message="not a readable image",
    ),
    OddFile("folder.jpg", Path.mkdir, reads=False, message="folder.jpg"),
)
