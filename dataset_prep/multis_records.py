"""Records of public layouts as MULTIS writes them; the readers are those of `format:` in the data configs.

{"image_id": "train2014/COCO_train2014_000000000009.jpg", "question": "What is on the plate?", "answer": "food"}
{"image_id": "000000000009.jpg", "caption": ["A plate of food.", "Fruit and bread."]}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from chatbridge.common.file_names import is_hidden
from chatbridge.datasets.formats.entries import Entry
from dataset_prep.annotation_file import AnnotationFile, Record, shown
from dataset_prep.media_jobs import youtube_id

Find = Callable[[str], str | None]  # a name as the annotation has it -> the id to write, None when there is no file


def questions(entries: Iterable[Entry], key: str, find: Find, made: AnnotationFile) -> Iterator[Record]:
    """A record per question; of several people's answers the most frequent one, of equals the one given first."""
    for name, entry in usable(entries, find, made):
        if not entry.record["_answers"]:
            made.skip(_name(entry), "has no answer")
            continue
        answer = Counter(entry.record["_answers"]).most_common(1)[0][0]
        yield {key: name, "question": entry.record["question"], "answer": answer}


def captions(entries: Iterable[Entry], key: str, find: Find, made: AnnotationFile) -> Iterator[Record]:
    """A record per picture or clip with all its captions; training draws one."""
    for name, entry in usable(entries, find, made):
        if not entry.record["_answers"]:
            made.skip(_name(entry), "has no caption")
            continue
        yield {key: name, "caption": entry.record["_answers"]}


def usable(entries: Iterable[Entry], find: Find, made: AnnotationFile) -> Iterator[tuple[str, Entry]]:
    """Entries without a fault whose file is there, each with the id to write; the others are skipped with a reason."""
    for entry in shown(entries, made.path.stem):
        if entry.fault is not None:
            made.skip(entry.place, "is malformed", entry.fault)
            continue
        name = next((found for one in entry.record["_media"] if (found := find(one))), None)
        if name is None:
            made.skip(_name(entry), "its file is not there", ", ".join(entry.record["_media"]))
            continue
        yield name, entry


def first(entries: Iterable[Entry], limit: int | None) -> Iterable[Entry]:
    return entries if limit is None else islice(entries, limit)


class FoldersByName:
    """What lies in a folder, by name: the frames of a clip, or a sound without its ending. Made once, then asked.

    by_youtube_id   another name with the same YouTube id will do: Y-0SdAVK79lg for -0SdAVK79lg_30
    """

    def __init__(self, folder: Path, endings: Iterable[str] = (), by_youtube_id: bool = False):
        ended = tuple(endings)
        names = [path.name if not ended else path.stem for path in _inside(folder) if _fits(path, ended)]
        self._names = set(names)
        self._alike = {youtube_id(name): name for name in sorted(names, reverse=True)} if by_youtube_id else {}

    def __len__(self) -> int:
        return len(self._names)

    def find(self, name: str) -> str | None:
        """The name as the folder has it: "video7" for "video7.mp4" too."""
        stem = name.rpartition(".")[0]
        there = next((one for one in (name, stem) if one in self._names), None)
        return there or self._alike.get(youtube_id(name)) or self._alike.get(youtube_id(stem))


def _inside(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not is_hidden(path.name)] if folder.is_dir() else []


def _fits(path: Path, endings: tuple[str, ...]) -> bool:
    return path.suffix.lower() in endings if endings else path.is_dir()


def _name(entry: Entry) -> str:
    return str(entry.record.get("_id", entry.place))
