"""One migration in progress: the leaves of the old file that are still open, the rows, and the new file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from chatbridge.cli.migrate.families import Family
from chatbridge.cli.migrate.original import Original
from chatbridge.cli.migrate.rows import CHANGED, LOST, TAKEN, UNKNOWN, UNNEEDED, Row, leaves, placed, short
from chatbridge.cli.migrate.target import Target
from chatbridge.common.errors import nearest
from chatbridge.config.original_keys import ORIGINAL_KEYS
from chatbridge.config.origins import MISSING, Unresolved, is_below

# what the published files have in place of a path: /path/to/x, /PATH/OF/OUTPUT/DIR, /absolute/path/to/x, MODEL_WEIGHT
PLACEHOLDER = re.compile(r"(?i:(?:^|/)(?:absolute/)?path/(?:to|of)/|^please|^your[_ /])|^[A-Z][A-Z0-9_]+$")


class Migration:
    """Rules claim leaves of the old file, each once, and set keys of the new one.

    rows      key of the old file -> its row
    implied   (key here with its value, why): settings that the old code has and its files do not name
    limits    what the old code does, whatever its keys are, and nothing here can
    prompts   a list of prompts that is not a shipped one
    ranks     processes the old run had, for batch sizes per GPU
    """

    def __init__(self, original: Original, family: Family, ranks: int = 1, keep_paths: bool = False):
        self.original, self.family, self.ranks, self.keep_paths = original, family, ranks, keep_paths
        self.target = Target([family.base] if family.base else [])
        self.open = dict(leaves(original.config))
        self.rows: dict[str, Row] = {}
        self.implied: list[tuple[str, str]] = []
        self.limits: list[str] = []
        self.prompts: str | None = None
        self.is_training = is_training(original.config.get("run") or {})
        for key, value in list(self.open.items()):
            if isinstance(value, Unresolved):
                self.no_equal(key, f"it {value.message}; write the value out, or give --options {key}=...")

    @property
    def accumulate(self) -> int:
        """Micro-batches of one step of the optimizer. The iterations of the original are micro-batches, whatever key
        counts them (iters_per_epoch, max_iters, warmup_steps, log_freq); here they are steps of the optimizer."""
        given = self.original.get("run", "accum_grad_iters")
        return given if type(given) is int and given > 0 else 1

    def has(self, key: str) -> bool:
        """Whether a leaf of this path waits for a rule."""
        return key in self.open

    def value(self, key: str) -> Any:
        """The value of an open leaf; None where there is none."""
        return self.open.get(key)

    def below(self, path: str) -> list[str]:
        """The open leaves at and below a path."""
        return [key for key in self.open if is_below(key, path)]

    def taken(self, key: str, here: str, note: str = "") -> None:
        """The leaf has the same meaning at the key `here`."""
        self._claim(key, TAKEN, here, note)

    def changed(self, key: str, here: str, note: str) -> None:
        """The leaf became the key `here`, with another meaning, which the note gives."""
        self._claim(key, CHANGED, here, note)

    def not_needed(self, key: str, note: str = "") -> None:
        """The leaf and those below it have no counterpart, and nothing is lost."""
        for one in self.below(key):
            self._claim(one, UNNEEDED, "", note or ORIGINAL_KEYS[key].note)

    def no_equal(self, key: str, note: str = "") -> None:
        """The leaf and those below it cannot be expressed; the note has the reason and what to do."""
        for one in self.below(key):
            self._claim(one, LOST, "", note or ORIGINAL_KEYS[key].note)

    def set(self, path: str, value: Any, comment: str = "") -> str:
        """Set a key of the new file. Returns `key: value` for the row."""
        self.target.set(path, value, comment)
        return f"{path}: {short(value)}"

    def move(self, key: str, path: str, note: str = "", value: Any = None) -> None:
        """The usual rule: the leaf, or another value in its place, at a key of the new file."""
        if not self.has(key):
            return
        given = self.value(key)
        here = self.set(path, given if value is None else value)
        self.changed(key, here, note) if note else self.taken(key, here)

    def imply(self, path: str, value: Any, why: str) -> None:
        """A setting that the old code has without a key."""
        self.implied.append((self.set(path, value), why))

    def path(self, key: str, path: str, note: str = "") -> None:
        """The rule of a file or folder: taken where it exists, otherwise the new file asks for it."""
        value = self.value(key)
        if value in (None, ""):
            return self.not_needed(key, "no file is named")
        text = str(value)
        if (found := self.found(text)) is not None:
            here = self.set(path, found)
            moved = "" if found == text else "the path as seen from here"
            return (
                self.changed(key, here, " ".join(filter(None, (moved, note))))
                if moved or note
                else self.taken(key, here)
            )
        if self.keep_paths and not PLACEHOLDER.search(text):
            here = self.set(path, text)
            return self.changed(key, here, f"kept, although it does not exist on this machine {note}".strip())
        return self._ask(key, path, text, note)

    def found(self, text: str) -> str | None:
        """A path of the old file as it is written here: as it is, in the folder of the file, or in its checkout."""
        path = Path(text).expanduser()
        if path.exists():
            return text
        if path.is_absolute() or not text:
            return None
        folders = (self.original.path.parent, self.original.root)
        return next((str(folder / path) for folder in folders if (folder / path).exists()), None)

    def _ask(self, key: str, path: str, text: str, note: str) -> None:
        there, origins = self.target.below()
        for step in path.split("."):
            there = there.get(step) if isinstance(there, Mapping) else None
        origin = origins.entries.get(path)
        known = origin.comment if origin is not None and origin.comment else ""
        if PLACEHOLDER.search(text):
            if there is None:
                self.set(path, MISSING)
            why = "the old file has a placeholder; give your path"
        else:
            self.set(path, MISSING, "; ".join(filter(None, (f"was {text}", known))))
            why = "does not exist on this machine; give your path, or migrate with --keep-paths"
        self.changed(key, f"{path}: {MISSING}", f"{why} {note}".strip())

    def finish(self) -> None:
        """The keys that no rule claimed are unknown, with the nearest known key of their section."""
        for key in list(self.open):
            if (one := ORIGINAL_KEYS.get(key)) is not None:
                self._claim(key, LOST, "", one.note or f"not taken over beside the other keys; see {one.here}")
                continue
            section = key.split(".")[0]
            known = [one for one in ORIGINAL_KEYS if one.startswith(f"{section}.")]
            guess = nearest(key, known)
            note = "no file of LAVIS, MiniGPT-4 or ChatBridge has this key; it was left out"
            note += f"; did you mean {guess}?" if guess and guess != key else ""
            self._claim(key, UNKNOWN, "", note)

    def _claim(self, key: str, status: str, here: str, note: str) -> None:
        value = self.open.pop(key)
        self.rows[key] = placed(Row(key, value, status, here, note), self.original.origin(key))

    def add_rows(self, prefix: str, value: Any, file: str) -> None:
        """Open the leaves of another file that the old one names; their keys follow `prefix`."""
        from chatbridge.config.origins import Origin

        for key, inner in leaves(value, prefix):
            self.open[key] = inner
            self.original.origins[key] = Origin(file)

    def by_status(self, status: str) -> Iterator[Row]:
        """The rows of one status, in the order of the file."""
        return (row for row in self.rows.values() if row.status == status)


def is_training(run: Mapping[str, Any]) -> bool:
    """Whether a run section trains: it has a learning rate or a length, and does not only evaluate."""
    return run.get("evaluate") is not True and any(key in run for key in ("init_lr", "max_epoch", "max_iters"))
