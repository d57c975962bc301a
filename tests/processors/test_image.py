"""Images: resizing by independent formulas and against the golden, every color mode, and broken files."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

from chatbridge.common.errors import MediaError
from chatbridge.processors.hf_image import FolderImageProcessor, cropped
from chatbridge.processors.image import CLIP_MEAN, CLIP_STD, ImageProcessor
from chatbridge.processors.image_file import num_frames
from chatbridge.processors.limits import Limits
from chatbridge.processors.video import VideoProcessor
from tests.helpers.media_files import bands, image_bytes
from tests.helpers.tolerances import RESIZED


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
    got = ImageProcessor(size, train=True, antialias=False)(image_bytes())
    torch.testing.assert_close(got, normalised(bilinear(bands(), size)), atol=RESIZED, rtol=0)


def test_evaluation_resize_is_pillow_bicubic():
    """Fails when evaluation images are resized as tensors, or by another filter."""
    want = np.asarray(Image.fromarray(bands()).resize((24, 24), Image.Resampling.BICUBIC))
    torch.testing.assert_close(ImageProcessor(24)(image_bytes()), normalised(want), atol=RESIZED, rtol=0)


def test_antialias_is_the_default_of_training():
    """Fails when the training resize of a large image does not smooth unless told so."""
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    smooth, rough = (
        ImageProcessor(16, train=True, **kw)(image_bytes(pixels=noise)) for kw in ({}, {"antialias": False})
    )
    assert smooth.std() < 0.5 * rough.std()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
@pytest.mark.parametrize("backend", ["pyav", "decord"])
def test_animated_images_are_videos(tmp_path: Path, kind: str, backend: Literal["pyav", "decord"]):
    """Fails when an animation cannot be used as a video, its frames are mixed up, or its length is not limited."""
    colors = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0)]
    out = io.BytesIO()
    frames = [Image.new("RGB", (16, 16), color) for color in colors]
    exact = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(out, kind, save_all=True, append_images=frames[1:], duration=500, **exact)
    processor = VideoProcessor(ImageProcessor(16, mean=(0, 0, 0), std=(1, 1, 1)), 4, backend)
    (tmp_path / "a.mp4").write_bytes(out.getvalue())
    for ref in (out.getvalue(), tmp_path / "a.mp4"):
        assert (processor(ref)[:, :, 8, 8] * 255).round().int().tolist() == [list(color) for color in colors]
    assert num_frames(out.getvalue()) == 4
    cut = processor.within(Limits(max_seconds=0.9))(out.getvalue())
    assert (cut[-1, :, 8, 8] * 255).round().int().tolist() == list(colors[1])
    with pytest.raises(MediaError, match="too long"):
        processor.within(Limits(max_seconds=0.9, too_long="refuse"))(out.getvalue())


def test_paths_bytes_and_tensors_agree(tmp_path: Path):
    """Fails when the kind of reference changes the image."""
    path = tmp_path / "a.png"
    path.write_bytes(image_bytes())
    processor = ImageProcessor(32)
    want = processor(path)
    assert want.shape == (3, 32, 32)
    for ref in (str(path), path.read_bytes(), torch.from_numpy(bands()).permute(2, 0, 1), want):
        assert torch.equal(processor(ref), want)
    with pytest.raises(MediaError, match=r"tensor \[3, 9, 9\].*ready float\[3, 32, 32\]"):
        processor(torch.zeros(3, 9, 9))


def test_broken_images_report_the_reason(tmp_path: Path):
    """Fails when a broken image ends in another error, or in one without its path and a reason."""
    whole = image_bytes("JPEG")
    files = {"half.jpg": whole[: len(whole) // 2], "empty.jpg": b"", "text.jpg": b"hello" * 50}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    reasons = {
        "half.jpg": "it is cut off",
        "empty.jpg": "file is empty",
        "text.jpg": "not a readable image .it looks like text",
        "none.jpg": "no such file",
    }
    for name, reason in reasons.items():
        with pytest.raises(MediaError, match=rf"{name}.*{reason}"):
            ImageProcessor(8)(tmp_path / name)
    with pytest.raises(
        MediaError,
        match=r"^data of 250 bytes: not a readable image \(it looks like text; accepted: JPEG, PNG, .*QOI\)$",
    ):
        ImageProcessor(8)(files["text.jpg"])
    with pytest.raises(MediaError, match="0 bytes"):
        ImageProcessor(8)(b"")


@pytest.mark.parametrize("shape", [(40, 60), (200, 30), (7, 300), (24, 24), (1, 1)])
def test_lean_images_are_one_grey_level_off_at_most(shape: tuple[int, int]):
    """Fails when bytes for training differ from the float images by more than the rounding of two passes."""
    pixels = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    bytes_of, floats_of = (
        ImageProcessor(24, train=True, lean=True).within(Limits(pixels=kind)) for kind in ("uint8", "float")
    )
    lean, exact = bytes_of(image_bytes(pixels=pixels)), floats_of(image_bytes(pixels=pixels))
    assert lean.dtype == torch.uint8 and lean.shape == (3, 24, 24) and lean.is_contiguous()
    std = torch.tensor(CLIP_STD).view(3, 1, 1)
    levels = (bytes_of.statistics.normalised(lean) - exact).abs() * std * 255
    assert levels.max() <= 1.001
    assert shape != (24, 24) or levels.max() == 0


def test_lean_images_by_pillow_are_exact(tmp_path: Path):
    """Fails when a preprocessing that ends in bytes anyway gives other numbers as bytes."""
    kinds = [ImageProcessor(24, lean=True), FolderImageProcessor(24, (0.5,) * 3, (0.2,) * 3, edge=30, lean=True)]
    kinds.append(FolderImageProcessor(24, (0.0,) * 3, (1.0,) * 3, resample="bilinear", scale=1 / 128, lean=True))
    for processor in kinds:
        exact = processor.within(Limits(pixels="float"))(image_bytes())
        lean = processor(image_bytes())
        assert lean.dtype == torch.uint8
        assert torch.equal(processor.statistics.normalised(lean), exact)
        assert torch.equal(processor(exact), lean)  # ready floats join a batch of bytes
    with pytest.raises(MediaError, match=r"outside the range of pixels.*data\.media\.pixels: float"):
        kinds[0](torch.full((3, 24, 24), 9.0))


def test_evaluation_stays_float():
    """Fails when a processor that was not asked for lean images makes bytes."""
    for train in (False, True):
        assert ImageProcessor(24, train=train)(image_bytes()).is_floating_point()


@pytest.mark.parametrize("train", [True, False])
def test_one_pixel(train: bool):
    """Fails when the smallest image is refused or changes its color."""
    got = ImageProcessor(8, train=train)(image_bytes(pixels=np.full((1, 1, 3), 51, np.uint8)))
    torch.testing.assert_close(got, normalised(np.full((8, 8, 3), 51)))


def test_processors_can_be_pickled_and_copied():
    """Fails when a loader worker that is started fresh cannot be handed a processor, or loses its limits."""
    processor = ImageProcessor(24, train=True, lean=True).within(Limits(max_pixels=5000))
    again = pickle.loads(pickle.dumps(processor))
    assert torch.equal(again(image_bytes()), processor(image_bytes()))
    assert again.limits.max_pixels == 5000 and again.count == 1 and again.taking(3).count == 1


def test_ways_to_make_an_image_square():
    """Fails when pad crops or stretches, its ground is not the background, or center and stretch are exchanged."""
    wide = np.zeros((20, 40, 3), np.uint8)
    wide[:, 20:] = (0, 255, 0)
    folder = FolderImageProcessor(20, (0, 0, 0), (1, 1, 1), edge=20, resample="nearest")
    padded = cropped(folder, "pad", (255, 0, 0)).square(wide)
    assert padded.shape == (20, 20, 3)
    assert padded[0, 0].tolist() == [255, 0, 0] and padded[19, 19].tolist() == [255, 0, 0]
    assert padded[10, 0].tolist() == [0, 0, 0] and padded[10, 19].tolist() == [0, 255, 0]
    assert cropped(folder, "pad", None).square(wide)[0, 0].tolist() == [0, 0, 0]
    stretched = cropped(folder, "stretch", None).square(wide)
    assert stretched[0, 0].tolist() == [0, 0, 0] and stretched[19, 19].tolist() == [0, 255, 0]
    assert np.array_equal(cropped(folder, "center", None).square(wide), wide[:, 10:30])
    assert np.array_equal(cropped(folder, None, None).square(wide), wide[:, 10:30])


def test_the_settings_of_encoders_reach_their_processors():
    """Fails when crop, background or channels of a YAML change nothing, or a wrong color passes."""
    from chatbridge.common.errors import ConfigError
    from chatbridge.config.schema import parse
    from chatbridge.models.encoders.beats import BEATs
    from chatbridge.models.encoders.eva_vit import EvaViT
    from chatbridge.models.encoders.timm_vision import TimmVision

    name = {"model": "vit_tiny_patch16_224", "random": True}
    timm = parse(TimmVision.Config, {**name, "crop": "pad", "background": "#0a0b0c"})
    image = timm.processor("image", True, 1)
    assert (image.pads, image.edge, image.background) == (True, None, (10, 11, 12))
    assert parse(TimmVision.Config, name).processor("image", True, 1).edge is not None
    assert parse(EvaViT.Config, {"background": "none"}).processor("image", True, 1).background is None
    assert parse(EvaViT.Config, {}).processor("video", True, 2).image.background == (255, 255, 255)
    assert parse(BEATs.Config, {"channels": "first"}).processor("audio", True, 1).channels == "first"
    with pytest.raises(ConfigError, match="expected a name .white, black"):
        parse(EvaViT.Config, {"background": "snow white"})
