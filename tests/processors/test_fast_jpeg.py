"""JPEG files by torchvision: the pixels of Pillow, or left to Pillow."""

from __future__ import annotations

import itertools
import struct
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from chatbridge.processors import fast_jpeg
from chatbridge.processors.image import ImageProcessor
from chatbridge.processors.image_file import read_image
from tests.helpers.media_files import image_bytes


def exif_bytes(order: str, orientation: int, kind: int = 3, num_values: int = 1) -> bytes:
    """EXIF data with an orientation of this TIFF type (3: SHORT, 4: LONG, 1: BYTE)."""
    sign = "<" if order == "II" else ">"
    value = struct.pack(sign + ("HH" if kind == 3 else "I"), *((orientation, 0) if kind == 3 else (orientation,)))
    return exif_of(order, struct.pack(sign + "HHI", 0x0112, kind, num_values) + value)


def exif_of(order: str, *entries: bytes) -> bytes:
    """EXIF data with these entries of its first directory."""
    sign = "<" if order == "II" else ">"
    return b"Exif\0\0" + order.encode() + struct.pack(sign + "HIH", 42, 8, len(entries)) + b"".join(entries) + bytes(4)


def jpeg_variants() -> dict[str, bytes]:
    noise = np.random.default_rng(0).integers(0, 256, (61, 83, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(noise).resize((167, 123), Image.Resampling.BICUBIC))
    options = ({}, {"quality": 95, "subsampling": 0}, {"subsampling": 1}, {"progressive": True}, {"mode": "L"})
    made = {str(option): image_bytes("JPEG", smooth, **option) for option in options}
    for order, orientation in itertools.product(("II", "MM"), range(1, 9)):
        exif = exif_bytes(order, orientation)
        made[f"orientation {orientation} {order}"] = image_bytes("JPEG", smooth, exif=exif)
    return {**made, "one pixel": image_bytes("JPEG", smooth[:1, :1])}


def test_the_fast_jpeg_decoder_gives_pillows_pixels():
    """Fails when training images depend on which decoder read them, or plain images go the slow path."""
    lean = ImageProcessor(32, train=True, lean=True)
    for name, data in jpeg_variants().items():
        got = fast_jpeg.read_jpeg(data, 10**6)
        assert got is not None, name
        np.testing.assert_array_equal(got.permute(1, 2, 0), read_image(data), err_msg=name)
        assert torch.equal(lean(data), lean.from_pixels(read_image(data))), name


def odd_exif(order: str) -> dict[str, bytes]:
    """APP1 contents with an orientation that decoders read differently."""
    exif = exif_bytes(order, 6)
    entry, other = exif[16:28], exif_bytes(order, 3)[16:28]
    xmp = b'http://ns.adobe.com/xap/1.0/\0<rdf:Description tiff:Orientation="6"/>'
    return {
        **{f"{count} values": exif_bytes(order, 6, num_values=count) for count in (0, 2, 3)},
        **{f"orientation {value}": exif_bytes(order, value) for value in (0, 9)},
        **{f"type {kind}": exif_bytes(order, 6, kind) for kind in (1, 4, 8)},
        **{f"cut at {length}": exif[:length] for length in range(6, len(exif) - 4)},
        "two orientations": exif_of(order, entry, other),
        "an entry missing": exif.replace(struct.pack("<H" if order == "II" else ">H", 1) + entry, b"\2\0" + entry),
        "no TIFF": exif.replace(b"*", b"+"),
        "another prefix": b"exif\0\0" + exif[6:],
        "XMP": xmp,
    }


def with_app1(jpeg: bytes, content: bytes, is_after_frame: bool) -> bytes:
    """The file with a further APP1 segment, at its beginning or between frame and scan."""
    at = jpeg.index(b"\xff\xda") if is_after_frame else 2
    return jpeg[:at] + b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content + jpeg[at:]


def test_odd_exif_data_turn_an_image_as_pillow_turns_it():
    """Fails when torchvision rotates an image by EXIF data that Pillow does not follow, or the other way round."""
    plain = image_bytes("JPEG", quality=95)
    for order, is_after_frame in itertools.product(("II", "MM"), (False, True)):
        good = with_app1(plain, exif_bytes(order, 6), is_after_frame)
        np.testing.assert_array_equal(fast_jpeg.read_jpeg(good, 10**6).permute(1, 2, 0), read_image(good))
        for name, content in odd_exif(order).items():
            data = with_app1(plain, content, is_after_frame)
            assert fast_jpeg.read_jpeg(data, 10**6) is None, (order, name, is_after_frame)


def test_odd_jpegs_go_to_pillow(tmp_path: Path):
    """Fails when the fast decoder takes an image it would turn wrongly, color wrongly, or half."""
    turned = image_bytes("JPEG", quality=95, exif=exif_bytes("MM", 6))
    whole = image_bytes("JPEG")
    xmp = image_bytes("JPEG", xmp=b'<rdf:Description tiff:Orientation="6"/>')  # Pillow rotates these too
    types = [image_bytes("JPEG", exif=exif_bytes("MM", 6, kind)) for kind in (4, 1)]
    at = turned.index(b"\xff\xe1")
    segment = turned[at : at + 2 + int.from_bytes(turned[at + 2 : at + 4], "big")]
    twice = turned[:at] + segment + turned[at:]
    foreign = [image_bytes("JPEG", mode="CMYK"), image_bytes("PNG"), b"", b"\xff\xd8"]
    odd = [xmp, twice, *types, *foreign, whole[: len(whole) // 2]]
    (tmp_path / "odd.jpg").write_bytes(xmp)
    for ref in (*odd, whole[:30], tmp_path / "odd.jpg", tmp_path / "none.jpg"):
        assert fast_jpeg.read_jpeg(ref, 10**6) is None
    assert fast_jpeg.read_jpeg(whole, 40 * 60 - 1) is None
    got = ImageProcessor(60, train=True, lean=True)(turned)
    want = torch.from_numpy(np.rot90(read_image(image_bytes("JPEG", quality=95)), -1).copy()).permute(2, 0, 1)[None]
    want = torch.nn.functional.interpolate(want.float(), (60, 60), mode="bilinear", antialias=True)[0]
    assert (got - want).abs().max() <= 1.001
