"""Errors for the user, and the entry point that prints them.

Every mistake in a configuration is a `Problem`; one `ConfigError` carries all of them.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
import textwrap
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import NoReturn

from chatbridge.common.environment import hidden, hide_output
from chatbridge.common.lost_ranks import NEXT_STEP, is_lost_connection

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)  # where a file is written
NO_PERMISSION = (errno.EACCES, errno.EPERM, errno.EROFS)
BAD_NAME = (  # of a file that the user named
    errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP
)  # fmt: skip
PAGE_WIDTH = 110  # columns of a rendered problem
LONGEST_NAME = 500  # characters of a word that may be a misspelled name


@dataclass(frozen=True)
class Problem:
    """One mistake: where it is, what was found, what is accepted, and the next step.

    path      dotted path in the configuration, "" for the whole
    message   continues the path: "expected a whole number, got 'many'"
    file      its origin: a YAML file or "--options"; None if it is not set
    allowed   all accepted values, if they can be listed
    nearest   the accepted value that was probably intended
    hint      the next step
    line      line in `file`, counted from 1
    is_absent  the value names a path where nothing is; the comment beside it in the YAML then joins the hint
    """

    path: str
    message: str
    file: str | None = None
    allowed: tuple[str, ...] = ()
    nearest: str | None = None
    hint: str | None = None
    line: int | None = None
    is_absent: bool = False

    def __str__(self) -> str:
        place = f"{self.file}, line {self.line}" if self.line else self.file
        title = f"{self.path or place or 'configuration'}" + (f"  ({place})" if self.path and place else "")
        return "\n".join([title, *(f"    {line}" for line in self._body())])

    def _body(self) -> list[str]:
        lines = textwrap.wrap(self.message, PAGE_WIDTH - 4, break_on_hyphens=False, break_long_words=False) or [""]
        if self.nearest:
            lines.append(f"did you mean {self.nearest}?")
        if self.allowed:
            listed = "allowed: " + ", ".join(self.allowed)
            lines += textwrap.wrap(
                listed, PAGE_WIDTH - 4, subsequent_indent=" " * 9, break_on_hyphens=False, break_long_words=False
            )
        for hint in (self.hint or "").splitlines():
            lines += textwrap.wrap(hint, PAGE_WIDTH - 4, break_on_hyphens=False, break_long_words=False)
        return lines


class ConfigError(ValueError):
    """All mistakes of a configuration."""

    def __init__(self, problems: Iterable[Problem]):
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        return f"{count} in the configuration\n\n" + "\n\n".join(
            textwrap.indent(hidden(str(problem)), "  ") for problem in self.problems
        )


class MediaError(ValueError):
    """A media file that cannot be read; str() is the reason."""


class DataError(ValueError):
    """A source that cannot be used, or whose failure budget is spent."""


class TrainingError(RuntimeError):
    """Training cannot continue, for example because the loss is not finite."""


@contextmanager
def reported_at(path: str) -> Iterator[None]:
    """Convert a ValueError of a part into a problem of the configuration at `path`; the errors above pass unchanged."""
    try:
        yield
    except (ConfigError, DataError, MediaError):
        raise
    except ValueError as error:
        message, _, rest = str(error).partition("\n")
        raise ConfigError([Problem(path, message, hint=rest or None)]) from error


def nearest(word: str, allowed: Iterable[str]) -> str | None:
    """Return the allowed word that was probably intended, or None if none is close.

    Case, dashes and underscores are ignored. A word that contains the other as a whole part ("steps", "max_steps") is
    close too, unless several do. A word that is much longer than any name is not compared: that takes seconds.
    """
    if len(word) > LONGEST_NAME:
        return None
    wanted = _plain(word)
    scored = [(SequenceMatcher(None, wanted, _plain(item)).ratio(), item) for item in allowed]
    ratio, best = max(scored, default=(0.0, None), key=lambda pair: pair[0])
    if ratio >= 0.8:
        return best
    parts = [item for _, item in scored if _holds(_plain(item), wanted)]
    if parts:
        return parts[0] if len(parts) == 1 else None
    return best if ratio >= 0.65 else None


def some(names: Collection[object], count: int = 3) -> str:
    """The first names, and the number of the others, for a message."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(map(str, list(names)[:count])) + more


