"""The only module that opens files with Pillow: upright RGB pixels of accepted formats, and the background color."""

from __future__ import annotations

import re
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from chatbridge.common.errors import MediaError
from chatbridge.processors.limits import Limits
from chatbridge.processors.media_source import NotAccepted, check_source, looks_like, opened, reasons

# Decoded within the process, from the file alone. Left out on purpose: EPS is a program that Pillow runs with
# Ghostscript; the others are rare, of draft quality or other containers (PSD, WMF, ICNS, FITS, HDF5, ...).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "QOI")
Color = tuple[int, int, int]
WHITE: Color = (255, 255, 255)
_WHITE_16 = 65535
_BRIGHTEST_FLOAT = 1.5  # resizing with sharp filters overshoots white; 0..255 is another scale
_STEP_16 = 257  # 16-bit levels per 8-bit level
NO_BACKGROUND = "none"  # transparency is dropped, as in the reference: hidden colors show, and padding is black
_COLOR_FORM = "a name (white, black, gray ...), #rrggbb, or none"


class NotAnImage(NotAccepted):
    """The content is of no accepted image format."""


class Background:
    """A setting: `Annotated[str, Background()]` is a color that Pillow knows, or none."""

    words = f"that is {_COLOR_FORM}"

    def check(self, value: str) -> str | None:
        try:
            color_of(value)
        except ValueError:
            return f"is {value!r}, expected {_COLOR_FORM}"
        return None


def color_of(background: str) -> Color | None:
    """Red, green and blue; None for none. raises ValueError for a name that is not a color"""
    from PIL import ImageColor

    if background == NO_BACKGROUND:
        return None
    red, green, blue, *_ = ImageColor.getrgb(background)
    return red, green, blue


def read_image(
    ref: str | Path | bytes, max_pixels: int = Limits.max_pixels, background: Color | None = WHITE
) -> np.ndarray:
    """uint8[H, W, 3]: upright (EXIF), RGB whatever the file holds (palette, CMYK, grey, 16 bit), the first frame of an
    animation. Transparent pixels show `background`; with None transparency is dropped, so hidden colors show.

    raises   MediaError for a missing, truncated or foreign file, and for one of more pixels, which is not decoded
    """
    check_source(ref)
    with reasons(ref, "image"), open_image(ref, max_pixels) as image:
        return frame_of(image, background)


def frame_of(image: Any, background: Color | None = WHITE) -> np.ndarray:
    """uint8[H, W, 3] of the current frame of Pillow's image, as read_image gives it."""
    image.load()
    _check_depth(image)
    return np.array(rgb(_upright(image), background))


def num_frames(ref: str | Path | bytes) -> int:
    """Frames or pages of an image file; 1 for a still image. Nothing is decoded.

    raises   MediaError when it is not an image file of the accepted formats
    """
    check_source(ref)
    with reasons(ref, "image"), open_image(ref) as image:
        return int(getattr(image, "n_frames", 1))


def is_image(ref: str | Path | bytes) -> bool:
    """Whether the content is of an accepted image format, however many pixels it has."""
    try:
        with open_image(ref):
            return True
    except NotAnImage:
        return False
    except MediaError:
        return True  # an image beyond the limit, which its processor refuses
    except Exception:  # whatever Pillow raises about damaged files
        return False


def open_image(ref: str | Path | bytes, max_pixels: int = Limits.max_pixels) -> Any:
    """Pillow's image of an accepted format, not decoded yet. Our limit replaces Pillow's own warning and error.

    raises   NotAnImage for every other format, MediaError for more pixels than allowed
    """
    from PIL import UnidentifiedImageError

    Image = pillow()
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels
    try:
        image = Image.open(opened(ref), formats=available_formats())
    except Image.DecompressionBombError as error:  # Pillow checks first: far more pixels than allowed
        found = re.search(r"\d+", str(error))
        size = f"it has {int(found[0]) / 1e6:.1f} million pixels" if found else "it has too many pixels"
        raise MediaError(f"{size}, {max_pixels / 1e6:g} million are allowed (data.media.max_pixels)") from error
    except UnidentifiedImageError as error:
        raise NotAnImage(f"{_content(ref)}; accepted: {', '.join(FORMATS)}") from error
    check_pixels(image.width, image.height, max_pixels)
    return image


