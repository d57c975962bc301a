"""Colors on a terminal, plain text in files and pipes."""

from __future__ import annotations

import os
import sys
from typing import TextIO


class Paint:
    """ANSI colors if the stream is a terminal and NO_COLOR is not set; otherwise text passes unchanged."""

    def __init__(self, stream: TextIO | None = None):
        self.is_on = (stream or sys.stdout).isatty() and not os.environ.get("NO_COLOR")

    def good(self, text: str) -> str:
        return self._in("32", text)

    def bad(self, text: str) -> str:
        return self._in("31", text)

    def strong(self, text: str) -> str:
        return self._in("1", text)

    def quiet(self, text: str) -> str:
        return self._in("2", text)

    def supervised(self, text: str) -> str:
        return self._in("1;32", text)

    def media(self, text: str) -> str:
        return self._in("36", text)

    def _in(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.is_on and text else text
