"""Files of a checkpoint that moved: its manifest is sealed, so the command that reads it says where they are now."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from chatbridge.common.errors import ConfigError, Problem
from chatbridge.models.model_without_files import FILES


@contextmanager
def redirectable(way: str) -> Iterator[None]:
    """Problems of settings that name files get the command that names another place.

    way   for example `demo.py --checkpoint RUN --options {}`
    """
    try:
        yield
    except ConfigError as error:
        raise ConfigError([_with_way(problem, way) for problem in error.problems]) from None


def _with_way(problem: Problem, way: str) -> Problem:
    top, last = problem.path.partition(".")[0], problem.path.rpartition(".")[2]
    if top != "model" or last not in (*FILES, "chat_template"):
        return problem
    hint = f"if it moved: {way.format(f'{problem.path}=NEW_PATH')}"
    return replace(problem, hint=f"{problem.hint}\n{hint}" if problem.hint else hint)
