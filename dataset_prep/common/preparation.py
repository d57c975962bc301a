"""One set while it is being prepared: what is done already, what was skipped, and a stop that loses nothing.

    with Preparation(folder, "webvid", "dataset_prep.web_videos", made_with) as made:
        for path, records in made.open_work(parts):              # without the files that are there already
            with made.writing(path) as part:                     # becomes `path` when all went well
                count = write_shard(part, ...)
                made.skip("v123", "cannot be decoded", "moov atom not found")
            made.add(path, count)

Every finished file is a line of `.journal.jsonl`, so that even a killed process loses only the file it was writing.
Ctrl-C (or SIGTERM) lets the current file end and leaves with the manifest written; a second one leaves at once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import IO, Any, TypeVar

from chatbridge.common.errors import DataError
from chatbridge.common.safe_files import append_lines, read_json_lines
from dataset_prep.common.manifest import NAME, MadeFile, Manifest, part_of, write_text

JOURNAL, SKIPPED = ".journal.jsonl", "skipped.jsonl"
Work = TypeVar("Work")


class Preparation:
    """The folder of one set, from the first file to the manifest.

    folder     of the set; made when it is not there
    name       of the set, as its YAML has it
    made_by    the module of the script
    made_with  whatever decides what the files hold: sizes, lists and their checksums, but not the number of workers
    raises     DataError when the folder holds a set that was made otherwise: mixed files would be found too late; when
               another process works in it; OSError when nothing can be written there
    """

    def __init__(self, folder: Path, name: str, made_by: str, made_with: Mapping[str, Any]):
        self.folder = folder
        self.manifest = Manifest(name, made_by, json.loads(json.dumps(dict(made_with))))
        self.stops = False  # somebody asked to stop: end after the current file
        self._file = ""
        self._open_skips: list[dict[str, Any]] = []
        self._skip_count = 0
        self._handlers: dict[int, Any] = {}
        self._journal: IO[bytes] | None = None

    def __enter__(self) -> Preparation:
        self.folder.mkdir(parents=True, exist_ok=True)
        before = Manifest.read(self.folder)
        if before is not None:
            self._refuse_others(before)
        known = {**(before.files if before else {}), **self._open_journal()}
        self.manifest.files = {path: file for path, file in known.items() if file.is_at(self.folder)}
        self._keep_skips()
        self._catch_signals()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._flush_skips()
        self.manifest.skipped = self._count_skips()
        self.manifest.write(self.folder)
        (self.folder / JOURNAL).unlink(missing_ok=True)
        if self._journal is not None:
            self._journal.close()

    def has(self, path: str) -> bool:
        """Whether this file was made before."""
        return path in self.manifest.files

    def open_work(self, parts: Collection[tuple[str, Work]], unit: str = "file") -> Iterator[tuple[str, Work]]:
        """The parts (path of the file to make, what it is made of) that are not done, with a progress bar over all."""
        from tqdm import tqdm

        done = sum(self.has(path) for path, _ in parts)
        with tqdm(total=len(parts), initial=done, unit=unit, desc=self.manifest.name, disable=None) as bar:
            for path, work in parts:
                if self.stops:
                    return
                if not self.has(path):
                    self._file = path
                    yield path, work
                    bar.update()
                    bar.set_postfix(samples=self.manifest.samples, skipped=self._skip_count, refresh=False)

    @contextmanager
    def writing(self, path: str) -> Iterator[Path]:
        """A name to write to; it becomes `path` when the block ends well and disappears otherwise."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        part, self._file = part_of(target), path
        try:
            yield part
            if part.exists():
                part.replace(target)
        except OSError as error:
            at = f"{error.filename}: " if error.filename else ""
            raise DataError(f"{at}{error.strerror or error}, while {target} was written") from error
        finally:
            part.unlink(missing_ok=True)

    def add(self, path: str, samples: int | None) -> MadeFile | None:
        """Note a finished file with its checksum.

        samples   how many it holds; with 0 it is removed and tried again next time; None: it goes with the samples of
                  other files, as a list of captions does
        """
        self._flush_skips()
        if samples == 0:
            (self.folder / path).unlink(missing_ok=True)
            return None
        file = MadeFile.of(self.folder, path, samples or 0)
        if self._journal is not None:
            self._journal.write(json.dumps(asdict(file)).encode() + b"\n")
            self._journal.flush()
        self.manifest.files[path] = file
        return file

    def skip(self, record: str, reason: str, detail: str = "", file: str | None = None, count: int = 1) -> None:
        """Note a record that cannot be used, or `count` of them in one line.

        reason   the same few words for the same fault: the manifest counts by them
        detail   what this one said
        file     the file it would have been in; default: the one being written
        """
        entry = {"file": self._file if file is None else file, "id": record, "reason": reason, "detail": detail}
        numbered = {"count": count} if count != 1 else {}
        self._open_skips.append({key: value for key, value in entry.items() if value} | numbered)

    def report(self) -> str:
        """What there is now, in a few lines. raises DataError when nothing was made, for want of input or of luck"""
        skipped = "".join(f"\n  skipped {count}: {reason}" for reason, count in sorted(self._count_skips().items()))
        if not self.manifest.files and not self.stops:
            seen = f"; see {self.folder / SKIPPED}" if skipped else ": nothing was found to make it of"
            raise DataError(f"{self.folder}: holds no samples{seen}{skipped}")
        state = "stopped; the same command goes on" if self.stops else "done"
        count = len(self.manifest.files)
        return (
            f"{self.folder}: {state}: {self.manifest.samples} samples in {count} files ({NAME}){skipped}"
            + (f"\n  each of them with its reason: {self.folder / SKIPPED}" if skipped else "")
        )  # fmt: skip

    def _refuse_others(self, before: Manifest) -> None:
        mine, theirs = self.manifest.made_with, before.made_with
        differ = [key for key in {**theirs, **mine} if mine.get(key) != theirs.get(key)]
        if before.name != self.manifest.name:
            raise DataError(
                f"{self.folder} holds the set {before.name!r}, not {self.manifest.name!r}; take another --out"
            )
        if differ:
            lines = [f"\n    {key}: {theirs.get(key)!r} before, {mine.get(key)!r} now" for key in differ]
            raise DataError(
                f"{self.folder} was made with other arguments:{''.join(lines)}\n"
                f"  take another --out, or remove {self.folder / NAME} to make everything again"
            )

    def _open_journal(self) -> dict[str, MadeFile]:
        """Open the journal, for us alone, and return what a process finished that ended before it wrote its manifest.

        A last line may be cut off.
        """
        self._journal = (self.folder / JOURNAL).open("a+b")
        if not _is_ours(self._journal):
            self._journal.close()
            raise DataError(
                f"{self.folder}: another process is preparing it; wait until that has ended, or take another --out"
            )
        self._journal.seek(0)
        content = self._journal.read()
        if content and not content.endswith(b"\n"):
            self._journal.write(b"\n")
            self._journal.flush()
        files: dict[str, MadeFile] = {}
        for line in content.splitlines():
            try:
                file = MadeFile(**json.loads(line))
            except (ValueError, TypeError):
                continue
            files[file.path] = file
        return files

    def _keep_skips(self) -> None:
        """Forget the skipped records of files that are made again: they will be skipped again."""
        kept: list[str] = []
        self._skip_count = 0
        for line in _lines(self.folder / SKIPPED):
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and entry.get("file") in self.manifest.files:
                kept.append(line)
                self._skip_count += entry.get("count", 1)
        if kept or (self.folder / SKIPPED).exists():
            write_text(self.folder / SKIPPED, "".join(line + "\n" for line in kept))

    def _flush_skips(self) -> None:
        if self._open_skips:
            append_lines(self.folder / SKIPPED, [json.dumps(one, ensure_ascii=False) for one in self._open_skips])
        self._skip_count += sum(entry.get("count", 1) for entry in self._open_skips)
        self._open_skips = []

    def _count_skips(self) -> dict[str, int]:
        counts: Counter[str] = Counter()
        if (self.folder / SKIPPED).exists():
            for entry in read_json_lines(self.folder / SKIPPED).records:
                counts[entry["reason"]] += entry.get("count", 1)
        return dict(counts)

    def _catch_signals(self) -> None:
        def stop(number: int, frame: FrameType | None) -> None:
            if self.stops:
                raise KeyboardInterrupt
            self.stops = True
            print("\nstopping after the current file; again: at once", file=sys.stderr, flush=True)

        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._handlers[number] = signal.signal(number, stop)
            except ValueError:  # not the main thread: whoever runs it there stops it
                return


def _is_ours(journal: IO[bytes]) -> bool:
    """Lock the journal until it is closed or this process ends, however it ends. False: another process has it.

    A lock of `lockf` is not inherited, so workers that outlive a killed process for a moment do not keep it.
    """
    try:
        import fcntl
    except ImportError:  # Windows has none
        return True
    try:
        fcntl.lockf(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a file system without locks
        return True
    return os.fstat(journal.fileno()).st_nlink > 0  # the other one may have ended, and removed it, just now


def _lines(path: Path) -> Iterator[str]:
    """A line that a killed process cut off inside a letter is no reason to stop."""
    if path.exists():
        with path.open(encoding="utf-8", errors="replace") as stream:
            yield from (line.rstrip("\n") for line in stream if line.strip())
