"""Conversion of a folder of media files, one file at a time, in several processes."""

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
from dataset_prep.common.input_files import files_below
from dataset_prep.common.manifest import part_of
from dataset_prep.common.preparation import Preparation
from dataset_prep.common.workers import spread

Job = TypeVar("Job")
YOUTUBE = re.compile(r"Y?([\w-]{11})(?:[_.].*)?")
VIDEO_ENDINGS = frozenset((".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".flv", ".3gp", ".mpg", ".wmv", ".ts"))
AUDIO_ENDINGS = frozenset((".wav", ".mp3", ".flac", ".m4a", ".ogg", ".opus", ".aac"))


def convert(
    made: Preparation, jobs: Collection[tuple[str, Job]], function: Callable[[Job], int], workers: int, limit_s: float
) -> None:
    """Run the jobs that are not finished, with a progress bar.

    jobs      (path of the output file or folder, argument of `function`)
    function  writes the output and returns its number of samples; an exception is the reason to skip it
    workers   processes; 0 uses this one
    limit_s   longest time for a file, in seconds
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
    """False for a name such as "../../x" outside the folder, which is skipped."""
    if (made.folder / path).resolve().is_relative_to(made.folder.resolve()):
        return True
    made.skip(path, "its name is outside the folder", file=path)
    return False


@dataclass(frozen=True)
class _OfJob(Generic[Job]):
    """`function` applied to the job of (path, job); a class because it is pickled."""

    function: Callable[[Job], int]

    def __call__(self, item: tuple[str, Job]) -> int:
        return self.function(item[1])


@contextmanager
def whole_or_nothing(target: Path, folder: bool = False) -> Iterator[Path]:
    """A path to write to, which replaces `target` if the block succeeds and is removed otherwise."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(target)
    _remove(part)  # left by a killed process
    try:
        if folder:
            part.mkdir()
        yield part
        _remove(target)
        part.replace(target)
    finally:
        _remove(part)


def files_of(folder: Path, endings: Collection[str]) -> list[Path]:
    """The files below a folder with one of these endings, sorted by path; hidden ones do not count."""
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
    """Name without ending -> file; of several files with the same name the first is used, the others are skipped.

    lists          annotation files: only the files that they name, with the names of the lists; a name without a file
                   is skipped. Empty: all files
    by_youtube_id  a name also matches a file with the same YouTube id and a different suffix
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
    """The video_id or image_id of every record of a JSON list. raises DataError for another shape"""
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
    """The id in names such as Y-0SdAVK79lg, -0SdAVK79lg_30 and -0SdAVK79lg_30.000_40.000; a name without id itself."""
    found = YOUTUBE.fullmatch(name)
    return found[1] if found else name


def without_ending(name: str, endings: Collection[str]) -> str:
    """The name of a folder for an id: some lists have "video7.mp4", others "video7"."""
    return name[: -len(Path(name).suffix)] if Path(name).suffix.lower() in endings else name


def add_media_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of all scripts that convert media files."""
    parser.add_argument(
        "--time-limit-s", type=arguments.above_zero, default=600.0, help="longest time for a file (default: 600)"
    )


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of scripts that convert a folder."""
    folder = arguments.existing_folder
    parser.add_argument(
        "--from", dest="source", type=folder, required=True, help="folder of files, searched recursively"
    )
    parser.add_argument("--name", help="name of the set in its manifest (default: the name of --out)")


def add_ids_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ids",
        type=arguments.existing_file,
        nargs="+",
        default=[],
        metavar="JSON",
        help="only the files that these lists name",
    )


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
