"""Download the images of TextBind's records: each url of `url_list` under its name in `image_list`.

    python -m dataset_prep.textbind download raw/textbind/train.json --out data/textbind/images \\
        --keep data/textbind/train.json

reads train.json, or the NAME.reform.json or NAME.img-cap.json of `reformat`, and writes FOLDER/490272.png ...: RGB, the
longest side 512 pixels, padded with white to a square. A link gets five tries; one that is dead (404, 410 ...)
or that is not an image gets fewer. An image with several links has the others as substitutes.

The same command resumes: images that exist are kept. Links that failed are in FOLDER.failed.jsonl, each with its
reason; they are tried again unless --skip-failed is given. --keep writes the records whose images all exist, with
their folder as image_dir; the others are counted.
"""

from __future__ import annotations

import argparse
import json
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from chatbridge.common.errors import DataError, MediaError
from chatbridge.common.file_names import is_hidden
from chatbridge.common.one_process import only_process
from chatbridge.common.safe_files import append_lines, replace_text
from chatbridge.common.text_repair import repaired
from chatbridge.datasets.remote_shards.open_stream import FetchError
from dataset_prep.common import arguments
from dataset_prep.common.manifest import write_json
from dataset_prep.textbind.record_files import Record, read_records
from dataset_prep.textbind.web_image import download_image

IN_USE = ".download.in_use"  # in the folder of the images, while a process writes them
LONGEST_NAME = 200  # bytes of a file name, below what file systems take
WAITING = 4  # downloads per thread that are scheduled ahead
MOST_SHOWN = 5  # reasons in the summary


@dataclass
class Wanted:
    """The images of a file of records.

    links    name -> its addresses, the first one first
    faults   (name or place, reason) of images that cannot be downloaded whatever the network does
    """

    links: dict[str, list[str]] = field(default_factory=dict)
    faults: list[tuple[str, str]] = field(default_factory=list)

    def add(self, name: Any, url: Any) -> None:
        if (fault := name_fault(name)) is not None:
            self.faults.append((str(name)[:80], fault))
        elif not isinstance(url, str) or not url.strip():
            self.faults.append((name, "has no url"))
        elif url.strip() not in (links := self.links.setdefault(name, [])):
            links.append(url.strip())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("records", type=arguments.existing_file, metavar="FILE.json", help="records, or a list of images with links")
    add("--out", type=Path, required=True, metavar="FOLDER", help="where the images are written")
    add("--keep", type=Path, metavar="FILE.json", help="write the records here whose images all exist afterwards")
    add("--size", type=arguments.positive, default=512, metavar="PIXELS", help="side of an image (default: 512)")
    add("--tries", type=arguments.positive, default=5, metavar="N", help="of a link (default: 5)")
    add("--workers", type=arguments.positive, default=16, metavar="N", help="downloads at the same time (default: 16)")
    add("--skip-failed", action="store_true", help="leave out the links that failed before")
    add("--limit", type=arguments.positive, metavar="N", help="use only the first N records")


def run(asked: argparse.Namespace) -> int:
    """1 when no image is there in the end. raises DataError for a file without images, or a folder in use"""
    records = read_records(asked.records)[: asked.limit]
    if asked.keep is not None:
        _check_keep(asked, records)
    with only_process(asked.out / IN_USE, str(asked.out)):
        return _download_all(records, asked)


def _download_all(records: Sequence[Record], asked: argparse.Namespace) -> int:
    wanted = wanted_of(records)
    if not wanted.links and not wanted.faults:
        raise DataError(f"{asked.records}: names no image with a url: no record has an 'image_list' and a 'url_list'")
    failures = Failures(asked.out.with_name(f"{asked.out.name}.failed.jsonl"))
    known = {} if not asked.skip_failed else failures.known
    failures.start({name: entry for name, entry in failures.known.items() if name in known})
    for name, reason in wanted.faults:
        failures.add(name, "", reason)
    before = {name for name in wanted.links if is_there(asked.out / name)}
    todo = {name: urls for name, urls in wanted.links.items() if name not in before and name not in known}
    print(f"{asked.out}: {len(wanted.links):,} images, {len(before):,} exist, {len(todo):,} to download", flush=True)
    made = download(todo, asked.out, failures, asked)
    print(failures.report(len(before) + made, len(wanted.links)))
    if asked.keep is not None:
        print(keep_complete(records, asked.out, asked.keep))
    return 0 if before or made else 1


def wanted_of(records: Iterable[Record]) -> Wanted:
    """The images of records in both forms, each name once."""
    wanted = Wanted()
    for number, record in enumerate(records):
        if "conversation" not in record and "image" in record:
            wanted.add(record["image"], record.get("url"))
            continue
        for place, images, urls in _turns(record):
            if len(images) != len(urls):
                reason = f"has {len(images)} images and {len(urls)} urls"
                wanted.faults.append((f"record {number}, turn {place}", reason))
                continue
            for name, url in zip(images, urls, strict=True):
                wanted.add(name, url)
    return wanted


