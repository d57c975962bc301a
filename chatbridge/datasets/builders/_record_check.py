"""What is wrong with one line of the `records` format, in a message that its author can act on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chatbridge.common.errors import nearest
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.datasets.formats.json_fields import answer_of, kind_of

ROLES = ("system", "user", "assistant")
HINT = "; `unanswered: keep` makes such records prompts, and `python -m chatbridge generate` answers them"
MOST_NAMED = 3  # drawings without an image, in one message


class Drawings:
    """The drawings of a file, collected while its lines are checked.

    count    drawings of all records
    undrawn  places of those without an image
    """

    def __init__(self) -> None:
        self.count = 0
        self.undrawn: list[str] = []

    def add(self, place: str, record: dict[str, Any]) -> None:
        """Count the drawings of a valid record at `place` of its file."""
        for number, message in enumerate(record["messages"]):
            parts = message["content"] if isinstance(message["content"], list) else ()
            for part in parts:
                if part["type"] == "drawing":
                    self.count += 1
                    if "path" not in part:
                        self.undrawn.append(f"{place}: message {number}")

    def fault(self, path: Path) -> str | None:
        """Why the file cannot be used for training; None when every drawing has its image."""
        if not self.undrawn:
            return None
        named = "; ".join(self.undrawn[:MOST_NAMED]) + ("; ..." if len(self.undrawn) > MOST_NAMED else "")
        return (
            f"{path}: {len(self.undrawn)} of {self.count} drawings have no image ({named}); training needs the image "
            "of every drawing"
        )


def record_fault(record: Any, modalities: set[str], keeps_questions: bool = False) -> str | None:
    """What is wrong with one line, or None; adds its modalities to `modalities`.

    keeps_questions   a record that ends with a question is a prompt
    """
    fault = _keys(record, ("messages",), ("id", "answers", "details")) or _types_fault(record)
    if fault is not None:
        return fault
    for number, message in enumerate(record["messages"]):
        fault = _message_fault(message, modalities)
        if fault is not None:
            return f"message {number}: {fault}"
    if keeps_questions and not has_answer(record):
        is_asked = any(message["role"] == "user" for message in record["messages"])
        return None if is_asked else "has no question: no turn of the user"
    if any(map(_is_supervised, record["messages"])):
        return None
    return f"nothing is supervised: no turn of the assistant has text{HINT}"


def has_answer(record: dict[str, Any]) -> bool:
    """Whether the last turn is an answer with text, which an evaluation asks for."""
    last = record["messages"][-1] if record["messages"] else None
    return last is not None and last["role"] == "assistant" and bool(_text(last))


def part_fields() -> dict[str, tuple[str, ...]]:
    """type of a part -> its fields, the required one first"""
    return {"text": ("text",), **dict.fromkeys(MODALITIES.names(), ("path",)), "drawing": ("caption", "path")}


def _types_fault(record: dict[str, Any]) -> str | None:
    if not isinstance(record.get("id", ""), (str, int)) or isinstance(record.get("id"), bool):
        return f"'id' is neither text nor a number but {kind_of(record['id'])}"
    answers = record.get("answers", [])
    if not isinstance(answers, list):
        return f"'answers' is not a list of texts or numbers but {kind_of(answers)}"
    for answer in answers:
        if answer_of(answer) is None:
            return f"'answers' is not a list of texts or numbers: it holds {kind_of(answer)}"
    if not isinstance(record.get("details", {}), dict):
        return f"'details' is {kind_of(record['details'])}, expected an object"
    if not isinstance(record["messages"], list):
        return f"'messages' is {kind_of(record['messages'])}, expected a list of turns"
    return None


def _message_fault(message: Any, modalities: set[str]) -> str | None:
    fault = _keys(message, ("role", "content"), ("supervised",))
    if fault is not None:
        return fault
    if message["role"] not in ROLES:
        return _not_one_of("role", message["role"], ROLES)
    if not isinstance(message.get("supervised"), (bool, type(None))):
        return "'supervised' is neither true nor false"
    if isinstance(message["content"], str):
        return None
    if not isinstance(message["content"], list):
        return f"'content' is {kind_of(message['content'])}, expected text or a list of parts"
    for number, part in enumerate(message["content"]):
        fault = _part_fault(part, message["role"], modalities)
        if fault is not None:
            return f"part {number}: {fault}"
    return None


def _part_fault(part: Any, role: str, modalities: set[str]) -> str | None:
    if not isinstance(part, dict) or "type" not in part:
        return f"expected an object with a 'type', got {kind_of(part)}"
    fields = part_fields()
    if part["type"] not in tuple(fields):
        return _not_one_of("type", part["type"], tuple(fields))
    is_drawing = part["type"] == "drawing"
    if is_drawing and role != "assistant":
        return "only the assistant draws"
    required, optional = fields[part["type"]][:1], fields[part["type"]][1:]
    fault = _keys(part, ("type", *required), optional)
    wrong = [name for name in (*required, *optional) if fault is None and not isinstance(part.get(name, ""), str)]
    if wrong:
        return f"{wrong[0]!r} is {kind_of(part[wrong[0]])}, expected text"
    fault = fault or (_drawing_fault(part) if is_drawing else None)
    if fault is None and (part["type"] in MODALITIES or (is_drawing and "path" in part)):
        modalities.add("image" if is_drawing else part["type"])
    return fault


def _drawing_fault(part: dict[str, str]) -> str | None:
    if not part["caption"].strip():
        return "'caption' is empty; give the text that the image is drawn from"
    if not part.get("path", "image").strip():
        return "'path' is empty; give the path of the image"
    return None


def _is_supervised(message: dict[str, Any]) -> bool:
    supervised = message.get("supervised")
    return bool(_text(message)) and (message["role"] == "assistant" if supervised is None else supervised)


def _text(message: dict[str, Any]) -> str:
    content = message["content"]
    parts = [content] if isinstance(content, str) else [part.get("text") or part.get("caption", "") for part in content]
    return "".join(parts).strip()


def _keys(value: Any, required: tuple[str, ...], optional: tuple[str, ...]) -> str | None:
    """An unknown key is reported first: it is often a required one misspelled."""
    if not isinstance(value, dict):
        return f"expected an object with fields, got {kind_of(value)}"
    known = (*required, *optional)
    for key in value:
        if key not in known:
            guess = nearest(key, known)
            hint = f"did you mean {guess!r}?" if guess else f"known: {', '.join(known)}"
            return f"the key {key!r} is not known; {hint}"
    absent = [key for key in required if key not in value]
    return f"has no {absent[0]!r}" if absent else None


def _not_one_of(key: str, value: Any, allowed: tuple[str, ...]) -> str:
    guess = nearest(value, allowed) if isinstance(value, str) else None
    meant = f"; did you mean {guess!r}?" if guess else ""
    return f"{key!r} cannot be {value!r}; allowed: {', '.join(allowed)}{meant}"
