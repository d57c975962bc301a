"""Image files: every color mode, transparency, orientation, and files that are broken or not images."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chatbridge.common.errors import MediaError
from chatbridge.processors.image import ImageProcessor
from chatbridge.processors.image_file import pillow, read_image, rgb
from chatbridge.processors.limits import Limits
from tests.helpers.media_files import bands, image_bytes


@pytest.mark.parametrize(
    ("mode", "kind"), [("RGB", "JPEG"), ("CMYK", "JPEG"), ("RGBA", "PNG"), ("P", "PNG"), ("RGB", "WEBP")]
)
def test_color_modes(mode: str, kind: str):
    """Fails when a mode is refused or its colors come out differently."""
    pixels = np.full((16, 16, 3), (204, 51, 0), np.uint8)
    got = read_image(image_bytes(kind, pixels, mode))
    assert got.shape == (16, 16, 3)
    assert np.abs(got.astype(int) - pixels).max() <= 12


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey_modes(mode: str):
    """Fails when grey images do not become three equal channels."""
    got = read_image(image_bytes("PNG", np.full((8, 8, 3), 255, np.uint8), mode))
    assert (got == 255).all()


def test_sixteen_bits():
    """Fails when 16-bit greys are clipped to white instead of scaled."""
    out = io.BytesIO()
    Image.fromarray(np.array([[0, 257 * 100, 65535]], np.uint16)).save(out, "PNG")
    assert read_image(out.getvalue())[0, :, 0].tolist() == [0, 100, 255]


def test_sixteen_bits_are_scaled_by_type_not_by_content():
    """Fails when a dark 16-bit grey image comes out bright, or as levels of 8 bits."""
    for kind in ("PNG", "TIFF", "PPM"):
        out = io.BytesIO()
        Image.fromarray(np.array([[0, 100, 255]], np.uint16)).save(out, kind)
        assert read_image(out.getvalue()).max() == 0, kind
    out = io.BytesIO()
    Image.fromarray(np.array([[7, 8]], np.int32)).save(out, "TIFF")
    with pytest.raises(MediaError, match="32-bit integers, which have no agreed white"):
        read_image(out.getvalue())


def black_sign(kind: str, mode: str) -> bytes:
    """A black bar on transparent ground whose hidden color is black too."""
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (4, 4, 12, 12))
    out = io.BytesIO()
    if mode == "tRNS":  # one level of a grey image is transparent
        grey = Image.new("L", (16, 16), 9)
        grey.paste(0, (4, 4, 12, 12))
        grey.save(out, kind, transparency=9)
    elif mode == "P":
        palette = Image.new("P", (16, 16), 1)
        palette.putpalette([0, 0, 0, 0, 0, 0])
        palette.paste(0, (4, 4, 12, 12))
        palette.save(out, kind, transparency=1)
    else:
        image.convert(mode).save(out, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return out.getvalue()


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("PNG", "RGBA"), ("PNG", "LA"), ("PNG", "P"), ("PNG", "tRNS"), ("WEBP", "RGBA"), ("GIF", "P"), ("TIFF", "RGBA")],
)
def test_transparent_pixels_show_the_background(kind: str, mode: str):
    """Fails when a black sign on transparent ground comes out black all over, or the setting changes nothing."""
    data = black_sign(kind, mode)
    pixels = read_image(data)
    assert pixels[0, 0].tolist() == [255, 255, 255] and pixels[8, 8].tolist() == [0, 0, 0]
    assert read_image(data, background=(0, 9, 200))[0, 0].tolist() == [0, 9, 200]
    assert read_image(data, background=None)[0, 0].max() <= 9  # the reference's way
    processor = ImageProcessor(16, mean=(0, 0, 0), std=(1, 1, 1), background=(255, 0, 0))
    assert processor(data)[:, 0, 0].tolist() == [1, 0, 0]


def test_half_transparent_and_premultiplied_pixels():
    """Fails when alpha is applied twice, or not at all."""
    half = Image.new("RGBA", (4, 4), (200, 0, 0, 128))
    want = [round(200 * 128 / 255 + 255 * 127 / 255), 127, 127]
    for image in (half, half.convert("RGBa")):
        got = np.array(rgb(image))[0, 0].astype(int)
        assert np.abs(got - want).max() <= 2


def test_palette_with_transparency_is_quiet(recwarn: pytest.WarningsRecorder):
    """Fails when a transparent palette makes Pillow warn."""
    read_image(image_bytes("PNG", mode="P", transparency=bytes([0, 128])))
    assert not [str(warning.message) for warning in recwarn if "alette" in str(warning.message)]


def test_rotated_by_exif():
    """Fails when an image of a phone stays on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6  # shown rotated by 90 degrees clockwise
    got = read_image(image_bytes("PNG", exif=exif))
    np.testing.assert_array_equal(got, np.rot90(bands(), -1))


