"""Check the 14 published annotation files of MULTIS against the existing media, and copy them.

    img_vqa_vqav2.json, img_cap_coco.json, the three of llava_*_{77k,23k,58k}.json         COCO's images
    img_vqa_vg.json                                                                        Visual Genome's images
    vid_qa_msrvtt.json, vid_cap_msrvtt.json, video_{conversation,detail,...}_10k.json      MSRVTT's frames
    aud_cap_audiocaps.json                                                                 AudioCaps' audio
    audiovideo_{conversation,detail}_10k.json                                              AudioSet's frames and audio

They are distributed by link only; dataset_prep/cards/multis.md has the links and the alternatives. The llava lists are
those of LLaVA-Instruct and may have its names, without "llava_". The six lists of questions and captions can be created
from the original data sets instead: dataset_prep.vqav2, vgqa, cococap, msrvtt, audiocap.

    python -m dataset_prep.multis --from raw/multis raw/llava

Prepare the media first: a record whose image, frames or audio do not exist is skipped and listed. All lists below
--from are converted; ids are written as the folders have them ("video7.mp4" becomes "video7").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from chatbridge.common.errors import DataError
from chatbridge.common.file_names import is_hidden
from chatbridge.datasets.formats.dialogues import sharegpt
from chatbridge.datasets.formats.json_fields import BadRecord, Fields, check_fields, file_name_of
from chatbridge.datasets.formats.json_stream import section
from chatbridge.datasets.formats.records import DialogueRecord, Parsed, each
from dataset_prep.annotation_file import AnnotationFile, Record, parser, shown
from dataset_prep.common import arguments
from dataset_prep.multis_media import MEDIA, AvailableMedia
from dataset_prep.multis_records import Find

MADE_BY = "dataset_prep.multis"
IDS = ("video_id", "image_id", "video", "image")  # in the order of the reference implementation
SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt"}  # role -> "from" of MULTIS
ENOUGH = 0.9  # share of the records that the name of a list states


@dataclass(frozen=True)
class PublishedList:
    """One of the lists. `kind` is "questions", "captions" or "chats"."""

    name: str
    kind: str
    media: str  # its media: a key of MEDIA
    count: int | None = None  # number of records, if its name states it


LISTS = (
    PublishedList("img_vqa_vqav2.json", "questions", "coco"),
    PublishedList("img_vqa_vg.json", "questions", "visual_genome"),
    PublishedList("img_cap_coco.json", "captions", "coco"),
    PublishedList("vid_qa_msrvtt.json", "questions", "msrvtt"),
    PublishedList("vid_cap_msrvtt.json", "captions", "msrvtt"),
    PublishedList("aud_cap_audiocaps.json", "captions", "audiocaps"),
    PublishedList("llava_complex_reasoning_77k.json", "chats", "coco", 77_000),
    PublishedList("llava_detail_23k.json", "chats", "coco", 23_000),
    PublishedList("llava_conversation_58k.json", "chats", "coco", 58_000),
    PublishedList("video_conversation_10k.json", "chats", "msrvtt", 10_000),
    PublishedList("video_detail_10k.json", "chats", "msrvtt", 10_000),
    PublishedList("video_complex_reasoning_10k.json", "chats", "msrvtt", 10_000),
    PublishedList("audiovideo_conversation_10k.json", "chats", "audioset", 10_000),
    PublishedList("audiovideo_detail_10k.json", "chats", "audioset", 10_000),
)


def main(given: Sequence[str] | None = None) -> int:
    parsed = parser(__doc__, MADE_BY)
    parsed.add_argument(
        "--from",
        dest="sources",
        type=arguments.existing_folder,
        nargs="+",
        required=True,
        help="folders, searched recursively",
    )
    asked = parsed.parse_args(given)
    folders = ", ".join(map(str, asked.sources))
    found = {one: path for one in LISTS if (path := find_list(one.name, asked.sources, asked.out)) is not None}
    if not found:
        raise DataError(f"none of the lists is below {folders}; looked for {', '.join(one.name for one in LISTS)}")
    available: dict[str, AvailableMedia] = {}
    for one, path in found.items():
        media = available.get(one.media) or available.setdefault(one.media, MEDIA[one.media](asked.out))
        if not media.count:
            raise DataError(f"{asked.out}: no media of {one.media} exist, which {path} refers to; prepare them first")
        made = AnnotationFile(asked.out / one.name, MADE_BY, {"list": path}, media=media.count, limit=asked.limit)
        records = list(islice(_records(one, path, media.find, made), asked.limit))
        print(made.write(records) + _compared(len(records), one.count))
    print("".join(f"{one.name}: is not below {folders}\n" for one in LISTS if one not in found), end="")
    return 0


def find_list(name: str, folders: Sequence[Path], out: Path) -> Path | None:
    """The list below one of the folders, with its name in MULTIS or in LLaVA-Instruct; not the one in `out`."""
    for folder in folders:
        for wanted in dict.fromkeys((name, name.removeprefix("llava_"))):
            found = (path for path in folder.rglob(wanted) if not is_hidden(str(path.relative_to(folder))))
            paths = sorted(path for path in found if path.parent.resolve() != out.resolve())
            if paths:
                return paths[0]
    return None


def _records(one: PublishedList, path: Path, find: Find, made: AnnotationFile) -> Iterator[Record]:
    """The fields for MULTIS of all valid records whose media exist; the others are skipped."""
    read = {"questions": each(_question, ""), "captions": each(_caption, ""), "chats": _chats}[one.kind]
    for item, found in shown(zip(section(path, ""), read(path), strict=True), made.path.stem):
        fault = found.fault or _id_fault(item.value)
        if fault is not None:
            made.skip(found.place, "is malformed", fault)
            continue
        key = next(key for key in IDS if key in item.value)
        name = find(str(item.value[key]))
        if not found.record:
            made.skip(str(item.value[key]), "has no answer")
        elif name is None:
            made.skip(str(item.value[key]), "its image, frames or audio do not exist")
        else:
            id_key = "image_id" if key.startswith("image") else "video_id"
            yield {id_key: name, **found.record}


def _chats(path: Path) -> Iterator[Parsed[Record]]:
    for found in sharegpt(path):
        yield Parsed(found.place, None if found.record is None else _chat(found.record), found.fault)


def _chat(record: DialogueRecord) -> Record:
    """The turns of a dialogue; empty when it has no answer."""
    turns = [{"from": SPEAKERS[role], "value": text} for role, text in record.turns]
    return {"conversations": turns} if record.is_answered else {}


def _question(fields: Fields) -> Record:
    """The fields of a question: texts, or parallel lists of which training draws one pair."""
    asked, answers = fields.texts("question"), fields.texts("answer")
    if len(asked) != len(answers) or not asked:
        raise BadRecord(f"has {len(asked)} questions and {len(answers)} answers")
    return fields.kept("question", "answer")


def _caption(fields: Fields) -> Record:
    texts = fields.texts("desc", "caption")
    if not texts:
        raise BadRecord("has no 'desc' or 'caption' with text")
    return {"caption": texts}


def _id_fault(record: Any) -> str | None:
    fault = check_fields(record, (IDS,))
    if fault is None and any(file_name_of(record[key]) is None for key in IDS if key in record):
        return "its id is not text or a number"
    return fault


def _compared(count: int, stated: int | None) -> str:
    """The count compared with the one in the name of the list."""
    if stated is None:
        return ""
    share = f"{count / stated:.0%} of the {stated:,} in its name"
    return (
        f"\n  {share}" if count >= ENOUGH * stated else f"\n  ONLY {share}: check whether list and media are complete"
    )


if __name__ == "__main__":
    arguments.run(main)
