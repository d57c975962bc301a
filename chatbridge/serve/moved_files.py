"""Hints for files of a checkpoint that have moved: its manifest is sealed, so an option names their new location."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from chatbridge.common.errors import ConfigError, Problem
from chatbridge.models.weight_files import FILE_SETTINGS


@contextmanager
def hint_moved_files(command: str) -> Iterator[None]:
    """Add to problems with files the command that names their new location.

    command   with {} for the option, for example `demo.py --checkpoint RUN --options {}`
    """
    try:
        yield
    except ConfigError as error:
        raise ConfigError([_with_hint(problem, command) for problem in error.problems]) from None


def _with_hint(problem: Problem, command: str) -> Problem:
    top, last = problem.path.partition(".")[0], problem.path.rpartition(".")[2]
    if top != "model" or last not in (*FILE_SETTINGS, "chat_template"):
        return problem
    hint = f"if it moved: {command.format(f'{problem.path}=NEW_PATH')}"
    return replace(problem, hint=f"{problem.hint}\n{hint}" if problem.hint else hint)