def in_one_line(text: object, most: int = 300) -> str:
    """A message of another program in one line of at most `most` characters: some servers answer with a page."""
    joined = " ".join(str(text).split())
    return joined if len(joined) <= most else f"{joined[: most - 3]}..."


def _plain(word: str) -> str:
    return word.strip().lower().replace("-", "_").replace(" ", "_")


def _holds(one: str, other: str) -> bool:
    long, short = (one, other) if len(one) > len(other) else (other, one)
    return len(short) > 2 and f"_{short}_" in f"_{long}_"


def run_command(main: Callable[[], int | None]) -> NoReturn:
    """Run an entry point and exit: 0 or the return value of `main`; 2 for a user error, 1 for a failed training.

    The errors above are printed to stderr without a traceback (CHATBRIDGE_TRACEBACK=1 prints it). All ranks read the
    same configuration, so its problems are printed once per machine; other errors name the rank.
    """
    _accept_all_characters()
    hide_output()
    try:
        code = main() or 0
        sys.stdout.flush()
        raise SystemExit(code)
    except BrokenPipeError:
        if not _has_no_reader():  # the pipe of a worker, for example
            raise
        _silence()  # the reader closed the pipe (`... | head`)
        raise SystemExit(141) from None
    except OSError as error:
        steps = {**dict.fromkeys(NO_SPACE, "free some space"), **dict.fromkeys(NO_PERMISSION, "check its permissions")}
        steps |= dict.fromkeys(BAD_NAME if error.filename else (), "check the name")
        if error.errno not in steps or os.environ.get("CHATBRIDGE_TRACEBACK") == "1":
            raise
        where = f"{error.filename}: " if error.filename else "cannot write: "
        advice = f"{steps[error.errno]}, or choose another location"
        print(hidden(f"chatbridge: {where}{error.strerror}; {advice}"), file=sys.stderr, flush=True)
        _silence()
        raise SystemExit(2) from None
    except (ConfigError, DataError, MediaError, TrainingError) as error:
        if os.environ.get("CHATBRIDGE_TRACEBACK") == "1":
            raise
        if not isinstance(error, ConfigError):
            print_once(error)
        elif os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"chatbridge: {error}\n", file=sys.stderr, flush=True)
        raise SystemExit(1 if isinstance(error, TrainingError) else 2) from None
    except RuntimeError as error:
        rank = os.environ.get("RANK", "0")
        if not is_lost_connection(error) or os.environ.get("CHATBRIDGE_TRACEBACK") == "1":
            raise
        lost = "the connection to another rank was lost: its process has ended, with a message of its own or killed"
        print(f"chatbridge (rank {rank}): {lost}; {NEXT_STEP}", file=sys.stderr, flush=True)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("chatbridge: stopped", file=sys.stderr, flush=True)
        raise SystemExit(130) from None


def print_once(error: DataError | MediaError | TrainingError) -> None:
    """Print the message of an error to stderr, with the rank where there are several, unless that was done before."""
    if getattr(error, "is_printed", False):
        return
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    rank = f" (rank {os.environ.get('RANK')})" if several else ""
    print(f"chatbridge{rank}: {hidden(str(error))}", file=sys.stderr, flush=True)
    error.is_printed = True  # type: ignore[union-attr]


def _accept_all_characters() -> None:
    """Escape characters of file names that the terminal cannot show. A stream that the shell closed (`<&-`) is None; it
    becomes one that is empty, or keeps nothing."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 open until the process ends
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _has_no_reader() -> bool:
    """Return whether the reader of stdout has closed it."""
    if not hasattr(select, "poll"):  # Windows
        return True
    look = select.poll()
    look.register(sys.stdout.fileno(), 0)
    return bool(look.poll(0))


def _silence() -> None:
    """Discard output that is still buffered: Python would fail again when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