def _content(ref: str | Path | bytes) -> str:
    what = looks_like(ref, "image")
    return f"it looks like {what}" if what else "its first bytes are damaged, or of another format"


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """raises MediaError for more pixels than are allowed"""
    if width * height > max_pixels:
        found = f"{width} x {height} are {width * height / 1e6:.1f} million pixels"
        raise MediaError(f"{found}, {max_pixels / 1e6:g} million are allowed (data.media.max_pixels)")


@lru_cache(maxsize=1)
def available_formats() -> tuple[str, ...]:
    """The accepted formats that this build of Pillow has."""
    Image = pillow()
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@lru_cache(maxsize=1)
def pillow() -> Any:
    """Its image module, without its warning about many pixels, which our limit replaces. The filter is set once per
    process: setting it around every call would make Python repeat all other warnings."""
    from PIL import Image

    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    return Image


def rgb(image: Any, background: Color | None = WHITE) -> Any:
    """An RGB image of any mode. Integer grey levels are scaled by their type, never by their content."""
    Image = pillow()
    if image.mode.startswith("I"):
        return _rgb_of_16_bits(image, background)
    if image.mode == "F":
        image = Image.fromarray(_grey_of_floats(np.asarray(image)))
    if not image.has_transparency_data:
        return image.convert("RGB")
    if image.mode == "La":  # premultiplied grey, which Pillow converts in steps only
        image = image.convert("LA")
    image = image.convert("RGBA")
    return image.convert("RGB") if background is None else _composite(image, background)


def _composite(image: Any, background: Color) -> Any:
    ground = pillow().new("RGBA", image.size, (*background, 255))
    ground.alpha_composite(image)
    return ground.convert("RGB")


def _rgb_of_16_bits(image: Any, background: Color | None) -> Any:
    """convert("RGB") would clip everything above 255 to white."""
    levels = np.asarray(image).astype(np.int64)
    pixels = np.repeat((levels // _STEP_16).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
    clear = image.info.get("transparency")
    if isinstance(clear, int) and background is not None:  # of a PNG: this level is transparent
        pixels[levels == clear] = background
    return pillow().fromarray(pixels)


def _grey_of_floats(levels: np.ndarray) -> np.ndarray:
    """uint8[H, W] of floats, whose white is 1 whatever the image shows.

    raises   MediaError for levels far above white, which are of another scale, and for what is not a number
    """
    if not np.isfinite(levels).all():
        raise MediaError("it holds pixels that are not numbers")
    most = float(levels.max(initial=0))
    if most > _BRIGHTEST_FLOAT:
        raise MediaError(f"its pixels are floats up to {most:g}; floats are read as 0..1, convert it to 8 or 16 bits")
    return (levels * 255).clip(0, 255).astype(np.uint8)


def _check_depth(image: Any) -> None:
    """Pillow's 32-bit mode holds 16-bit levels in PPM and PNG files; a TIFF states how many bits (BitsPerSample).

    raises   MediaError for 32-bit integers, which have no agreed white
    """
    tags = getattr(image, "tag_v2", None)
    if image.mode == "I" and tags is not None and tuple(tags.get(258, (1,))) != (16,):
        raise MediaError("its pixels are 32-bit integers, which have no agreed white; convert it to 8 or 16 bits")


def _upright(image: Any) -> Any:
    """Rotated as its EXIF data ask; EXIF data that cannot be read rotate nothing."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # whatever is wrong with the metadata, the pixels are intact
        return image
