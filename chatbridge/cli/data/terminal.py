"""Words in colour where somebody looks at them, and plain in files and pipes."""

from __future__ import annotations

import os
import sys
from typing import TextIO


class Paint:
    """Colours on a terminal (NO_COLOR switches them off); the bare words anywhere else."""

    def __init__(self, stream: TextIO | None = None):
        self.is_on = (stream or sys.stdout).isatty() and not os.environ.get("NO_COLOR")

    def good(self, words: str) -> str:
        return self._in("32", words)

    def bad(self, words: str) -> str:
        return self._in("31", words)

    def strong(self, words: str) -> str:
        return self._in("1", words)

    def quiet(self, words: str) -> str:
        return self._in("2", words)

    def learned(self, words: str) -> str:
        """What the model is taught to say."""
        return self._in("1;32", words)

    def media(self, words: str) -> str:
        return self._in("36", words)

    def _in(self, code: str, words: str) -> str:
        return f"\x1b[{code}m{words}\x1b[0m" if self.is_on and words else words
