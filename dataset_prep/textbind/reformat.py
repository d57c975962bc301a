"""Convert cleaned conversations to the records that training reads, and list their images.

    python -m dataset_prep.textbind reformat data/textbind/raw.clean.json --image-dir data/textbind/images

writes raw.reform.json, records {"conversation": [{"role", "content", "image_list", "caption_list", "url_list"}, ...],
"image_dir"}, and raw.img-cap.json, {"image", "url", "caption"} of every image that a conversation was given. Captions
are the given ones, not those that the language model wrote.

`download` reads either file; `collect` copies the images from the pool instead. Afterwards --only-with-images drops the
records with a missing or unreadable image; they are counted, and listed in raw.unusable.jsonl.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from chatbridge.common.errors import MediaError
from chatbridge.processors.image_file import read_image
from dataset_prep.common import arguments
from dataset_prep.common.manifest import write_json
from dataset_prep.textbind.image_tags import ASSISTANT, HUMAN, PAIR, RawRecord, turns
from dataset_prep.textbind.record_files import Record, read_records, write_lines

ROLES = {HUMAN: "user", ASSISTANT: "assistant"}
IMAGE = "<image>"


def conversation(raw: RawRecord) -> list[dict[str, Any]]:
    """The turns of a cleaned record, with the images that each shows."""
    return [_message(turn, raw) for turn in turns(raw.response)]


def _message(turn: str, raw: RawRecord) -> dict[str, Any]:
    mark = next(mark for mark in ROLES if turn.startswith(mark))
    text = turn.removeprefix(mark)
    shown = [int(match[1]) for match in PAIR.finditer(text)]
    return {
        "role": ROLES[mark],
        "content": PAIR.sub(IMAGE, text).strip(),
        "image_list": [image_name(raw.image_idx[number]) for number in shown],
        "caption_list": [raw.captions[number] for number in shown],
        "url_list": [raw.urls[number] for number in shown],
    }


def image_name(image_idx: int | str) -> str:
    """The file of an image of the pool."""
    return f"{image_idx}.png"


def image_captions(raws: Iterable[RawRecord]) -> tuple[list[dict[str, str]], int]:
    """{"image", "url", "caption"} of each image, and how many came back with another address or caption; the first
    counts."""
    found: dict[str, dict[str, str]] = {}
    num_different = 0
    for raw in raws:
        for number, url, caption in zip(raw.image_idx, raw.urls, raw.captions, strict=True):
            name = image_name(number)
            entry = {"image": name, "url": url, "caption": caption}
            num_different += found.setdefault(name, entry) != entry
    return list(found.values()), num_different


def image_fault(path: Path) -> str | None:
    """Why an image cannot be used; None if it can."""
    if not path.is_file():
        return "missing image"
    try:
        read_image(path)
    except MediaError:
        return "unreadable image"
    return None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("cleaned", type=arguments.existing_file, metavar="FILE.clean.json", help="of `clean`")
    add("--image-dir", type=Path, required=True, metavar="FOLDER", help="with the images, now or after `download`")
    add("--out", type=Path, metavar="FOLDER", help="of the files (default: that of the cleaned file)")
    add("--only-with-images", action="store_true", help="drop records with a missing or unreadable image")


def run(asked: argparse.Namespace) -> int:
    """1 when no record is left."""
    folder, name = asked.out or asked.cleaned.parent, asked.cleaned.name.partition(".")[0]
    for kind in ("reform.json", "img-cap.json", "unusable.jsonl"):
        arguments.refuse_own_input(folder / f"{name}.{kind}", asked.cleaned)
    raws, dropped = _readable(read_records(asked.cleaned))
    records = {number: {"conversation": conversation(raw), "image_dir": str(asked.image_dir)}
               for number, raw in raws.items()}  # fmt: skip
    if asked.only_with_images:
        lost = _without_images(records, asked.image_dir)
        records = {number: record for number, record in records.items() if number not in lost}
        dropped |= lost
    images, num_different = image_captions(raws.values())
    print(f"{write_json(folder / f'{name}.reform.json', [*records.values()])}: {len(records):,} conversations")
    print(f"{write_json(folder / f'{name}.img-cap.json', images)}: {len(images):,} images")
    if num_different:
        print(f"  {num_different:,} images have several addresses or captions; the first one is used")
    for reason, number in sorted(Counter(entry["reason"] for entry in dropped.values()).items()):
        print(f"  dropped {number:,}: {reason}")
    path = write_lines(folder / f"{name}.unusable.jsonl", (entry for _, entry in sorted(dropped.items())))
    print(f"  each dropped record with its reason: {path}" if dropped else "  no record was dropped")
    return 0 if records else 1


def _readable(records: Iterable[Record]) -> tuple[dict[int, RawRecord], dict[int, Record]]:
    """number -> record of `clean`, and number -> fault of one that is something else."""
    raws: dict[int, RawRecord] = {}
    dropped: dict[int, Record] = {}
    for number, record in enumerate(records):
        try:
            raw = RawRecord.of(record)
            _check(raw)
            raws[number] = raw
        except ValueError as error:
            dropped[number] = {"number": number, "reason": "not a cleaned record", "detail": str(error)}
    return raws, dropped


def _check(raw: RawRecord) -> None:
    """raises ValueError for a response that `clean` would not keep, or in which an image would have no file"""
    found = turns(raw.response)
    if not found:
        raise ValueError("its response has no turn that begins with Human:")
    if IMAGE in raw.response:
        raise ValueError(f"its text contains {IMAGE}, which stands for an image in training")
    for match in PAIR.finditer(raw.response):
        if int(match[1]) >= len(raw.captions):
            raise ValueError(f"it shows <img{match[1]}>, but was given {len(raw.captions)} images; run `clean` first")


def _without_images(records: Mapping[int, Record], folder: Path) -> dict[int, Record]:
    """number -> reason, of the records with an image that cannot be read."""
    fault_of = lru_cache(maxsize=None)(image_fault)
    dropped: dict[int, Record] = {}
    for number, record in records.items():
        for name in (name for message in record["conversation"] for name in message["image_list"]):
            if fault := fault_of(folder / name):
                dropped[number] = {"number": number, "reason": fault, "detail": name, "record": record}
                break
    return dropped
