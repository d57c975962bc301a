"""Preparation of a set: finished files, skipped records, and a safe stop.

    with Preparation(folder, "webvid", "dataset_prep.web_videos", made_with) as made:
        for path, records in made.open_work(parts):              # without the finished files
            with made.writing(path) as part:                     # becomes `path` if the block succeeds
                count = write_shard(part, ...)
                made.skip("v123", "cannot be decoded", "moov atom not found")
            made.add(path, count)

Every finished file has a line in `.journal.jsonl`, so a killed process loses only the file that it was writing. After
Ctrl-C (or SIGTERM) the current file is finished and the manifest written; a second one exits immediately.
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
from chatbridge.common.one_process import take_lock
from chatbridge.common.safe_files import append_lines, read_json_lines
from chatbridge.common.text_repair import repaired
from dataset_prep.common.manifest import NAME, MadeFile, Manifest, part_of, write_text

JOURNAL, SKIPPED = ".journal.jsonl", "skipped.jsonl"
Work = TypeVar("Work")


class Preparation:
    """The folder of one set, from the first file to the manifest.

    folder     of the set; created if missing
    name       of the set, as in its YAML
    made_by    module of the script
    made_with  all values that the content of the files depends on: sizes, lists and their checksums
    raises     DataError if the folder has a set with different arguments, or another process uses it; OSError if it
               cannot be written
    """

    def __init__(self, folder: Path, name: str, made_by: str, made_with: Mapping[str, Any]):
        self.folder = folder
        self.manifest = Manifest(name, made_by, json.loads(json.dumps(dict(made_with))))
        self.stops = False  # a signal arrived: stop after the current file
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
        """Whether this file is finished."""
        return path in self.manifest.files

    def open_work(self, parts: Collection[tuple[str, Work]], unit: str = "file") -> Iterator[tuple[str, Work]]:
        """The (path of the output file, its input) that are not finished, with a progress bar."""
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
        """A path to write to, which becomes `path` if the block succeeds and is removed otherwise."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        part, self._file = part_of(target), path
        try:
            yield part
            if part.exists():
                part.replace(target)
        except OSError as error:
            at = f"{error.filename}: " if error.filename else ""
            raise DataError(f"{at}{error.strerror or error}, while writing {target}") from error
        finally:
            part.unlink(missing_ok=True)

    def add(self, path: str, samples: int | None) -> MadeFile | None:
        """Record a finished file with its checksum.

        samples   their number in the file; 0: the file is removed and repeated next time; None: it belongs to the
                  samples of other files, like a list of captions
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
        """Record that a record cannot be used, or `count` of them in one line.

        reason   the same text for the same fault; the manifest counts by it
        detail   specific to the record
        file     the file of the record; default: the one being written
        """
        entry = {"file": self._file if file is None else file, "id": record, "reason": reason, "detail": detail}
        numbered = {"count": count} if count != 1 else {}
        self._open_skips.append({key: value for key, value in entry.items() if value} | numbered)

    def report(self) -> str:
        """A summary in a few lines. raises DataError when the set has no file"""
        skipped = "".join(f"\n  skipped {count}: {reason}" for reason, count in sorted(self._count_skips().items()))
        if not self.manifest.files and not self.stops:
            seen = f"; see {self.folder / SKIPPED}" if skipped else ": no usable input was found"
            raise DataError(f"{self.folder}: contains no samples{seen}{skipped}")
        state = "stopped; run the same command to resume" if self.stops else "done"
        count = len(self.manifest.files)
        return (
            f"{self.folder}: {state}: {self.manifest.samples} samples in {count} files ({NAME}){skipped}"
            + (f"\n  each with its reason: {self.folder / SKIPPED}" if skipped else "")
        )  # fmt: skip

    def _refuse_others(self, before: Manifest) -> None:
        mine, theirs = self.manifest.made_with, before.made_with
        differ = [key for key in {**theirs, **mine} if mine.get(key) != theirs.get(key)]
        if before.name != self.manifest.name:
            raise DataError(
                f"{self.folder} contains the set {before.name!r}, not {self.manifest.name!r}; choose a different --out"
            )
        if differ:
            lines = [f"\n    {key}: {theirs.get(key)!r} before, {mine.get(key)!r} now" for key in differ]
            raise DataError(
                f"{self.folder} has different arguments:{''.join(lines)}\n"
                f"  choose a different --out, or remove {self.folder / NAME} to start over"
            )

    def _open_journal(self) -> dict[str, MadeFile]:
        """Lock the journal and return the files in it, of a process that ended before it wrote the manifest.

        Its last line may be incomplete.
        """
        self._journal = (self.folder / JOURNAL).open("a+b")
        if not _locked(self._journal):
            self._journal.close()
            raise DataError(
                f"{self.folder}: another process is preparing it; wait for its end, or choose a different --out"
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
        """Remove the skipped records of files that are repeated."""
        path = self.folder / SKIPPED
        records = read_json_lines(path).records if path.exists() else []
        kept = [entry for entry in records if entry.get("file") in self.manifest.files]
        self._skip_count = sum(entry.get("count", 1) for entry in kept)
        if path.exists():
            write_text(path, repaired("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in kept)))

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
            print("\nstopping after the current file; press again to stop immediately", file=sys.stderr, flush=True)

        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._handlers[number] = signal.signal(number, stop)
            except ValueError:  # not in the main thread, which handles signals itself
                return


def _locked(journal: IO[bytes]) -> bool:
    """Lock the journal until it is closed or this process ends. False: another process has the lock.

    filelock would truncate the journal, or leave a lock file in the prepared set.
    """
    if not take_lock(journal):
        return False
    return os.fstat(journal.fileno()).st_nlink > 0  # the other process may have ended and removed it
