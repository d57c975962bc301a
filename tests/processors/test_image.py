"""Images: resizing by independent formulas and against the golden, every color mode, and broken files."""

from __future__ import annotations

import io
import itertools
import pickle
import struct
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

from chatbridge.common.errors import MediaError
from chatbridge.processors import fast_jpeg
from chatbridge.processors.hf_image import FolderImageProcessor, cropped
from chatbridge.processors.image import CLIP_MEAN, CLIP_STD, ImageProcessor
from chatbridge.processors.image_file import num_frames, pillow, read_image, rgb
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


def exif_bytes(order: str, orientation: int, kind: int = 3) -> bytes:
    """EXIF data with an orientation of this TIFF type (3: SHORT, 4: LONG, 1: BYTE)."""
    sign = "<" if order == "II" else ">"
    value = struct.pack(sign + ("HH" if kind == 3 else "I"), *((orientation, 0) if kind == 3 else (orientation,)))
    entry = struct.pack(sign + "HHI", 0x0112, kind, 1) + value
    return b"Exif\0\0" + order.encode() + struct.pack(sign + "HIH", 42, 8, 1) + entry + bytes(4)


def jpeg_variants() -> dict[str, bytes]:
    noise = np.random.default_rng(0).integers(0, 256, (61, 83, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(noise).resize((167, 123), Image.Resampling.BICUBIC))
    options = ({}, {"quality": 95, "subsampling": 0}, {"subsampling": 1}, {"progressive": True}, {"mode": "L"})
    made = {str(option): image_bytes("JPEG", smooth, **option) for option in options}
    for order, orientation in itertools.product(("II", "MM"), range(10)):
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


@pytest.mark.parametrize("train", [True, False])
def test_one_pixel(train: bool):
    """Fails when the smallest image is refused or changes its color."""
    got = ImageProcessor(8, train=train)(image_bytes(pixels=np.full((1, 1, 3), 51, np.uint8)))
    torch.testing.assert_close(got, normalised(np.full((8, 8, 3), 51)))


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
