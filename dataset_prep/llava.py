"""Check a list of LLaVA (both stages of LLaVA and ChatBind) against its images, and copy it.

    llava_cc3m_595k, llava_blip_558k            stage 1: images of the web, in the zip beside the list
    llava_instruct_150k, llava_instruct_80k     stage 2: images of COCO
    llava_conversation_58k, llava_detail_23k,   its three parts
    llava_complex_reasoning_77k
    llava_v15_665k                              stage 2 of LLaVA 1.5: images of five sets, each in its folder

    python -m dataset_prep.llava llava_cc3m_595k --list raw/chat.json --zip raw/images.zip
    python -m dataset_prep.llava llava_instruct_150k --list raw/llava_instruct_150k.json

writes data/llava/<set>.json with the records unchanged except for the names of their images, which are those of the
existing files: COCO_train2014_000000033471.jpg for 000000033471.jpg. A record whose image does not exist is skipped and
listed. The images of the zip that the list names are unpacked into data/llava/<set>/images; existing ones are kept.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from chatbridge.common.errors import DataError, MediaError
from chatbridge.common.file_names import is_hidden
from chatbridge.conversation.messages import Media
from chatbridge.datasets.builders._turn_messages import place_media
from chatbridge.datasets.formats.dialogues import sharegpt
from chatbridge.datasets.formats.json_stream import section
from chatbridge.datasets.formats.records import DialogueRecord, Parsed
from dataset_prep.annotation_file import AnnotationFile, Record, parser, shown
from dataset_prep.common import arguments
from dataset_prep.common.manifest import part_of
from dataset_prep.image_index import ImageIndex
from dataset_prep.multis_records import Find

MADE_BY = "dataset_prep.llava"
COCO = Path("data/multis/coco/images")
ENOUGH = 0.9  # share of the records that the name of a set states
UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError)  # RuntimeError: a password


@dataclass(frozen=True)
class PublishedSet:
    """One list: its published file, the number of records in its name, and whether its images are COCO's."""

    file: str
    count: int
    is_coco: bool = True


SETS = {
    "llava_cc3m_595k": PublishedSet("chat.json", 595_000, is_coco=False),
    "llava_blip_558k": PublishedSet("blip_laion_cc_sbu_558k.json", 558_000, is_coco=False),
    "llava_instruct_150k": PublishedSet("llava_instruct_150k.json", 150_000),
    "llava_instruct_80k": PublishedSet("llava_instruct_80k.json", 80_000),
    "llava_conversation_58k": PublishedSet("conversation_58k.json", 58_000),
    "llava_detail_23k": PublishedSet("detail_23k.json", 23_000),
    "llava_complex_reasoning_77k": PublishedSet("complex_reasoning_77k.json", 77_000),
    "llava_v15_665k": PublishedSet("llava_v1_5_mix665k.json", 665_000, is_coco=False),
}


def main(given: Sequence[str] | None = None) -> int:
    parsed = parser(__doc__, MADE_BY, "data/llava")
    parsed.add_argument("set", choices=tuple(SETS), help="the set that the list is")
    parsed.add_argument("--list", type=arguments.existing_file, required=True, help="the published JSON file")
    parsed.add_argument("--zip", type=arguments.existing_file, help="images.zip of a set of stage 1, to unpack")
    parsed.add_argument("--images", type=Path, metavar="FOLDER", help=f"where the images are (default: {COCO} or "
                        "OUT/<set>/images, as in the YAML)")  # fmt: skip
    asked = parsed.parse_args(given)
    published = SETS[asked.set]
    images = asked.images or (COCO if published.is_coco else asked.out / asked.set / "images")
    damaged = {} if asked.zip is None else unpack(asked.zip, named_images(asked.list, asked.limit), images)
    find, num_images = _available(images, published)
    inputs = {"list": asked.list} | ({"zip": asked.zip} if asked.zip else {})
    made = AnnotationFile(asked.out / f"{asked.set}.json", MADE_BY, inputs, media=num_images, limit=asked.limit)
    records = list(islice(_records(asked.list, find, damaged, made), asked.limit))
    print(made.write(records) + _compared(len(records), published, asked.limit))
    return 0


def named_images(path: Path, limit: int | None) -> set[str]:
    """The names of the images in a list."""
    found = islice(sharegpt(path), limit)
    return {name for one in found if one.record is not None for name in (one.record.files or {}).get("image", ())}


