"""The released line of an answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from chatbridge.review.json_lines_file import Row

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
