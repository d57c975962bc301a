"""Unpack cc_sbu_align.zip, the data of MiniGPT-4's second stage, and check every image.

    python -m dataset_prep.cc_sbu_align --zip cc_sbu_align.zip

writes data/cc_sbu_align/filter_cap.json and data/cc_sbu_align/image/2.jpg ... with a manifest. Captions whose image is
missing or damaged are not in filter_cap.json but in skipped.jsonl.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from chatbridge.common.errors import DataError
from chatbridge.common.file_kind import HEAD, other_kind
from chatbridge.common.file_names import is_hidden
from chatbridge.datasets.formats.json_fields import BadRecord, Fields
from chatbridge.processors.image_file import read_image
from dataset_prep.common import arguments
from dataset_prep.common.manifest import sha256, write_json
from dataset_prep.common.preparation import Preparation

PROGRAM = "dataset_prep.cc_sbu_align"
UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError)  # RuntimeError: a password
CAPTIONS, IMAGES, ENDING = "filter_cap.json", "image", ".jpg"


def unpack(archive: zipfile.ZipFile, made: Preparation, limit: int | None) -> None:
    """Write the images (one entry of the manifest) and the captions that have one, unless they exist."""
    names = members(archive)
    records = captions(archive, names)[:limit]
    if not made.has(IMAGES):
        good = write_images(archive, names, records, made)
        made.add(IMAGES, good)
    if not made.has(CAPTIONS):
        kept = [record for record in records if (made.folder / IMAGES / f"{record['image_id']}{ENDING}").is_file()]
        write_json(made.folder / CAPTIONS, {"annotations": kept})
        made.add(CAPTIONS, None)


def members(archive: zipfile.ZipFile) -> dict[str, str]:
    """filter_cap.json and image/<id>.jpg -> their names in the zip, in any folder."""
    found: dict[str, str] = {}
    for name in archive.namelist():
        path = PurePosixPath(name)
        if is_hidden(name):
            continue
        if path.name == CAPTIONS:
            found[CAPTIONS] = name
        elif path.suffix.lower() == ENDING and path.parent.name == IMAGES:
            found[f"{IMAGES}/{path.stem}{ENDING}"] = name
    if CAPTIONS not in found:
        raise DataError(f"{archive.filename}: contains no {CAPTIONS}; expected cc_sbu_align.zip of MiniGPT-4")
    return found


def captions(archive: zipfile.ZipFile, names: dict[str, str]) -> list[dict[str, Any]]:
    """The records {"image_id", "caption"}. raises DataError for another shape"""
    try:
        content = archive.read(names[CAPTIONS])
        if (what := other_kind(content[:HEAD], PurePosixPath(names[CAPTIONS]))) is not None:
            raise DataError(f"{archive.filename}: {CAPTIONS} {what}")
        return [_record(number, one) for number, one in enumerate(json.loads(content)["annotations"])]
    except DataError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError, *UNREADABLE) as error:
        message = f'expected {{"annotations": [{{"image_id", "caption"}}, ...]}} ({type(error).__name__}: {error})'
        raise DataError(f"{archive.filename}: {CAPTIONS}: {message}") from None


def _record(number: int, value: Any) -> dict[str, Any]:
    """raises ValueError with the number of the record"""
    try:
        fields = Fields(value)
        return {"image_id": fields.name("image_id"), "caption": fields.text("caption")}
    except BadRecord as error:
        raise ValueError(f"record {number}: {error}") from None


def write_images(
    archive: zipfile.ZipFile, names: dict[str, str], records: list[dict[str, Any]], made: Preparation
) -> int:
    """Write the images that have a caption and can be opened; returns their number."""
    from tqdm import tqdm

    (made.folder / IMAGES).mkdir(parents=True, exist_ok=True)
    count = 0
    for record in tqdm(records, desc="images", unit="image", disable=None):
        name = f"{IMAGES}/{record['image_id']}{ENDING}"
        fault, content = checked(archive, names.get(name))
        if fault is None:
            (made.folder / name).write_bytes(content)
            count += 1
        else:
            made.skip(record["image_id"], fault, name, file=IMAGES)
    if not count:
        raise DataError(f"{archive.filename}: none of the {len(records)} captions has an image")
    return count


def checked(archive: zipfile.ZipFile, name: str | None) -> tuple[str | None, bytes]:
    """The fault of an image, None if there is none, and its bytes."""
    if name is None:
        return "its image is not in the zip", b""
    try:
        content = archive.read(name)
        read_image(content)
    except (OSError, ValueError, *UNREADABLE):
        return "its image cannot be opened", b""
    return None, content


def main(given: Sequence[str] | None = None) -> int:
    parser = arguments.parser(__doc__, PROGRAM, "data/cc_sbu_align", workers=False)
    parser.add_argument("--zip", type=arguments.existing_file, required=True, help="cc_sbu_align.zip")
    asked = parser.parse_args(given)
    made_with = {"zip": sha256(asked.zip), "limit": asked.limit}
    with opened(asked.zip) as archive, Preparation(asked.out, "minigpt4_cc_sbu_align", PROGRAM, made_with) as made:
        unpack(archive, made, asked.limit)
    print(made.report())
    return 0


def opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        raise DataError(f"{path}: is not a zip, perhaps a page of Google Drive; download it again") from None


if __name__ == "__main__":
    arguments.run(main)
