"""The phase of each rank, in a file of its own that outlives it: what ended a start is known however it ended.

A rank that is killed cannot say anything, and torchrun ends the others while they find out. So every rank writes each
phase as it begins, and its last words if there are any; a clean end removes the file. The other ranks read where a
silent one was, and the next start in the folder says it again.
"""

from __future__ import annotations

import io
import json
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from chatbridge.common.environment import hidden
from chatbridge.runners import OTHER_RANKS
from chatbridge.runners.watchers import Phase

FOLDER = ".ranks"  # of a run folder
SIZE = 128  # bytes of a note without last words: a shorter one is padded, so that one write replaces another
SHOWN = 8  # ranks in a message
WAITS = {"data": "waiting for the loader", "collective": "waiting for other ranks"}
SILENT = (
    "A process without a message was killed from outside, for example for the memory of the machine (dmesg) or by the "
    "scheduler"
)


@dataclass(frozen=True)
class Note:
    """The newest phase of a rank.

    step   finished steps
    words  why it ended: None if it said nothing, "" if another rank was the reason
    """

    phase: Phase
    step: int
    words: str | None = None


class RankNote:
    """The note of this rank. Each write is a few microseconds, and fails silently: the run does not depend on it."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.path = folder / FOLDER / str(rank)
        self._lock = threading.Lock()
        self._is_last = False
        self._file: io.FileIO | None = None
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = io.FileIO(self.path, "w")

    def write(self, phase: Phase, step: int) -> None:
        """A phase begins."""
        self._write(Note(phase, step))

    def end(self, phase: Phase, step: int, words: str) -> None:
        """This rank ends, with these words; the first ones count. words: "" if another rank is the reason"""
        self._write(Note(phase, step, hidden(words)))

    def remove(self) -> None:
        """This rank ends without an error."""
        with self._lock, suppress(OSError):
            self._is_last = True
            self._close()
            self.path.unlink(missing_ok=True)
            self.path.parent.rmdir()  # by the last one

    def _write(self, note: Note) -> None:
        with self._lock, suppress(OSError):
            if self._file is None or self._is_last:
                return
            self._is_last = note.words is not None
            self._file.seek(0)
            self._file.write(json.dumps(asdict(note)).ljust(SIZE).encode())
            if self._is_last:
                self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def read_notes(folder: Path) -> dict[int, Note]:
    """Rank -> its note, of the ranks that have not ended without an error; in the order of ranks."""
    found: dict[int, Note] = {}
    for path in (folder / FOLDER).glob("*"):
        with suppress(OSError, ValueError, TypeError):  # it was killed before its first phase
            found[int(path.name)] = Note(**json.loads(path.read_text(encoding="utf-8")))
    return dict(sorted(found.items()))


def take_earlier_end(folder: Path, is_restart: bool) -> str:
    """What ended the start before this one, from its notes, which are removed; "" if it ended by itself.

    Only one rank may call it, before any rank of this start writes; no other process may train in the folder.
    is_restart   False: say it only of ranks that ended without a message, not again what the user has read
    """
    notes = read_notes(folder)
    for rank in notes:
        with suppress(OSError):
            (folder / FOLDER / str(rank)).unlink()
    silent = {rank: note for rank, note in notes.items() if note.words is None}
    if not silent and not is_restart:
        return ""
    said = [note.words for note in notes.values() if note.words and OTHER_RANKS not in note.words]
    return "; ".join([*said[:SHOWN], *([f"{silent_text(silent)}. {SILENT}"] if silent else [])])


def silent_text(notes: dict[int, Note]) -> str:
    """Which ranks ended without a message, and where; those that only waited for others come last."""
    order = sorted(notes.items(), key=lambda item: (item[1].phase == "collective", item[0]))
    parts = [f"rank {rank} ended without a message, last in {place(note.phase, note.step)}" for rank, note in order]
    more = [f"so did {len(parts) - SHOWN} other ranks"] if len(parts) > SHOWN else []
    return "; ".join([*parts[:SHOWN], *more])


def place(phase: Phase, step: int) -> str:
    """A phase for a message, with its step counted from 1. step: finished steps"""
    detail = f" ({WAITS[phase]})" if phase in WAITS else ""
    return f"{phase} of step {step + 1}{detail}"
