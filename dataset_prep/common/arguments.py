"""Common arguments of the preparation scripts, and errors as messages instead of tracebacks."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from chatbridge.common.errors import ConfigError, DataError, MediaError, run_command

MOST = 1e6  # of any quantity: eleven days in seconds, so that no timeout of a system call overflows


def parser(
    description: str | None, program: str, out: str | None = None, *, workers: bool = True
) -> argparse.ArgumentParser:
    """A parser with the arguments of all scripts: --out, --limit and, if `workers`, --workers.

    description   the docstring of the script, printed unchanged
    program       "dataset_prep.web_images"
    out           default of --out; None: --out is required
    """
    made = argparse.ArgumentParser(
        prog=f"python -m {program}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shown = f"folder of the prepared set (default: {out})" if out else "folder of the prepared set"
    made.add_argument("--out", type=Path, default=Path(out) if out else None, required=out is None, help=shown)
    if workers:
        default = max(1, (os.cpu_count() or 1) - 1)
        made.add_argument(
            "--workers", type=count, default=default, help="processes (default: number of cores minus one)"
        )
    made.add_argument("--limit", type=positive, metavar="N", help="use only the first N records")
    return made


def count(text: str) -> int:
    """A whole number, 0 or more."""
    return _whole(text, 0)


def positive(text: str) -> int:
    """A whole number, 1 or more."""
    return _whole(text, 1)


def _whole(text: str, low: int) -> int:
    if not text.isdecimal() or int(text) < low:
        raise argparse.ArgumentTypeError(f"expected a whole number, {low} or more, got {text!r}")
    return int(text)


def above_zero(text: str) -> float:
    """A quantity such as seconds or frames per second."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= MOST:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def existing_file(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return path


def existing_folder(text: str) -> Path:
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text}")
    return path


def refuse_own_input(written: Path, *read: Path) -> None:
    """raises DataError when a file that will be written is one of those that are read"""
    if written.exists() and any(path.exists() and written.samefile(path) for path in read):
        raise DataError(f"{written} is a file that the command reads, and would replace; choose another --out")


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a script and exit: code 2 with a message for wrong input or a full disk, 1 for an unexpected error."""

    def reported() -> int | None:
        try:
            return main()
        except (ConfigError, DataError, MediaError, KeyboardInterrupt):
            raise
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise DataError(f"{where}{error.strerror or error}") from error
        except ModuleNotFoundError as error:  # an optional package, with the command that installs it
            raise DataError(str(error)) from error
        except Exception as error:
            if os.environ.get("CHATBRIDGE_TRACEBACK") == "1":
                raise
            print(
                f"chatbridge: unexpected error: {type(error).__name__}: {error}\n"
                "  finished files are kept. CHATBRIDGE_TRACEBACK=1 prints the traceback; please report it",
                file=sys.stderr,
            )
            return 1

    run_command(reported)
