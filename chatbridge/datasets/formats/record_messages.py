"""One line of the `records` format as messages, and messages as such a line.

A mistake in a line is a BadRecord with its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from chatbridge.common.errors import nearest
from chatbridge.conversation.messages import Conversation, Drawing, Media, Message, Part, Text
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.datasets.formats.json_fields import BadRecord, Fields, answer_of, kind_of

ROLES = ("system", "user", "assistant")
PathOf = Callable[[str], Path]  # the file of a path in the line


def read_messages(fields: Fields, path_of: PathOf) -> Conversation:
    """The messages of a line, all of whose fields are checked. raises BadRecord"""
    _check_keys(fields.record, ("messages",), ("id", "answers", "details", "options"))
    name = fields.record.get("id", "")
    if isinstance(name, bool) or not isinstance(name, (str, int)):
        raise BadRecord(f"'id' is neither text nor a number but {kind_of(name)}")
    read_answers(fields.record)
    if not isinstance(details := fields.record.get("details", {}), dict):
        raise BadRecord(f"'details' is {kind_of(details)}, expected an object")
    if not isinstance(options := fields.record.get("options", {}), dict):
        raise BadRecord(f"'options' is {kind_of(options)}, expected an object of generation settings")
    if not isinstance(messages := fields.record["messages"], list):
        raise BadRecord(f"'messages' is {kind_of(messages)}, expected a list of turns")
    return tuple(_inside("message", number, _message, one, path_of) for number, one in enumerate(messages))


def written_messages(messages: Conversation, name_of: Callable[[Media], str]) -> list[dict[str, Any]]:
    """The `messages` of a line; `read_messages` gives the same messages back.

    name_of   the path that the line has for a media item
    """
    return [
        {"role": one.role, "content": _content(one, name_of)}
        | ({} if one.supervised is None else {"supervised": one.supervised})
        for one in messages
    ]


def _content(message: Message, name_of: Callable[[Media], str]) -> str | list[dict[str, Any]]:
    if len(message.parts) == 1 and isinstance(message.parts[0], Text):
        return message.parts[0].text
    return [_written_part(part, name_of) for part in message.parts]


def _written_part(part: Part, name_of: Callable[[Media], str]) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    if isinstance(part, Media):
        return {"type": part.modality, "path": name_of(part)}
    path = {} if part.image is None else {"path": name_of(part.image)}
    return {"type": "drawing", "caption": part.caption, **path}


def read_answers(record: dict[str, Any]) -> tuple[str, ...]:
    """The correct answers of a line, () without any. raises BadRecord"""
    expected = "'answers' is not a list of texts or numbers"
    if not isinstance(answers := record.get("answers", []), list):
        raise BadRecord(f"{expected} but {kind_of(answers)}")
    texts = [answer_of(answer) for answer in answers]
    if None in texts:
        raise BadRecord(f"{expected}: it holds {kind_of(answers[texts.index(None)])}")
    return tuple(text for text in texts if text is not None)


def _message(value: Any, path_of: PathOf) -> Message:
    _check_keys(value, ("role", "content"), ("supervised", "plain"))
    role, content, supervised = value["role"], value["content"], value.get("supervised")
    if not isinstance(value.get("plain"), (bool, type(None))):
        raise BadRecord("'plain' is neither true nor false")
    if role not in ROLES:
        raise _not_one_of("role", role, ROLES)
    if not isinstance(supervised, (bool, type(None))):
        raise BadRecord("'supervised' is neither true nor false")
    if isinstance(content, str):
        return Message(role, (Text(content),), supervised)
    if not isinstance(content, list):
        raise BadRecord(f"'content' is {kind_of(content)}, expected text or a list of parts")
    parts = tuple(_inside("part", number, _part, one, role, path_of) for number, one in enumerate(content))
    return Message(role, parts, supervised)


def _part(value: Any, role: str, path_of: PathOf) -> Part:
    if not isinstance(value, dict) or "type" not in value:
        raise BadRecord(f"expected an object with a 'type', got {kind_of(value)}")
    kind, kinds = value["type"], ("text", *MODALITIES.names(), "drawing")
    if kind not in kinds:
        raise _not_one_of("type", kind, kinds)
    if kind == "drawing":
        return _drawing(value, role, path_of)
    field = "text" if kind == "text" else "path"
    _check_keys(value, ("type", field))
    text = Fields(value).text(field)
    return Text(text) if kind == "text" else Media(kind, path_of(text))


def _drawing(value: dict[str, Any], role: str, path_of: PathOf) -> Drawing:
    if role != "assistant":
        raise BadRecord("only the assistant draws")
    _check_keys(value, ("type", "caption"), ("path",))
    fields = Fields(value)
    caption, path = fields.text("caption"), fields.text("path") if "path" in value else None
    if not caption.strip():
        raise BadRecord("'caption' is empty; give the text that the image is drawn from")
    if path is not None and not path.strip():
        raise BadRecord("'path' is empty; give the path of the image")
    return Drawing(caption, None if path is None else path_of(path))


def _inside(what: str, number: int, read: Callable[..., Any], *given: Any) -> Any:
    """The result of `read`; its BadRecord names the message or part."""
    try:
        return read(*given)
    except BadRecord as error:
        raise BadRecord(f"{what} {number}: {error}") from None


def _check_keys(value: Any, required: Sequence[str], optional: Sequence[str] = ()) -> None:
    """raises BadRecord, for an unknown key first: it is often a required one misspelled"""
    if not isinstance(value, dict):
        raise BadRecord(f"expected an object with fields, got {kind_of(value)}")
    known = (*required, *optional)
    for key in value:
        if key not in known:
            guess = nearest(key, known)
            hint = f"did you mean {guess!r}?" if guess else f"known: {', '.join(known)}"
            raise BadRecord(f"the key {key!r} is not known; {hint}")
    for key in required:
        if key not in value:
            raise BadRecord(f"has no {key!r}")


def _not_one_of(key: str, value: Any, allowed: Sequence[str]) -> BadRecord:
    guess = nearest(value, allowed) if isinstance(value, str) else None
    meant = f"; did you mean {guess!r}?" if guess else ""
    return BadRecord(f"{key!r} cannot be {value!r}; allowed: {', '.join(allowed)}{meant}")
