"""Chats in files: a JSON line per conversation in the format of `records`, with copies of its media beside the file.

`save` and `load` are the two directions for one file of any number of conversations; `save_zip` makes one file of a
conversation and its media, which a browser can download and give back.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from chatbridge.common.errors import nearest
from chatbridge.common.safe_files import file_lock, replace_text
from chatbridge.common.text_repair import repaired, repaired_value
from chatbridge.processors.limits import MB
from chatbridge.serve.engine import ChatEngine
from chatbridge.serve.saved_conversations.loaded_session import Loaded, LoadError, MediaPlace, session_of_record
from chatbridge.serve.saved_conversations.session_record import answered_turns, new_id, record_of_session
from chatbridge.serve.saved_conversations.stored_media import CannotStore, StoredMedia
from chatbridge.serve.saved_conversations.zipped_conversation import CONVERSATION, unpacked, write_zip
from chatbridge.serve.session import Session

ENDING = ".jsonl"
_threads = threading.Lock()  # of this process; a lock of the file keeps other processes out


class SaveError(ValueError):
    """A conversation that cannot be saved; str() is the message for the user."""


@dataclass(frozen=True)
class Saved:
    """notes   for the user, for example that turns without an answer are not in the file"""

    file: Path
    num_turns: int
    notes: tuple[str, ...] = ()


def save(
    session: Session,
    file: Path,
    id: str,
    about: Sequence[str] = (),
    media: Literal["copy", "link"] = "copy",
) -> Saved:
    """Write a conversation into a file of conversations; a line with the same id is replaced, the others stay.

    about    lines about the model, for `details`
    media    copy: into the folder FILE.media beside it; link: local files are named by their path
    raises   SaveError
    """
    file = file.expanduser()
    turns = _checked(session, file)
    stored = StoredMedia(media_folder(file), file.parent, media)
    with save_errors(file):
        record = record_of_session(session, id, stored, about)
        with one_writer(file):
            lines = [line for line in conversation_lines(file)[0] if _id_of(line) != id]
            replace_text(file, "".join(f"{line}\n" for line in [*lines, as_line(record)]))
    return Saved(file, len(turns), _left_out(session, turns))


def save_zip(session: Session, file: Path, id: str, about: Sequence[str] = ()) -> Saved:
    """Write a conversation and its media as one file. raises SaveError"""
    turns = _checked(session, file.with_suffix(ENDING))
    with save_errors(file), tempfile.TemporaryDirectory(prefix="chatbridge_save_") as folder:
        root = Path(folder)
        stored = StoredMedia(media_folder(root / CONVERSATION), root)
        (root / CONVERSATION).write_text(as_line(record_of_session(session, id, stored, about)) + "\n", "utf-8")
        write_zip(root, file)
    return Saved(file, len(turns), _left_out(session, turns))


def load(
    engine: ChatEngine,
    file: Path,
    which: str | None = None,
    folder: Path | None = None,
    is_trusted: bool = True,
) -> Loaded:
    """A conversation of a .jsonl or .zip file, its media read anew.

    which       its id, or its number from 1; None: the last one
    folder      where a .zip is unpacked; it must exist as long as the conversation. None: a new temporary folder
    is_trusted  False for a file of somebody else: it names only media within a .zip, never files of this machine
    raises      LoadError with everything that is wrong
    """
    file = file.expanduser()
    if not file.is_file():
        beside = sorted(one.name for one in file.parent.glob(f"*{ENDING}")) if file.parent.is_dir() else []
        guess = nearest(file.name, beside)
        raise LoadError(f"there is no file {file}" + (f"; did you mean {guess}?" if guess else ""))
    known = [file.parent]
    try:
        return _load(engine, file, which, folder, is_trusted, known)
    except (LoadError, SaveError, OSError) as error:
        for made in known[1:]:
            shutil.rmtree(made, ignore_errors=True)
        reason = f"{file.name} cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
        raise LoadError(reason if is_trusted else _without_folders(reason, known)) from None


def _load(
    engine: ChatEngine, file: Path, which: str | None, folder: Path | None, is_trusted: bool, known: list[Path]
) -> Loaded:
    """known   grows by the folder where a .zip is unpacked"""
    limit_mb, is_archive = engine.limits.max_file_mb, zipfile.is_zipfile(file)
    if is_archive:
        root = unpacked(file, folder or Path(tempfile.mkdtemp(prefix="chatbridge_loaded_")), limit_mb)
        known.append(root)
        file = root / CONVERSATION
    if file.stat().st_size > limit_mb * MB:
        raise LoadError(f"{file.name} is larger than {limit_mb:g} MB (evaluation.chat.max_file_mb)")
    lines, _ = conversation_lines(file)
    place = MediaPlace(file.parent, is_confined=not is_trusted, has_media=is_trusted or is_archive)
    number = _number_of(lines, which, file.name)
    try:
        record = repaired_value(json.loads(lines[number]))
    except RecursionError:
        raise LoadError(f"conversation {number + 1} of {file.name} is nested too deeply") from None
    return session_of_record(engine, record, place, f"{file.stem}#{number}")


def _without_folders(reason: str, known: Sequence[Path]) -> str:
    """A message for somebody else, who has nothing to do with the folders of this machine."""
    for folder in reversed(known):
        reason = reason.replace(f"{folder}/", "").replace(str(folder), "the saved conversation")
    return reason


def media_folder(file: Path) -> Path:
    """The folder of the copies: chats.media for chats.jsonl."""
    return file.with_suffix(".media")


def as_line(record: dict[str, Any]) -> str:
    """A JSON line."""
    return repaired(json.dumps(record, ensure_ascii=False))


@contextmanager
def save_errors(file: Path) -> Iterator[None]:
    """Raise SaveError in place of CannotStore and OSError, which names `file` where it names none."""
    try:
        yield
    except CannotStore as error:
        raise SaveError(str(error)) from None
    except OSError as error:
        raise SaveError(f"{error.filename or file}: cannot be written: {error.strerror or error}") from None


@contextmanager
def one_writer(file: Path) -> Iterator[None]:
    """Let one thread of one process at a time read and write a file."""
    with _threads, file_lock(file):
        yield


def conversation_lines(file: Path) -> tuple[list[str], bool]:
    """The lines of a file of conversations, and whether one of them was torn by a crash, which is left out.

    raises   SaveError for a file of something else, which is then never replaced
    """
    lines, is_torn = list[str](), False
    for number, line in enumerate(file.read_bytes().split(b"\n") if file.exists() else (), start=1):
        if not line.strip():
            continue
        try:
            text = line.decode("utf-8-sig")
            record = json.loads(text)
        except (ValueError, RecursionError):
            text, record = "", None
        if isinstance(record, dict) and "messages" in record:
            lines.append(text)
        elif record is None and lines and line.startswith(b'{"id": "'):
            is_torn = True
        else:
            message = "is not a conversation (an object with `messages`); name another file"
            raise SaveError(f"{file}: line {number} {message}")
    return lines, is_torn


def _checked(session: Session, file: Path) -> tuple[Any, ...]:
    """The turns that are saved. raises SaveError"""
    if file.suffix.lower() != ENDING:
        raise SaveError(f"{file.name}: conversations are JSON lines; name it {file.with_suffix(ENDING).name}")
    if file.is_dir():
        raise SaveError(f"{file} is a folder; name a file in it")
    turns = answered_turns(session)
    if not turns:
        raise SaveError("there is no answer yet, so there is nothing to save")
    return turns


def _left_out(session: Session, turns: Sequence[Any]) -> tuple[str, ...]:
    count = len(session) - len(turns)
    what = "1 question without an answer is" if count == 1 else f"{count} questions without an answer are"
    return (f"{what} not in the file",) if count else ()


def _id_of(line: str) -> Any:
    return json.loads(line).get("id")


def _number_of(lines: Sequence[str], which: str | None, name: str) -> int:
    """raises LoadError"""
    if not lines:
        raise LoadError(f"{name} has no conversation")
    if which is None:
        return len(lines) - 1
    ids = [str(_id_of(line)) for line in lines]
    if which in ids:
        return len(ids) - 1 - ids[::-1].index(which)
    if which.isdecimal() and 1 <= int(which) <= len(lines):
        return int(which) - 1
    guess = nearest(which, ids)
    hint = f"; did you mean {guess}?" if guess else f"; the last one is {ids[-1]}"
    raise LoadError(f"{name} has no conversation {which!r}, and has numbers 1 to {len(lines)}{hint}")


__all__ = ["LoadError", "Loaded", "SaveError", "Saved", "load", "new_id", "save", "save_zip"]
