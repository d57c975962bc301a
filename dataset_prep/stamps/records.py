"""Lines of the format `records` (docs/your_own_data.md)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from chatbridge.common.safe_files import replace_text

Record = dict[str, Any]


def image(path: Path) -> Record:
    return {"type": "image", "path": str(path)}


def audio(path: Path) -> Record:
    return {"type": "audio", "path": str(path)}


def text(words: str) -> Record:
    return {"type": "text", "text": words}


def record(
    name: str, asked: Sequence[Record], answer: str, *, answers: Sequence[str] = (), details: Record | None = None
) -> Record:
    """One question with its answer."""
    return conversation(name, [(asked, answer)], answers=answers, details=details)


def conversation(
    name: str,
    turns: Sequence[tuple[Sequence[Record], str]],
    *,
    answers: Sequence[str] = (),
    details: Record | None = None,
) -> Record:
    """A conversation of turns (parts of the user, answer)."""
    messages: list[Record] = []
    for asked, answer in turns:
        messages += [{"role": "user", "content": list(asked)}, {"role": "assistant", "content": answer}]
    made: Record = {"id": name, "messages": messages}
    if answers:
        made["answers"] = list(answers)
    if details:
        made["details"] = details
    return made


def write(path: Path, records: Iterable[Record]) -> int:
    """Write the file atomically; returns the number of lines."""
    lines = [json.dumps(one, ensure_ascii=False) + "\n" for one in records]
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, "".join(lines))
    return len(lines)