def test_huge_images_are_refused_before_decoding(recwarn: pytest.WarningsRecorder):
    """Fails when a small file of very many pixels is decoded, or its reason is Pillow's warning about an attack."""
    pillow.cache_clear()  # pytest takes back what other tests told the warnings module
    for side, reason in ((12_000, "12000 x 12000 are 144.0 million pixels"), (20_000, "400.0 million pixels")):
        data = png_header(side)
        with pytest.raises(MediaError) as caught:
            ImageProcessor(8)(data)
        said = " ".join(str(caught.value).split())
        assert reason in said and "100 million are allowed (data.media.max_pixels)" in said
    with pytest.raises(MediaError, match=r"60 x 40 are 0\.0 million"):
        ImageProcessor(8, lean=True, train=True).within(Limits(max_pixels=2399))(image_bytes("JPEG"))
    assert not list(recwarn)


def png_header(side: int) -> bytes:
    """A PNG whose header states this size, without pixels."""
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", b""), (b"IEND", b"")]
    packed = [struct.pack(">I", len(x)) + name + x + struct.pack(">I", zlib.crc32(name + x)) for name, x in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animations_show_their_first_frame(kind: str):
    """Fails when an animated image is refused or another frame of it is taken."""
    out = io.BytesIO()
    frames = [Image.new("RGB", (16, 16), color) for color in ((250, 0, 0), (0, 250, 0))]
    frames[0].save(out, kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {}))
    assert read_image(out.getvalue())[8, 8].tolist() == [250, 0, 0]


def test_float_greys_are_scaled():
    """Fails when a TIFF of floats in 0..1 becomes black."""
    out = io.BytesIO()
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)).save(out, "TIFF")
    assert read_image(out.getvalue())[0, :, 0].tolist() == [0, 127, 255]


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ([0.0, 0.25, 1.25], [0, 63, 255]),
        ([-0.1, 0.0, 0.25], [0, 0, 63]),
        ([0.0, 0.5, 255.0], "its pixels are floats up to 255; floats are read as 0..1, convert it"),
        ([0.0, 0.5, float("nan")], "pixels that are not numbers"),
    ],
)
def test_floats_have_one_white(levels: list[float], expected: list[int] | str):
    """Fails when the scale of float pixels depends on the brightest one: a dark image would become bright, and one
    that overshoots white black."""
    out = io.BytesIO()
    Image.fromarray(np.array([levels], np.float32)).save(out, "TIFF")
    if isinstance(expected, str):
        with pytest.raises(MediaError, match=expected):
            read_image(out.getvalue())
    else:
        assert read_image(out.getvalue())[0, :, 0].tolist() == expected


def test_foreign_files_are_recognised(tmp_path: Path):
    """Fails when an image under a wrong name is refused, or what is no image is not named."""
    (tmp_path / "really_png.jpg").write_bytes(image_bytes("PNG"))
    assert ImageProcessor(8, lean=True, train=True)(tmp_path / "really_png.jpg").shape == (3, 8, 8)
    foreign = {
        "page.jpg": (b"\n<!DOCTYPE html><html><body>404</body></html>", "an HTML page"),
        "movie.jpg": (b"\0\0\0\x20ftypisom" + bytes(200), "an MP4 or QuickTime video"),
        "pointer.jpg": (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer, not the file itself"),
        "list.jpg": (b"PK\x03\x04" + bytes(100), "a zip archive"),
        "blank.jpg": (bytes(500), "zero bytes only"),
    }
    for name, (data, what) in foreign.items():
        (tmp_path / name).write_bytes(data)
        for ref in (tmp_path / name, data):
            with pytest.raises(MediaError, match=f"not a readable image .it looks like {what}"):
                ImageProcessor(8)(ref)


def test_a_pipe_is_refused(tmp_path: Path):
    """Fails when an image that is a pipe makes its reader wait for ever."""
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(MediaError, match="is a pipe or a device, expected a file"):
        read_image(tmp_path / "a.jpg")
