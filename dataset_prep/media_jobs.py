"""A folder of media turned into another one, a file at a time, in several processes."""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from chatbridge.common.errors import DataError
from chatbridge.common.file_kind import refuse_other_kind
from chatbridge.datasets.formats.json_fields import Fields
from dataset_prep.common import arguments
from dataset_prep.common.folders import files_below
from dataset_prep.common.manifest import part_of
from dataset_prep.common.preparation import Preparation
from dataset_prep.common.workers import spread

Job = TypeVar("Job")
YOUTUBE = re.compile(r"Y?([\w-]{11})(?:[_.].*)?")
VIDEO_ENDINGS = frozenset((".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".flv", ".3gp", ".mpg", ".wmv", ".ts"))
SOUND_ENDINGS = frozenset((".wav", ".mp3", ".flac", ".m4a", ".ogg", ".opus", ".aac"))


def convert(
    made: Preparation, jobs: Collection[tuple[str, Job]], function: Callable[[Job], int], workers: int, limit_s: float
) -> None:
    """Do what is not done yet, with a progress bar.

    jobs      (path of the file or folder to make, what `function` is called with)
    function  writes it and returns how many samples it holds; what it raises is the reason why it is skipped
    workers   processes; 0 works in this one
    limit_s   seconds a file may take
    """
    from tqdm import tqdm

    todo = [(path, job) for path, job in jobs if not made.has(path) and _stays_inside(made, path)]
    begun = len(jobs) - len(todo)
    with tqdm(total=len(jobs), initial=begun, unit="file", desc=made.manifest.name, disable=None) as bar:
        for done in spread(_OfJob(function), todo, workers, limit_s):
            path, _ = done.item
            if done.reason is not None:
                made.skip(path, done.reason, done.detail, file=path)
            elif done.result is not None:
                made.add(path, done.result)
            bar.update()
            if made.stops:
                return


def _stays_inside(made: Preparation, path: str) -> bool:
    """False, and a line in the list of what was skipped, for a name such as "../../x" that leads out of the folder."""
    if (made.folder / path).resolve().is_relative_to(made.folder.resolve()):
        return True
    made.skip(path, "its name leads out of the folder", file=path)
    return False


@dataclass(frozen=True)
class _OfJob(Generic[Job]):
    """The function, called with the second half of (path, job); a class because it travels to other processes."""

    function: Callable[[Job], int]

    def __call__(self, item: tuple[str, Job]) -> int:
        return self.function(item[1])


@contextmanager
def whole_or_nothing(target: Path, folder: bool = False) -> Iterator[Path]:
    """A name to write to; it becomes `target` when the block ends well, whatever was there before, else nothing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(target)
    _remove(part)  # of a process that was killed
    try:
        if folder:
            part.mkdir()
        yield part
        _remove(target)
        part.replace(target)
    finally:
        _remove(part)


def files_of(folder: Path, endings: Collection[str]) -> list[Path]:
    """The files below a folder with one of these endings, in the order of their paths; hidden ones do not count."""
    wanted = (path for path in files_below(folder) if path.suffix.lower() in endings)
    return sorted(folder / path for path in wanted)


def wanted_files(
    made: Preparation,
    folder: Path,
    endings: Collection[str],
    lists: Sequence[Path],
    limit: int | None,
    by_youtube_id: bool = False,
) -> dict[str, Path]:
    """Name without ending -> file; of several files with one name the first stays, the others are skipped.

    lists          annotation files: only the files that they name, under the names that they use; a name that no file
                   has is skipped too. Without any: all
    by_youtube_id  a name of a list also stands for a file with the same YouTube id, whatever follows it
    """
    found: dict[str, Path] = {}
    for path in files_of(folder, endings):
        if path.stem in found:
            made.skip(str(path), "another file has the same name", str(found[path.stem]), file=str(path))
        else:
            found[path.stem] = path
    if lists:
        names = {without_ending(name, endings) for path in lists for name in ids_of(path)}
        alike = {youtube_id(stem): stem for stem in reversed(found)} if by_youtube_id else {}
        files = {name: found.get(name) or found.get(alike.get(youtube_id(name), "")) for name in sorted(names)}
        for name in (name for name, path in files.items() if path is None):
            made.skip(name, "no file has this name", file=name)
        found = {name: path for name, path in files.items() if path is not None}
    return dict(list(found.items())[:limit])


def ids_of(path: Path) -> set[str]:
    """The video_id or image_id of every record of a JSON list. raises DataError for anything else"""
    try:
        refuse_other_kind(path)
        records = json.loads(path.read_text(encoding="utf-8-sig"))
        return {Fields(record).name("video_id" if "video_id" in record else "image_id") for record in records}
    except DataError:
        raise
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise DataError(
            f"{path}: expected a list of records with a video_id ({type(error).__name__}: {error})"
        ) from None


def youtube_id(name: str) -> str:
    """Of names such as Y-0SdAVK79lg, -0SdAVK79lg_30 and -0SdAVK79lg_30.000_40.000; the name itself when it has none."""
    found = YOUTUBE.fullmatch(name)
    return found[1] if found else name


def without_ending(name: str, endings: Collection[str]) -> str:
    """An id as the folders have it: some lists say "video7.mp4", others "video7"."""
    return name[: -len(Path(name).suffix)] if Path(name).suffix.lower() in endings else name


def add_media_arguments(parser: argparse.ArgumentParser) -> None:
    """What every script over media files takes beside the usual."""
    parser.add_argument(
        "--time-limit-s", type=arguments.above_zero, default=600.0, help="seconds a file may take (default: 600)"
    )


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """What a script takes that turns one folder into another."""
    folder = arguments.existing_folder
    parser.add_argument("--from", dest="source", type=folder, required=True, help="folder of files, searched deeply")
    parser.add_argument("--name", help="of the set, for its manifest (default: the name of --out)")


def add_ids_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ids", type=arguments.existing_file, nargs="+", default=[], metavar="JSON", help="only what these lists name"
    )


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
