"""Records of public layouts in the layout of MULTIS; the readers are those of `format:` in the data configs.

{"image_id": "train2014/COCO_train2014_000000000009.jpg", "question": "What is on the plate?", "answer": "food"}
{"image_id": "000000000009.jpg", "caption": ["A plate of food.", "Fruit and bread."]}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TypeVar

from chatbridge.common.file_names import is_hidden
from chatbridge.datasets.formats.records import AnnotationRecord, CaptionRecord, Parsed, QuestionRecord
from dataset_prep.annotation_file import AnnotationFile, Record, shown
from dataset_prep.media_jobs import youtube_id

R = TypeVar("R", bound=AnnotationRecord)
Find = Callable[[str], str | None]  # name in the annotation -> id to write, None if there is no file


def questions(found: Iterable[Parsed[QuestionRecord]], key: str, find: Find, made: AnnotationFile) -> Iterator[Record]:
    """A record per question with the most frequent answer, of equally frequent ones the first."""
    for name, record in usable(found, find, made):
        ((question, answers),) = record.questions
        if not answers:
            made.skip(record.id, "has no answer")
            continue
        yield {key: name, "question": question, "answer": Counter(answers).most_common(1)[0][0]}


def captions(found: Iterable[Parsed[CaptionRecord]], key: str, find: Find, made: AnnotationFile) -> Iterator[Record]:
    """A record per image, video or audio file with all its captions, of which training draws one."""
    for name, record in usable(found, find, made):
        if not record.captions:
            made.skip(record.id, "has no caption")
            continue
        yield {key: name, "caption": record.captions}


def usable(found: Iterable[Parsed[R]], find: Find, made: AnnotationFile) -> Iterator[tuple[str, R]]:
    """(id to write, record) of the valid records whose file exists; the others are skipped with a reason."""
    for one in shown(found, made.path.stem):
        if one.record is None:
            made.skip(one.place, "is malformed", one.fault or "")
            continue
        name = next((existing for wanted in one.record.names if (existing := find(wanted))), None)
        if name is None:
            made.skip(one.record.id, "its file does not exist", ", ".join(one.record.names))
            continue
        yield name, one.record


def first(found: Iterable[Parsed[R]], limit: int | None) -> Iterable[Parsed[R]]:
    return found if limit is None else islice(found, limit)


class FoldersByName:
    """The entries of a folder by name: sub-folders (frames of a video), or files without their ending.

    endings         of the files; without any, the entries are sub-folders
    by_youtube_id   a different name with the same YouTube id matches too: Y-0SdAVK79lg for -0SdAVK79lg_30
    """

    def __init__(self, folder: Path, endings: Iterable[str] = (), by_youtube_id: bool = False):
        ended = tuple(endings)
        names = [path.name if not ended else path.stem for path in _inside(folder) if _fits(path, ended)]
        self._names = set(names)
        self._alike = {youtube_id(name): name for name in sorted(names, reverse=True)} if by_youtube_id else {}

    def __len__(self) -> int:
        return len(self._names)

    def find(self, name: str) -> str | None:
        """The name of the entry, also "video7" for "video7.mp4"; None if there is none."""
        stem = name.rpartition(".")[0]
        found = next((one for one in (name, stem) if one in self._names), None)
        return found or self._alike.get(youtube_id(name)) or self._alike.get(youtube_id(stem))


def _inside(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not is_hidden(path.name)] if folder.is_dir() else []


def _fits(path: Path, endings: tuple[str, ...]) -> bool:
    return path.suffix.lower() in endings if endings else path.is_dir()
