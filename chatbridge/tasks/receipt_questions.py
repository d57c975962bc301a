"""Hashes of what a task asks: its questions with their references and media, and the texts of its prompts.

They are taken from the records as the evaluation reads them, so another layout of the same file, or the same file in
another folder, has the same hash, and a question that a `limit` leaves out does not count.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, is_dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from chatbridge.common import seeds
from chatbridge.common.errors import MediaError
from chatbridge.config.schema import plain
from chatbridge.conversation.messages import Conversation, Drawing, Part, Text, media_of
from chatbridge.datasets.builders.base import Record
from chatbridge.tasks.base import Task
from chatbridge.tasks.prompt import question_of
from chatbridge.tasks.receipt import LENGTH, file_sha256

BLOCK, BLOCKS = 1 << 16, 64  # bytes of a block, and blocks that are read of a larger media file; a smaller one is whole
THREADS = 8  # that read them
LONGEST = 1000  # characters of the prompt that is shown
GROUP = 256  # records whose media are read together
T = TypeVar("T")


def question_settings(task: Task, seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parts `data` and `prompt` of a receipt. Reads every record and media file, of those above 4 MiB a part; no
    media is decoded.

    seed   of the random choices of the data set, as in `predictions`
    """
    data, prompts, media = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    unreadable, items, first = 0, 0, ""
    reader = _MediaReader()
    for records in _grouped(_records(task, seed)):
        refs: list[Any] = []
        for number, record in records:
            if record is None:
                unreadable += 1
                _add(data, [number, task.dataset.sample_id(number)])
                continue
            conversation, answer = question_of(record.conversation, task.config.drop_media)
            _add(data, [record.id, record.references or [answer], record.details])
            texts = [[message.role, *map(_text, message.parts)] for message in conversation]
            _add(prompts, texts)
            first = first or _shown(texts)
            refs += [(number, ref) for ref in _refs(conversation)]
        for (number, _), digest in zip(refs, reader.digests([ref for _, ref in refs]), strict=True):
            _add(media, [number, digest])
        items += len(refs)
    found = {"questions": len(task.dataset), "unreadable": unreadable, "records": _hex(data)}
    return {**found, "media_items": items, "media": _hex(media)}, {"texts": _hex(prompts), "first": first}


def data_files(task: Task) -> dict[str, dict[str, str | None]]:
    """setting of the data set -> name and sha256 of the file that it names"""
    found: dict[str, dict[str, str | None]] = {}
    for key, value in plain(task.config.dataset.config).items():
        for number, one in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(one, str) and _is_file(one):
                name = f"{key}[{number}]" if isinstance(value, list) else key
                found[name] = {"name": Path(one).name, "sha256": file_sha256(Path(one))}
    return found


def media_digest(ref: Any) -> str:
    """A hash of a file, the files of a folder, bytes or a tensor; of a large file its size and 64 blocks count."""
    if isinstance(ref, bytes):
        return hashlib.sha256(ref).hexdigest()
    if isinstance(ref, (str, Path)):
        return _path_digest(Path(ref))
    if is_dataclass(ref) and not isinstance(ref, type):  # two images side by side, audio that is moved
        inner = [media_digest(getattr(ref, one.name)) for one in fields(ref)]
        return hashlib.sha256(f"{type(ref).__name__} {inner}".encode()).hexdigest()
    return hashlib.sha256(_bytes(ref)).hexdigest()


class _MediaReader:
    """Hashes of media items; a file that several questions share is read once."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def digests(self, refs: Sequence[Any]) -> list[str]:
        """A hash per item."""
        new = {str(ref): ref for ref in refs if isinstance(ref, (str, Path)) and str(ref) not in self._known}
        if new:
            with ThreadPoolExecutor(min(THREADS, len(new))) as pool:
                self._known |= zip(new, pool.map(media_digest, new.values()), strict=True)
        return [self._digest(ref) for ref in refs]

    def _digest(self, ref: Any) -> str:
        return self._known[str(ref)] if isinstance(ref, (str, Path)) else media_digest(ref)


def _records(task: Task, seed: int) -> Iterator[tuple[int, Record | None]]:
    """Every record as `question_loader` reads it, by its index; None where it cannot be read."""
    for index in range(len(task.dataset)):
        try:
            record = task.dataset.record(index, seeds.stream(seed, f"task/{task.name}", index))
            question_of(record.conversation, task.config.drop_media)
            yield index, record
        except MediaError:
            yield index, None


def _grouped(records: Iterator[T]) -> Iterator[list[T]]:
    """The same, GROUP at a time: media that records hold as bytes are not all kept."""
    while group := list(islice(records, GROUP)):
        yield group


def _refs(conversation: Conversation) -> list[Any]:
    items = (media_of(part) for message in conversation for part in message.parts)
    return [item.ref for item in items if item is not None]


def _shown(texts: Sequence[Sequence[Any]]) -> str:
    """A prompt for a reader of the receipt, who cannot read the hash of all: `user: <image> Which shape?`"""
    turns = [[role, *(f"<{part[-1]}>" if isinstance(part, list) else part for part in parts)] for role, *parts in texts]
    return "\n".join(f"{role}: {' '.join(parts)}" for role, *parts in turns)[:LONGEST]


def _text(part: Part) -> Any:
    """The text of a part; of a media item its modality."""
    if isinstance(part, Text):
        return part.text
    return ["drawing", part.caption] if isinstance(part, Drawing) else [part.modality]


def _path_digest(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        for one in sorted(path.iterdir()) if path.is_dir() else [path]:
            size = one.stat().st_size
            digest.update(f"{one.name if path.is_dir() else ''} {size}\n".encode())
            with one.open("rb") as file:
                for at in _starts(size):
                    file.seek(at)
                    digest.update(file.read(BLOCK))
    except OSError as error:
        digest.update(f"{type(error).__name__}".encode())
    return digest.hexdigest()


def _starts(size: int) -> list[int]:
    """Where the blocks of a file begin that are read: all of them up to 4 MiB, else 64, the first and last included."""
    count = -(-size // BLOCK)
    return (
        [at * BLOCK for at in range(count)]
        if count <= BLOCKS
        else [k * (size - BLOCK) // (BLOCKS - 1) for k in range(BLOCKS)]
    )


def _bytes(tensor: Any) -> bytes:
    try:
        return f"{tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.cpu().contiguous().numpy().tobytes()
    except (AttributeError, TypeError):
        return repr(type(tensor)).encode()


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        return False


def _add(digest: Any, value: Any) -> None:
    text = json.dumps(value, sort_keys=True, default=lambda one: dict(one) if isinstance(one, Mapping) else str(one))
    digest.update(text.encode() + b"\n")


def _hex(digest: Any) -> str:
    return digest.hexdigest()[:LENGTH]
