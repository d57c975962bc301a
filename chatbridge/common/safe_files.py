"""Files that a crash, a kill or a full disk cannot leave half written, and JSON lines with a torn line among them.

A file is replaced: written whole under a temporary name, then renamed. Lines are appended to a file whose last line may
be torn; the next line then starts on a new line, and a reader skips the torn one.
"""

from __future__ import annotations

import glob
import importlib.util
import json
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatbridge.common.text_repair import repaired


def replace_text(path: Path, text: str) -> None:
    """Write `text` in UTF-8 so that `path` holds either all of it or its previous content; it is `repaired` first.

    Processes that replace the same file at once do not conflict: each writes under its own temporary name.

    raises   OSError that names the file
    """
    _replace(path, lambda part: part.write_text(repaired(text), encoding="utf-8"))


def replace_bytes(path: Path, content: bytes) -> None:
    """Write bytes as `replace_text` writes text."""
    _replace(path, lambda part: part.write_bytes(content))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        with errors_name_file(path):
            write(part)
            sync_to_disk(part)
            os.replace(part, path)
    except BaseException as error:
        with suppress(OSError):  # its name may be too long
            part.unlink()
        if isinstance(error, OSError):
            error.filename = str(path)  # not the temporary one
        raise


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Let one process at a time read and replace `path`; the others wait. On a file system without locks, nobody waits.

    The lock is a file beside it, removed again: `path` may be in a model folder that is published as it is, where
    filelock would leave its lock file. What a killed owner was writing is removed by the next one.
    """
    if importlib.util.find_spec("fcntl") is None:  # Windows
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.with_name(f".{path.name}.lock")
    while True:
        with name.open("a") as lock:
            is_alone = _lock(lock)
            if not _has_name(lock, name):  # its owner removed it while this process waited
                continue
            for part in path.parent.glob(f".{glob.escape(path.name)}.*.part") if is_alone else ():
                part.unlink(missing_ok=True)
            try:
                yield
            finally:
                name.unlink(missing_ok=True)  # before the lock is released
            return


def _has_name(file: Any, name: Path) -> bool:
    """Whether `name` is still the name of an open file."""
    try:
        return os.path.samestat(name.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Append lines, given without line ends. Ranks may share a file: on a file system with locks, one at a time checks
    its end and writes; without locks, all lines are one write.

    raises   OSError that names the file
    """
    text = repaired("".join(f"{line}\n" for line in lines)).encode()
    if not text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with errors_name_file(path), path.open("ab+", buffering=0) as file:
        _lock(file)  # or its end may be a line that another rank has half written
        rest = memoryview((b"\n" if _ends_torn(file) else b"") + text)
        while rest:  # on a full disk an unbuffered write is partial; the next one raises the reason
            rest = rest[file.write(rest) :]


def _lock(file: Any) -> bool:
    """Lock an open file for this process alone; closing it releases the lock. False: this system has no locks."""
    with suppress(ModuleNotFoundError, OSError):  # Windows, or a file system without locks
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)
        return True
    return False


@dataclass(frozen=True)
class JsonLines:
    """The records of a file, and the numbers of the lines that are not JSON objects (torn by a crash)."""

    records: tuple[dict[str, Any], ...]
    torn: tuple[int, ...] = ()

    @property
    def note(self) -> str:
        """How many lines are torn, and which; empty if every line could be read."""
        shown = ", ".join(map(str, self.torn[:5])) + ("" if len(self.torn) <= 5 else ", ...")
        return f"{len(self.torn)} torn lines are skipped (line {shown})" if self.torn else ""


def read_json_lines(path: Path) -> JsonLines:
    """The records of all lines that hold a JSON object. Lines end at "\\n" only: JSON strings may hold U+2028, where
    splitlines cuts."""
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
    """Write a file's content through to the disk, so that it survives a power cut."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def usual_mode(path: Path) -> None:
    """Give a file the mode that `open` gives; safetensors writes for the owner alone, but groups share checkpoints."""
    mask = os.umask(0o022)  # the only way to read it is to set it
    os.umask(mask)
    path.chmod(0o666 & ~mask)


@contextmanager
def errors_name_file(path: Path) -> Iterator[None]:
    """Add the file name to an OSError of a write; Python leaves it out if the disk is full."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def underlying_os_error(error: BaseException) -> OSError | None:
    """The OSError that caused an error of a library: torch keeps it as the context, safetensors in the message."""
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