def _turns(record: Mapping[str, Any]) -> Iterator[tuple[int, Sequence[Any], Sequence[Any]]]:
    """(number, image_list, url_list) of every turn with images."""
    turns = record.get("conversation")
    for number, turn in enumerate(turns if isinstance(turns, list) else ()):
        images, urls = (turn.get(key) if isinstance(turn, dict) else None for key in ("image_list", "url_list"))
        if isinstance(images, list) and images:
            yield number, images, urls if isinstance(urls, list) else ()


def name_fault(name: Any) -> str | None:
    """Why a name from a file of records is not written to; None for a plain file name."""
    if not isinstance(name, str) or not name.strip():
        return "is not the name of a file"
    if any(mark in name for mark in "/\\\0") or name in (".", "..") or is_hidden(name) or ":" in name:
        return "is not a plain file name, such as 490272.png"
    return "is too long for a file name" if len(name.encode("utf-8", "replace")) > LONGEST_NAME else None


def is_there(path: Path) -> bool:
    """Whether an image was downloaded: files are written whole or not at all."""
    return path.is_file() and path.stat().st_size > 0


class Failures:
    """The links that failed, a line each, written as they fail."""

    def __init__(self, path: Path):
        self.path = path
        self.known: dict[str, Record] = {}
        self._lock, self._counts = threading.Lock(), Counter[str]()
        if path.exists():
            self.known = {str(entry.get("image")): entry for entry in _lines(path)}

    def start(self, kept: Mapping[str, Record]) -> None:
        """Begin a new list with the entries that are not tried again."""
        self._counts.update(str(entry.get("reason")) for entry in kept.values())
        replace_text(self.path, "".join(f"{json.dumps(entry, ensure_ascii=False)}\n" for entry in kept.values()))

    def add(self, image: str, url: str, reason: str) -> None:
        entry = {"image": image, "url": url, "reason": reason}
        with self._lock:
            self._counts[reason] += 1
            append_lines(self.path, [repaired(json.dumps(entry, ensure_ascii=False))])

    def report(self, num_there: int, num_wanted: int) -> str:
        lines = [f"{num_there:,} of {num_wanted:,} images exist"]
        lines += [f"  {count:,}: {reason}" for reason, count in self._counts.most_common(MOST_SHOWN)]
        if self._counts:
            lines.append(f"  each failure with its reason: {self.path}; run the same command to try them again")
        return "\n".join(lines)


def _lines(path: Path) -> Iterator[Record]:
    """The entries of a list; the last line may be incomplete after a kill."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            yield entry


def download(todo: Mapping[str, Sequence[str]], folder: Path, failures: Failures, asked: argparse.Namespace) -> int:
    """Download to `folder`; returns the number of images that were written. Ctrl-C stops after the open downloads."""
    from tqdm import tqdm

    stopped = threading.Event()

    def one(name: str) -> bool:
        for number, url in enumerate(todo[name], start=1):
            try:
                download_image(url, folder / name, asked.size, asked.tries, stopped)
                return True
            except (FetchError, MediaError) as error:
                if number == len(todo[name]) and not stopped.is_set():
                    failures.add(name, url, reason_of(error, url))
        return False

    made, names = 0, iter(todo)
    with ThreadPoolExecutor(asked.workers) as pool, tqdm(total=len(todo), unit=" images", disable=None) as bar:
        waiting: set[Future[bool]] = set()
        try:
            while True:
                room = WAITING * asked.workers - len(waiting)
                waiting |= {pool.submit(one, name) for name in islice(names, room)}
                if not waiting:
                    break
                finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                made += sum(future.result() for future in finished)
                bar.update(len(finished))
        except BaseException:
            stopped.set()
            pool.shutdown(cancel_futures=True)
            raise
    return made


def reason_of(error: Exception, url: str) -> str:
    """The reason without the address, so that equal ones are counted together."""
    reason = str(error)
    start = f"{url.partition('?')[0]}: "
    return reason[len(start) :] if reason.startswith(start) else reason


def keep_complete(records: Sequence[Record], folder: Path, path: Path) -> str:
    """Write the records whose images all exist, with their folder; returns a summary. raises DataError without any"""
    kept = []
    for record in records:
        if all(isinstance(name, str) and name_fault(name) is None and is_there(folder / name)
               for _, images, _ in _turns(record) for name in images):  # fmt: skip
            kept.append({**record, "image_dir": str(folder)})
    if not kept:
        raise DataError(f"{path}: no record has all of its images, so it is not written")
    write_json(path, kept)
    dropped = f", dropped for a missing image: {len(records) - len(kept):,}" if len(kept) < len(records) else ""
    return f"{path}: {len(kept):,} records{dropped}"


def _check_keep(asked: argparse.Namespace, records: Sequence[Record]) -> None:
    """raises DataError when --keep would replace its input, or the file has no conversations"""
    if asked.keep.exists() and asked.keep.samefile(asked.records):
        raise DataError(
            f"--keep {asked.keep} is the file that is read; choose another one, the dropped records stay there"
        )
    if not any("conversation" in record for record in records):
        raise DataError(f"{asked.records}: has no conversations, which --keep would write; leave it out")
