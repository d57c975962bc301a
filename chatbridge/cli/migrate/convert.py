"""From an old file to the new one with its table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chatbridge.cli.migrate.families import family_of
from chatbridge.cli.migrate.lavis_data import data_rows
from chatbridge.cli.migrate.migration import Migration
from chatbridge.cli.migrate.mix_file import KEY as MIX_FILE
from chatbridge.cli.migrate.mix_file import mix_rows
from chatbridge.cli.migrate.model_keys import model_rows
from chatbridge.cli.migrate.original import read_original
from chatbridge.cli.migrate.prompts import prompt_rows
from chatbridge.cli.migrate.questions import question_rows
from chatbridge.cli.migrate.rows import LOST, UNKNOWN, Row
from chatbridge.cli.migrate.run_keys import run_rows
from chatbridge.cli.migrate.target import still_needed
from chatbridge.common.errors import Problem
from chatbridge.config.merge import display_path


@dataclass(frozen=True)
class Migrated:
    """The result of one migration.

    text      the new file
    rows      what became of every leaf of the old file and its defaults
    implied   (key here, why): settings that the old code has and its files do not name
    limits    what the old code does, whatever its keys are, and nothing here can
    files     the default files that were read
    needs     paths that the new file asks for, and files that are to be brought
    mistakes  what our schema rejects in the new file, which the old one had too
    """

    text: str
    rows: tuple[Row, ...]
    implied: tuple[tuple[str, str], ...]
    limits: tuple[str, ...]
    files: tuple[str, ...]
    needs: tuple[Problem, ...]
    mistakes: tuple[Problem, ...]
    is_training: bool

    @property
    def is_complete(self) -> bool:
        """Whether nothing was lost and the new file has no mistakes."""
        return not self.mistakes and not self.limits and not any(row.status in (LOST, UNKNOWN) for row in self.rows)


def migrate(
    path: Path,
    options: Sequence[str] = (),
    defaults: Sequence[Path] = (),
    stem: str | None = None,
    ranks: int = 1,
    keep_paths: bool = False,
) -> Migrated:
    """Migrate a configuration of LAVIS, MiniGPT-4 or ChatBridge.

    options     settings that replace those of the file, as its own train.py took them
    defaults    default files of the code base that are not found in its checkout
    stem        name of the new file without its ending
    ranks       processes of the old run
    keep_paths  write paths that do not exist on this machine, in place of ???
    raises      ConfigError for a file that cannot be migrated, with the reason
    """
    original = read_original(path, options, defaults)
    family = family_of(original.config["model"], display_path(path))
    m = Migration(original, family, ranks, keep_paths)
    model_rows(m)
    prompt_rows(m)
    if not m.is_training:
        question_rows(m)
    elif MIX_FILE in m.open:
        mix_rows(m)
        m.not_needed("datasets", f"the sources are those of {MIX_FILE}")
    else:
        data_rows(m)
    run_rows(m, stem or path.stem)
    m.finish()
    rows = tuple(m.rows.values())
    text = m.target.text(_head(path, rows, m.limits))
    needs, mistakes = still_needed(text, m.is_training)
    return Migrated(
        text,
        rows,
        tuple(m.implied),
        tuple(m.limits),
        tuple(original.files),
        tuple(needs),
        tuple(mistakes),
        m.is_training,
    )


def _head(path: Path, rows: Sequence[Row], limits: Sequence[str]) -> list[str]:
    """The comment at the top: where the file is from, and what it does not have."""
    head = [f"Migrated from {display_path(path)} by `chatbridge migrate`."]
    lost = [row for row in rows if row.status in (LOST, UNKNOWN)]
    if lost or limits:
        head.append("Not taken over:")
        head += [f"  * {row.key} = {row.shown}: {row.note}" for row in lost]
        head += [f"  * {one}" for one in limits]
    return head
