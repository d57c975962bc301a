"""Logging of a run: to stderr and, on the main rank, to run.log."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from chatbridge.common.environment import hidden

ROOT = "chatbridge"


def get_logger(name: str = "") -> logging.Logger:
    """Return a logger below "chatbridge"; pass __name__."""
    if not name or name == ROOT or name.startswith(f"{ROOT}."):
        return logging.getLogger(name or ROOT)
    return logging.getLogger(f"{ROOT}.{name}")


def setup(output_dir: str | Path | None = None, is_main: bool = True, rank: int = 0) -> None:
    """Log to stderr and, on the main rank, also to output_dir/run.log; other ranks log warnings only.

    Python warnings are logged too. A second call replaces the first.
    """
    logger = logging.getLogger(ROOT)
    logger.setLevel(logging.INFO)
    handlers: list[logging.Handler] = [_Screen(logging.INFO if is_main else logging.WARNING)]
    handlers[0].setFormatter(_Line("" if is_main else f"[rank {rank}] "))
    if output_dir is not None and is_main:
        handlers.append(_file(Path(output_dir)))
    logging.captureWarnings(False)  # another hook may have been installed since the last call
    logging.captureWarnings(True)
    for one in (logger, logging.getLogger("py.warnings")):
        for old in list(one.handlers):
            one.removeHandler(old)
            old.close()
        for handler in handlers:
            one.addHandler(handler)


class _Line(logging.Formatter):
    """12:03:44 step 10 ...          12:03:44 [rank 1] warning: ..."""

    def __init__(self, mark: str):
        super().__init__(datefmt="%H:%M:%S")
        self.mark = mark

    def formatMessage(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        return f"{self.formatTime(record, self.datefmt)} {self.mark}{level}{hidden(record.getMessage())}"


class _FileLine(logging.Formatter):
    """Hides values that come from the environment."""

    def format(self, record: logging.LogRecord) -> str:
        return hidden(super().format(record))


class _Screen(logging.Handler):
    """Writes lines above a progress bar (tqdm.write moves the bar) to the current stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        try:
            tqdm.write(self.format(record), file=sys.stderr)
        except Exception:
            self.handleError(record)


def _file(folder: Path) -> logging.Handler:
    folder.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(folder / "run.log", encoding="utf-8")
    handler.setFormatter(_FileLine("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    return handler