def unpack(path: Path, names: Iterable[str], folder: Path) -> dict[str, str]:
    """Write those images of a zip that do not exist in the folder; returns the name and fault of each damaged one."""
    from tqdm import tqdm

    faults: dict[str, str] = {}
    with _opened(path) as archive:
        members = _members(archive)
        for name in tqdm(sorted(names), desc="images", unit="image", disable=None):
            member = members.get(name)
            if member is None or not _is_inside(name):
                continue
            target = folder / name
            if target.is_file() and target.stat().st_size == member.file_size:
                continue
            try:
                content = archive.read(member)
            except UNREADABLE as error:
                faults[name] = f"{type(error).__name__}: {error}"
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            part_of(target).write_bytes(content)
            part_of(target).replace(target)
    return faults


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        raise DataError(f"{path}: is not a zip, or is incomplete; download it again") from None


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """name of an image -> its member, whose path may begin with one or two more folders ("images/")."""
    found: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        if member.is_dir() or is_hidden(member.filename):
            continue
        parts = PurePosixPath(member.filename).parts
        for number in range(min(3, len(parts))):
            found.setdefault("/".join(parts[number:]), member)
    return found


def _is_inside(name: str) -> bool:
    """Whether a name stays below its folder."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name and ":" not in name


def _available(folder: Path, published: PublishedSet) -> tuple[Find, int]:
    """The search for the file of a name, and the number of images; a name of COCO means a number."""
    if not folder.is_dir():
        hint = (
            "prepare COCO's images first (dataset_prep/cards/cococap.md), or name their folder with --images"
            if published.is_coco
            else "give images.zip with --zip, or the folder of the unpacked images with --images"
        )
        raise DataError(f"there is no folder {folder}; {hint}")
    if published.is_coco:
        index = ImageIndex(folder, prefer=("train2014", "train2017"))
        return index.find, len(index)
    return lambda name: name if _is_inside(name) and (folder / name).is_file() else None, 0


def _records(path: Path, find: Find, damaged: dict[str, str], made: AnnotationFile) -> Iterator[Record]:
    """The valid records whose images exist; the others are skipped, each with its reason."""
    for item, found in shown(zip(section(path, ""), sharegpt(path), strict=True), made.path.stem):
        record, fault = found.record, _fault(found)
        name_of_it = record.id if record is not None and record.id else found.place
        if fault is not None or record is None:
            made.skip(name_of_it, *(fault or ("is malformed",)))
            continue
        names = (record.files or {}).get("image", ())
        found_names = {name: find(name) for name in names}
        missing = [name for name, existing in found_names.items() if existing is None]
        if missing:
            why = damaged.get(missing[0])
            reason = "its image does not exist" if why is None else "its image is damaged in the zip"
            made.skip(name_of_it, reason, why or missing[0])
            continue
        yield _with_images(item.value, [str(found_names[name]) for name in names])


def _fault(found: Parsed[DialogueRecord]) -> tuple[str, str] | None:
    """Reason and detail of a record that cannot be used, None for one that can."""
    record = found.record
    if record is None:
        return "is malformed", found.fault or ""
    files = record.files or {}
    if strange := next((kind for kind in files if kind != "image"), None):
        return "names files that are not images", strange
    if not record.is_answered:
        return "has no answer", ""
    try:
        place_media(record.turns, [Media("image", name) for name in files.get("image", ())])
    except MediaError as error:
        return "its markers and images differ in number", str(error)
    return None


def _with_images(record: dict[str, Any], names: Sequence[str]) -> Record:
    """The record with the names of the existing files."""
    kept = {key: value for key, value in record.items() if key not in ("image", "images")}
    return kept | ({"image": names[0]} if len(names) == 1 else {"images": list(names)} if names else {})


def _compared(count: int, published: PublishedSet, limit: int | None) -> str:
    """The count compared with the one in the name of the set."""
    if limit is not None:
        return ""
    share = f"{count / published.count:.0%} of the {published.count:,} in its name"
    if count >= ENOUGH * published.count:
        return f"\n  {share}"
    return f"\n  ONLY {share}: check whether list ({published.file}) and images are complete"


if __name__ == "__main__":
    arguments.run(main)
