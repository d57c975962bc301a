"""Files that a crash, a kill or a full disk cannot leave half written, and lines after a torn one.

A file is replaced: written whole under another name, then moved into place. Lines are appended to a file whose last
line may be torn; the next line then starts on a line of its own, and a reader leaves the torn one out.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatbridge.common.text_repair import repaired


def replace_text(path: Path, text: str) -> None:
    """Write `text` in UTF-8 so that `path` holds either all of it or what it held before; it is `repaired` first.

    Processes that replace the same file at once do not meet: each writes under a name of its own.

    raises   OSError that names the file
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        with errors_name_file(path):
            part.write_text(repaired(text), encoding="utf-8")
            sync_to_disk(part)
            os.replace(part, path)
    except BaseException as error:
        with suppress(OSError):  # its name may be too long
            part.unlink()
        if isinstance(error, OSError):
            error.filename = str(path)  # the other name is nobody's business
        raise


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """One process at a time reads `path` and replaces it, where the file system has locks; the others wait."""
    if importlib.util.find_spec("fcntl") is None:  # Windows
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.with_name(f".{path.name}.lock")
    while True:
        with name.open("a") as lock:
            _lock(lock)
            if not _is_file(name, lock):  # its owner removed it while this process waited
                continue
            try:
                yield
            finally:
                name.unlink(missing_ok=True)  # while it is still held
            return


def _is_file(path: Path, file: Any) -> bool:
    """Whether an open file is the one that has this name now."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Add lines, which need no line end. Ranks may share a file: one at a time looks at its end and writes, where the
    file system has locks; elsewhere one write holds all lines.

    raises   OSError that names the file
    """
    text = repaired("".join(f"{line}\n" for line in lines)).encode()
    if not text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with errors_name_file(path), path.open("ab+", buffering=0) as file:
        _lock(file)  # else the end may be a line that another rank has half written
        rest = memoryview((b"\n" if _ends_torn(file) else b"") + text)
        while rest:  # an unbuffered write may take only what fits; the next one then says why
            rest = rest[file.write(rest) :]


def _lock(file: Any) -> None:
    """Wait until no other process holds this file; closing it gives it back."""
    with suppress(ModuleNotFoundError, OSError):  # Windows, or a file system without locks
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)


@dataclass(frozen=True)
class JsonLines:
    """The records of a file, and the numbers of the lines that are not JSON objects (torn by a crash)."""

    records: tuple[dict[str, Any], ...]
    torn: tuple[int, ...] = ()

    @property
    def note(self) -> str:
        """For people; empty when every line could be read."""
        shown = ", ".join(map(str, self.torn[:5])) + ("" if len(self.torn) <= 5 else ", ...")
        return f"{len(self.torn)} torn lines are left out (line {shown})" if self.torn else ""


def read_json_lines(path: Path) -> JsonLines:
    """Every line that holds a JSON object. splitlines would also cut at what JSON may hold, as U+2028."""
    records, torn = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict):
            records.append(record)
        else:
            torn.append(number)
    return JsonLines(tuple(records), tuple(torn))


def sync_to_disk(path: Path) -> None:
    """Make what was written survive a power cut."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def errors_name_file(path: Path) -> Iterator[None]:
    """An OSError of a write says which file it was; Python leaves that out when the disk is full."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def underlying_os_error(error: BaseException) -> OSError | None:
    """The OSError below an error of a library that hides it: torch keeps it as the context, safetensors in words."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError):
            return seen
        seen = seen.__cause__ or seen.__context__
    found = re.search(r"os error (\d+)", str(error))
    return OSError(int(found[1]), os.strerror(int(found[1]))) if found else None


def _ends_torn(file: Any) -> bool:
    """Whether the last line of an open file has no end."""
    size = file.seek(0, os.SEEK_END)
    if not size:
        return False
    file.seek(size - 1)
    return file.read(1) != b"\n"
