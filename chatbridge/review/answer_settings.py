"""The settings that a file of answers was made with, in a file beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chatbridge.common.errors import DataError
from chatbridge.common.safe_files import file_lock, replace_text
from chatbridge.review.json_lines_file import NOT_OURS


class AnswerSettings:
    """The file beside the answers that names the model and the settings that gave them."""

    def __init__(self, answers: Path, settings: Mapping[str, Any]) -> None:
        self.answers = answers
        self.path = answers.with_name(f"{answers.name}.settings.json")
        self.settings: dict[str, Any] = json.loads(json.dumps(settings, default=str))

    def check(self, is_new: bool = False, has_others: bool = False) -> None:
        """Record the settings, or compare them with those that are recorded.

        is_new       answers of other settings are replaced
        has_others   the file has answers of other chunks, which are not
        raises       DataError when the file has answers of another model or other settings, or of another program
        """
        with file_lock(self.path):
            before = self._read()
            if before == self.settings:
                return
            is_used = self.answers.exists() and (before is not None or self.answers.stat().st_size > 0)
            if is_used and (has_others or not is_new):
                raise DataError(self._refusal(before, is_new))
            self.answers.touch()  # from now on, a command with other settings is refused before the first answer
            replace_text(self.path, json.dumps(self.settings, ensure_ascii=False) + "\n")

    def _read(self) -> dict[str, Any] | None:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    def _refusal(self, before: Mapping[str, Any] | None, is_new: bool) -> str:
        step = f"remove {self.answers} to start all chunks again" if is_new else NOT_OURS
        if before is None:
            return f"{self.answers} exists without a valid {self.path.name}; {step}"
        other = [key for key in self.settings if before.get(key) != self.settings[key]]
        return f"{self.answers} holds answers made with a different {', '.join(other)}; {step}"
