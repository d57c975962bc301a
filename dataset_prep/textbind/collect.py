"""Copy the images that conversations show from the files of the pool, where these are on this machine.

    python -m dataset_prep.textbind collect data/textbind/raw.clean.json --out data/textbind/images

takes the place of `download`: a pool of --shards or --pairs has its images already, and many links are dead. Images are
written as `download` writes them: <image_idx>.png, the longest side 512 pixels, padded with white to a square. The
same command resumes; images that cannot be read are counted and listed in FOLDER.failed.jsonl.
"""

from __future__ import annotations

import argparse
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from chatbridge.common.errors import DataError, MediaError
from chatbridge.common.one_process import only_process
from dataset_prep.common import arguments
from dataset_prep.textbind.download import IN_USE
from dataset_prep.textbind.image_tags import RawRecord, pairs
from dataset_prep.textbind.record_files import Record, read_records, write_lines
from dataset_prep.textbind.reformat import image_name
from dataset_prep.textbind.web_image import save_image

TAR = ".tar/"  # between a tar and the name of a file in it
Loaded = tuple[str, bytes | str]  # name of the image, and its content or why there is none


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("conversations", type=arguments.existing_file, metavar="FILE.clean.json", help="of `clean`")
    add("--out", type=Path, required=True, metavar="FOLDER", help="where the images are written")
    add("--size", type=arguments.positive, default=512, metavar="PIXELS", help="side of an image (default: 512)")


def run(asked: argparse.Namespace) -> int:
    """1 when no image is there in the end. raises DataError for records without files"""
    wanted = wanted_of(read_records(asked.conversations))
    if not wanted:
        raise DataError(f'{asked.conversations}: no record shows an image that has a "file"; they come from `sample`')
    with only_process(asked.out / IN_USE, str(asked.out)):
        return _collect(wanted, asked)


def _collect(wanted: Mapping[str, str], asked: argparse.Namespace) -> int:
    open_files = {name: file for name, file in wanted.items() if not (asked.out / name).exists()}
    failed: list[dict[str, str]] = []
    for name, content in contents(open_files):
        reason = content if isinstance(content, str) else _saved(content, asked.out / name, asked.size)
        if reason:
            failed.append({"image": name, "file": open_files[name], "reason": reason})
    print(f"{asked.out}: {len(wanted) - len(failed):,} of {len(wanted):,} images exist")
    for reason, number in Counter(entry["reason"] for entry in failed).most_common():
        print(f"  {number:,}: {reason}")
    write_lines(asked.out.with_name(f"{asked.out.name}.failed.jsonl"), failed)
    return 0 if len(failed) < len(wanted) else 1


def wanted_of(records: Iterable[Record]) -> dict[str, str]:
    """Name -> file of every image that a conversation shows; records without files are left out."""
    found: dict[str, str] = {}
    for record in records:
        files = record.get("file")
        try:
            raw = RawRecord.of(record)
        except ValueError:  # `reformat` reports it
            continue
        if isinstance(files, list) and len(files) == len(raw.captions):
            shown = {number for number, _ in pairs(raw.response) if number < len(files)}
            found |= {image_name(raw.image_idx[number]): str(files[number]) for number in sorted(shown)}
    return found


def contents(files: Mapping[str, str]) -> Iterator[Loaded]:
    """The content of each file; a tar is read once."""
    by_tar: dict[Path, dict[str, str]] = defaultdict(dict)
    for name, file in files.items():
        tar, mark, member = file.rpartition(TAR)
        if mark and (path := Path(tar + TAR.rstrip("/"))).is_file():
            by_tar[path][member] = name
            continue
        try:
            yield name, Path(file).read_bytes()
        except OSError as error:
            yield name, f"its file cannot be read: {error.strerror}"
    for path, members in by_tar.items():
        yield from _members(path, members)


def _members(path: Path, members: Mapping[str, str]) -> Iterator[Loaded]:
    left = dict(members)
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                if left and member.name in left and (stream := tar.extractfile(member)):
                    yield left.pop(member.name), stream.read()
    except (OSError, tarfile.TarError) as error:
        yield from ((name, f"its tar cannot be read: {error}") for name in left.values())
        return
    yield from ((name, "its tar does not contain it") for name in left.values())


def _saved(content: bytes, path: Path, side: int) -> str | None:
    """Write an image; the reason if that is not possible."""
    try:
        save_image(content, path, side)
    except MediaError:
        return "its file is not an image that can be read"
    return None
