"""Altered copies of pictures: mirrored, and from closer.

Copies are made on the user's own machine, below data/, and are not distributed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image, ImageOps

from chatbridge.common.errors import DataError, MediaError
from chatbridge.common.seeds import stream
from chatbridge.processors.image_file import open_image
from dataset_prep.common.manifest import part_of
from dataset_prep.stamps.pictures import Stamp

SIDE = 320  # pixels of the longer side of a copy
CLOSER = 0.8  # of each side that a copy from closer shows


def mirrored(stamps: Iterable[Stamp], copies: Path) -> list[Stamp]:
    """The stamps that may be mirrored, each with a mirrored copy. Existing copies are kept."""
    return [_with_copy(stamp, copies, "mirrored") for stamp in stamps if stamp.can_mirror]


def closer(stamps: Sequence[Stamp], copies: Path) -> list[Stamp]:
    """The stamps, each with a copy that shows a part of it, chosen by a hash of its path."""
    return [_with_copy(stamp, copies, "closer") for stamp in stamps]


def _with_copy(stamp: Stamp, copies: Path, how: str) -> Stamp:
    copy = (copies / how / f"{stamp.key}.png").absolute()
    if not copy.exists():
        try:
            with open_image(stamp.path) as opened:
                picture = opened.convert("RGBA")
        except (MediaError, OSError) as error:
            raise DataError(
                f"{stamp.path}: cannot be read as a picture ({error}); install its package again"
            ) from error
        save(ImageOps.mirror(picture) if how == "mirrored" else _part(picture, stamp.key), copy)
    return replace(stamp, path=copy, altered=how)


def _part(picture: Image.Image, key: str) -> Image.Image:
    """A part of CLOSER of each side, at a place that depends on the key alone."""
    width, height = (max(1, round(side * CLOSER)) for side in picture.size)
    left, top = stream(0, f"part {key}").random(2)
    x, y = round(left * (picture.width - width)), round(top * (picture.height - height))
    return picture.crop((x, y, x + width, y + height))


def save(picture: Image.Image, copy: Path) -> None:
    """Write a picture of at most SIDE pixels a side; atomic, so that a killed process leaves no half picture."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    picture.thumbnail((SIDE, SIDE))
    part = part_of(copy)
    picture.save(part, "PNG")
    part.replace(copy)
