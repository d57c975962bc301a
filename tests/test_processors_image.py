"""Pictures: resizing by independent formulas and against the golden, every colour mode, and broken files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from media_files import bands, picture_bytes
from PIL import Image

from chatbridge.common.errors import MediaError
from chatbridge.processors.image import CLIP_MEAN, CLIP_STD, ImageProcessor, read_image


def normalised(pixels: np.ndarray) -> torch.Tensor:
    """float[3, H, W] from pixels in 0..255"""
    x = (pixels.astype(np.float64) / 255 - np.array(CLIP_MEAN)) / np.array(CLIP_STD)
    return torch.from_numpy(x.transpose(2, 0, 1)).float()


def bilinear(pixels: np.ndarray, size: int) -> np.ndarray:
    """Half-pixel bilinear without smoothing, axis by axis."""
    out = pixels.astype(np.float64)
    for axis in (0, 1):
        length = out.shape[axis]
        at = ((np.arange(size) + 0.5) * length / size - 0.5).clip(0, length - 1)
        low = np.floor(at).astype(int)
        part = (at - low).reshape([-1 if i == axis else 1 for i in range(3)])
        out = np.take(out, low, axis) * (1 - part) + np.take(out, np.minimum(low + 1, length - 1), axis) * part
    return out


@pytest.mark.parametrize("size", [20, 28, 96])
def test_training_resize_by_formula(size: int):
    """Fails when axes are swapped, corners aligned, the aspect ratio kept or antialias cannot be switched off."""
    got = ImageProcessor(size, train=True, antialias=False)(picture_bytes())
    torch.testing.assert_close(got, normalised(bilinear(bands(), size)), atol=2e-5, rtol=0)


def test_evaluation_resize_is_pillow_bicubic():
    """Fails when evaluation pictures are resized as tensors, or by another filter."""
    want = np.asarray(Image.fromarray(bands()).resize((24, 24), Image.Resampling.BICUBIC))
    torch.testing.assert_close(ImageProcessor(24)(picture_bytes()), normalised(want), atol=1e-6, rtol=0)


def test_antialias_is_the_default_of_training():
    """Fails when the training resize of a large picture does not smooth unless told so."""
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    smooth, rough = (
        ImageProcessor(16, train=True, **kw)(picture_bytes(pixels=noise)) for kw in ({}, {"antialias": False})
    )
    assert smooth.std() < 0.5 * rough.std()


@pytest.mark.parametrize(
    ("mode", "kind"), [("RGB", "JPEG"), ("CMYK", "JPEG"), ("RGBA", "PNG"), ("P", "PNG"), ("RGB", "WEBP")]
)
def test_colour_modes(mode: str, kind: str):
    """Fails when a mode is refused or its colours come out otherwise."""
    pixels = np.full((16, 16, 3), (204, 51, 0), np.uint8)
    got = read_image(picture_bytes(kind, pixels, mode))
    assert got.shape == (16, 16, 3)
    assert np.abs(got.astype(int) - pixels).max() <= 12


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey_modes(mode: str):
    """Fails when grey pictures do not become three equal channels."""
    got = read_image(picture_bytes("PNG", np.full((8, 8, 3), 255, np.uint8), mode))
    assert (got == 255).all()


def test_sixteen_bits():
    """Fails when 16-bit greys are clipped to white instead of scaled."""
    out = io.BytesIO()
    Image.fromarray(np.array([[0, 257 * 100, 65535]], np.uint16)).save(out, "PNG")
    assert read_image(out.getvalue())[0, :, 0].tolist() == [0, 100, 255]


def test_palette_with_transparency_is_quiet(recwarn: pytest.WarningsRecorder):
    """Fails when a transparent palette makes Pillow warn."""
    read_image(picture_bytes("PNG", mode="P", transparency=bytes([0, 128])))
    assert not [str(warning.message) for warning in recwarn if "alette" in str(warning.message)]


def test_turned_by_exif():
    """Fails when a phone's picture stays on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    got = read_image(picture_bytes("PNG", exif=exif))
    np.testing.assert_array_equal(got, np.rot90(bands(), -1))


def test_paths_bytes_and_tensors_agree(tmp_path: Path):
    """Fails when the kind of reference changes the picture."""
    path = tmp_path / "a.png"
    path.write_bytes(picture_bytes())
    processor = ImageProcessor(32)
    want = processor(path)
    assert want.shape == (3, 32, 32)
    for ref in (str(path), path.read_bytes(), torch.from_numpy(bands()).permute(2, 0, 1), want):
        assert torch.equal(processor(ref), want)
    with pytest.raises(MediaError, match=r"tensor \[3, 9, 9\].*ready float\[3, 32, 32\]"):
        processor(torch.zeros(3, 9, 9))


def test_broken_pictures_say_why(tmp_path: Path):
    """Fails when a broken picture ends in another error, or in one without its path and a reason."""
    whole = picture_bytes("JPEG")
    files = {"half.jpg": whole[: len(whole) // 2], "empty.jpg": b"", "text.jpg": b"hello" * 50}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    reasons = {
        "half.jpg": "(?i:truncated)",
        "empty.jpg": "file is empty",
        "text.jpg": "cannot identify image file",
        "none.jpg": "no such file",
    }
    for name, reason in reasons.items():
        with pytest.raises(MediaError, match=rf"{name}.*{reason}"):
            ImageProcessor(8)(tmp_path / name)
    with pytest.raises(MediaError, match=r"^data of 250 bytes: not a readable image \(cannot identify image file\)$"):
        ImageProcessor(8)(files["text.jpg"])
    with pytest.raises(MediaError, match="0 bytes"):
        ImageProcessor(8)(b"")
