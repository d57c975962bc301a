"""A folder of media turned into another one, a file at a time, in several processes."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from dataset_prep.common.manifest import part_of
from dataset_prep.common.preparation import Preparation
from dataset_prep.workers import spread

Job = TypeVar("Job")
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

    todo = [(path, job) for path, job in jobs if not made.has(path)]
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
    return sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in endings and not path.name.startswith(".")
    )


def by_name(files: Collection[Path], made: Preparation) -> dict[str, Path]:
    """Name without ending -> file. Of several files with one name the first stays, the others are skipped."""
    found: dict[str, Path] = {}
    for path in files:
        if path.stem in found:
            made.skip(str(path), "another file has the same name", str(found[path.stem]), file=str(path))
        else:
            found[path.stem] = path
    return found


def add_media_arguments(parser: argparse.ArgumentParser) -> None:
    """What every script over media files takes beside the usual."""
    parser.add_argument("--time-limit-s", type=float, default=600.0, help="seconds a file may take (default: 600)")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
