"""The released line of an answer, and the settings beside a file of answers that gave them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chatbridge.common.errors import DataError
from chatbridge.common.safe_files import file_lock, replace_text
from chatbridge.review.line_file import NOT_OURS, Row

FIELDS = ("question_id", "text", "answer_id")  # of every line
PEELED = ("###", "Assistant:", "Response:")  # words of a format that models repeat before an answer
LETTERS = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"  # 57 that cannot be confused, as shortuuid has
ID_LENGTH = 22


def answer_line(question_id: str | int, question: str, text: str, model_id: str, made_with: Mapping[str, Any]) -> Row:
    """A line in the released layout. Its id is made of the content, so a repeated command gives the same one."""
    digest = hashlib.sha256(json.dumps([made_with, str(question_id), text], default=str, sort_keys=True).encode())
    number, letters = int.from_bytes(digest.digest(), "big"), []
    for _ in range(ID_LENGTH):
        number, letter = divmod(number, len(LETTERS))
        letters.append(LETTERS[letter])
    return {
        "question_id": question_id,
        "prompt": question,
        "text": text,
        "answer_id": "".join(letters),
        "model_id": model_id,
        "metadata": {},
    }


def peeled(text: str, words: Sequence[str] = PEELED) -> str:
    """The answer without such words, in any order and number, at its beginning."""
    while True:
        text = text.strip()
        word = next((word for word in words if text.startswith(word)), None)
        if word is None:
            return text
        text = text[len(word) :]


class MadeWith:
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
