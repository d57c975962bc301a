"""Files that a command writes, checked before it starts: none may be one that it reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from chatbridge.common.errors import ConfigError, Problem
from chatbridge.runners.run_folder import RESOLVED
from chatbridge.tasks.evaluator import METRICS
from chatbridge.tasks.receipt import RECEIPT

OF_EVALUATIONS = ("predictions_", "modalities_", METRICS, RECEIPT, RESOLVED)  # their names begin with these


def check_written(written: Mapping[str, Path | None], read: Sequence[Path | None]) -> None:
    """raises ConfigError for a file that would replace one that is read, a file of an evaluation that is read, or
    another file that is written

    written   option -> its path; None: not given
    read      files and folders; None: not given
    """
    if problems := list(_problems({name: one for name, one in written.items() if one}, [one for one in read if one])):
        raise ConfigError(problems)


def _problems(written: Mapping[str, Path], read: Sequence[Path]) -> Iterator[Problem]:
    names: dict[Path, str] = {}
    for option, path in written.items():
        if path.is_dir():
            yield Problem(option, f"{path} is a folder", hint="name a file in it")
        elif any(_is_part_of(path, one) for one in read):
            message = f"{path} is a file that this command reads, or of the evaluation, which it would replace"
            yield Problem(option, message, hint="choose another file")
        if (other := names.setdefault(path.resolve(), option)) != option:
            yield Problem(option, f"is the same file as {other}: {path}", hint="choose another file")


def _is_part_of(path: Path, read: Path) -> bool:
    """Whether writing to `path` replaces the file `read`, or what an evaluation in its folder cannot make again."""
    out, known = path.resolve(), read.resolve()
    if out == known or (out.exists() and known.exists() and out.samefile(known)):
        return True
    folder = known if known.is_dir() else known.parent
    return out.exists() and out.parent == folder and out.name.startswith(OF_EVALUATIONS)
