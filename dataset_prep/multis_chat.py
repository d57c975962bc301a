"""The chat part of MULTIS: eight lists of conversations, checked against their media and put in place.

    llava_complex_reasoning_77k.json, llava_detail_23k.json, llava_conversation_58k.json    COCO's pictures
    video_conversation_10k.json, video_detail_10k.json, video_complex_reasoning_10k.json    MSRVTT's frames
    audiovideo_conversation_10k.json, audiovideo_detail_10k.json                            AudioSet's frames, sounds

The first three are LLaVA-Instruct's (complex_reasoning_77k.json and so on, without the "llava_", at
https://huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K). The others are distributed by link only, in the README
of https://github.com/joez17/ChatBridge; dataset_prep/cards/multis_chat.md says what to do when the links are dead.

    python -m dataset_prep.multis_chat --from raw/llava raw/multis

Prepare the media first: a record whose picture, frames or sound are not there is skipped and listed. Every list that is
found below --from is made; ids are written as the folders have them ("video7.mp4" becomes "video7").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatbridge.common.errors import DataError
from chatbridge.datasets.annotations import check_fields
from chatbridge.datasets.formats.chats import sharegpt
from chatbridge.datasets.formats.entries import Options
from chatbridge.datasets.formats.json_items import section
from dataset_prep.annotation_file import AnnotationFile, Record, parser, shown
from dataset_prep.common import arguments
from dataset_prep.image_index import ImageIndex
from dataset_prep.media_jobs import SOUND_ENDINGS
from dataset_prep.multis_records import Find, FoldersByName

MADE_BY = "dataset_prep.multis_chat"
IDS = ("video_id", "image_id", "video", "image")  # in the order in which the reference looks for them
ENOUGH = 0.9  # of the records that a list is said to have


@dataclass(frozen=True)
class ChatList:
    """One of the published lists."""

    name: str
    count: int  # records, as its name says
    media: str  # which media it talks about: a key of MEDIA


LISTS = (
    ChatList("llava_complex_reasoning_77k.json", 77_000, "coco"),
    ChatList("llava_detail_23k.json", 23_000, "coco"),
    ChatList("llava_conversation_58k.json", 58_000, "coco"),
    ChatList("video_conversation_10k.json", 10_000, "msrvtt"),
    ChatList("video_detail_10k.json", 10_000, "msrvtt"),
    ChatList("video_complex_reasoning_10k.json", 10_000, "msrvtt"),
    ChatList("audiovideo_conversation_10k.json", 10_000, "audioset"),
    ChatList("audiovideo_detail_10k.json", 10_000, "audioset"),
)


@dataclass(frozen=True)
class Media:
    """What is there of one kind of media; `find` gives the id to write for the id of a record."""

    count: int
    find: Find


def coco(root: Path) -> Media:
    index = ImageIndex(root / "coco/images", prefer=("train2017", "train2014"))
    return Media(len(index), index.find)


def msrvtt(root: Path) -> Media:
    frames = FoldersByName(root / "msrvtt/frames_fps4")
    return Media(len(frames), frames.find)


def audioset(root: Path) -> Media:
    """Clips with frames and sound; one of the two alone is not enough."""
    frames = FoldersByName(root / "audioset/frames_recons")
    sounds = FoldersByName(root / "audioset/audio_22050hz_recons", SOUND_ENDINGS)

    def find(name: str) -> str | None:
        seen = frames.find(name)
        return seen if seen is not None and sounds.find(seen) == seen else None

    return Media(min(len(frames), len(sounds)), find)


MEDIA: dict[str, Callable[[Path], Media]] = {"coco": coco, "msrvtt": msrvtt, "audioset": audioset}


def main(given: Sequence[str] | None = None) -> int:
    parsed = parser(__doc__, MADE_BY)
    parsed.add_argument(
        "--from", dest="sources", type=arguments.existing_folder, nargs="+", required=True, help="searched deeply"
    )
    asked = parsed.parse_args(given)
    found = {one: path for one in LISTS if (path := find_list(one.name, asked.sources, asked.out)) is not None}
    if not found:
        names = ", ".join(one.name for one in LISTS)
        raise DataError(f"none of the lists is below {', '.join(map(str, asked.sources))}; looked for {names}")
    there: dict[str, Media] = {}
    for one, path in found.items():
        media = there.setdefault(one.media, MEDIA[one.media](asked.out))
        if not media.count:
            raise DataError(f"{asked.out}: there are no media of {one.media} yet, which {path} talks about")
        made = AnnotationFile(asked.out / one.name, MADE_BY, {"list": path}, media=media.count, limit=asked.limit)
        read = list(_records(path, media.find, made, asked.limit))
        print(made.write(read) + _compared(len(read), one.count, asked.limit))
    for one in LISTS:
        if one not in found:
            print(f"{one.name}: is not below {', '.join(map(str, asked.sources))}")
    return 0


def find_list(name: str, folders: Sequence[Path], out: Path) -> Path | None:
    """The list below one of the folders, under its name in MULTIS or in LLaVA-Instruct; not what was made before."""
    for folder in folders:
        for wanted in (name, name.removeprefix("llava_")):
            paths = sorted(path for path in folder.rglob(wanted) if path.parent.resolve() != out.resolve())
            if paths:
                return paths[0]
    return None


def _records(path: Path, find: Find, made: AnnotationFile, limit: int | None) -> Iterator[Record]:
    """Records {"video_id" | "image_id", "conversations"} of those that have an answer and whose media are there."""
    entries = zip(section(path, ""), sharegpt(Options(annotations=path)), strict=True)
    for number, (item, entry) in enumerate(shown(entries, made.path.stem)):
        if number == limit:
            return
        fault = entry.fault or _id_fault(item.value)
        if fault is not None:
            made.skip(entry.place, "is malformed", fault)
            continue
        key = next(key for key in IDS if key in item.value)
        name = find(str(item.value[key]))
        if entry.record["_unanswered"]:
            made.skip(str(item.value[key]), "has no answer")
        elif name is None:
            made.skip(str(item.value[key]), "its picture, frames or sound are not there")
        else:
            kind = "image_id" if key.startswith("image") else "video_id"
            yield {kind: name, "conversations": entry.record["conversations"]}


def _id_fault(record: Any) -> str | None:
    fault = check_fields(record, (IDS,))
    if fault is None and not all(isinstance(record[key], (str, int)) for key in IDS if key in record):
        return "its id is neither text nor a number"
    return fault


def _compared(count: int, stated: int, limit: int | None) -> str:
    """How the count compares with what the name of the list says."""
    share = f"{count / stated:.0%} of the {stated:,} that its name says"
    if limit is not None or count >= ENOUGH * stated:
        return f"\n  {share}"
    return f"\n  ONLY {share}: are its media complete?"


if __name__ == "__main__":
    arguments.run(main)
