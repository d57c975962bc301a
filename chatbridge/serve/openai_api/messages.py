"""The messages of a request as roles with text and addresses of media; nothing is read here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from chatbridge.common.errors import nearest
from chatbridge.conversation.messages import Role, Text
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.serve.openai_api.api_errors import Fault
from chatbridge.serve.openai_api.json_body import shown

ROLES: dict[str, Role] = {**{one: one for one in get_args(Role)}, "developer": "system"}
UNUSED = ("refusal", "audio", "tool_calls", "function_call", "annotations", "images", "notes", "reasoning", "name")
DETAILS = ("auto", "low", "high", "original")  # of image_url: the encoder has one resolution, so all mean the same


@dataclass(frozen=True)
class MediaPart:
    """A media item of a message, not read yet.

    where    its place in the request, for messages: messages.0.content.1
    url      data:, file:// or http(s) address; None: `data` in base64 with its `format`
    caption  of an image that the assistant drew
    """

    where: str
    modality: str
    url: str | None = None
    data: str = ""
    format: str = ""
    caption: str | None = None


@dataclass(frozen=True)
class ApiMessage:
    """A message with its parts in the order of the request."""

    role: Role
    parts: tuple[Text | MediaPart, ...]


class _Invalid(Exception):
    def __init__(self, where: str, message: str, code: str | None = None):
        super().__init__(message)
        self.fault = Fault(where, message, code)


def messages_of(found: Sequence[Any], most: int) -> tuple[tuple[ApiMessage, ...], list[Fault]]:
    """The messages, and everything that is wrong with them.

    most   messages of a request
    """
    if not found:
        return (), [Fault("messages", "is empty; it needs at least one message of the user")]
    if len(found) > most:
        return (), [Fault("messages", f"has {len(found)} messages, more than the {most} that this server accepts")]
    messages, faults = [], []
    for at, one in enumerate(found):
        try:
            messages.append(_message(one, f"messages.{at}"))
        except _Invalid as error:
            faults.append(error.fault)
    return tuple(messages), faults


def _message(found: Any, where: str) -> ApiMessage:
    if not isinstance(found, dict):
        raise _Invalid(where, f"expected an object with role and content, got {shown(found)}")
    role = found.get("role")
    if not isinstance(role, str) or role not in ROLES:
        hint = "; this server has no tools" if role in ("tool", "function") else ""
        raise _Invalid(f"{where}.role", f"expected one of {', '.join(ROLES)}, got {shown(role)}{hint}")
    for name, value in found.items():
        if name in ("role", "content") or (name in UNUSED and value in (None, "", [], {})):
            continue
        if role == "assistant" and name in ("images", "notes"):  # of an earlier answer; content has its images
            continue
        if name in UNUSED:
            raise _Invalid(f"{where}.{name}", "is not supported by this server; leave it out", "unsupported_parameter")
        meant = nearest(name, ("role", "content"))
        advice = f"did you mean {meant}?" if meant else "a message has role and content"
        raise _Invalid(f"{where}.{name[:100]}", f"is not a part of a message; {advice}", "unknown_parameter")
    return ApiMessage(ROLES[role], tuple(_parts(found.get("content"), f"{where}.content", role == "assistant")))


def _parts(content: Any, where: str, is_answer: bool) -> Iterator[Text | MediaPart]:
    if isinstance(content, str):
        yield Text(content)
        return
    if not isinstance(content, list) or not content:
        raise _Invalid(where, f"expected a string, or a list of parts, got {shown(content)}")
    for at, part in enumerate(content):
        yield _part(part, f"{where}.{at}", is_answer)


def _part(part: Any, where: str, is_answer: bool) -> Text | MediaPart:
    if not isinstance(part, dict):
        raise _Invalid(where, f"expected an object with a type, got {shown(part)}")
    kind = part.get("type")
    if kind == "text":
        return Text(_string(part, "text", where))
    if kind == "input_audio":
        inner = _object(part, kind, where)
        data, format = _string(inner, "data", f"{where}.{kind}"), _string(inner, "format", f"{where}.{kind}")
        return MediaPart(where, "audio", data=data, format=format)
    kinds = {f"{one.name}_url": one.name for one in MODALITIES}
    if not isinstance(kind, str) or kind not in kinds:
        accepted = ["text", "input_audio", *kinds]
        meant = nearest(kind, accepted) if isinstance(kind, str) else None
        hint = f"; did you mean {meant}?" if meant else ""
        raise _Invalid(f"{where}.type", f"expected one of {', '.join(accepted)}, got {shown(kind)}{hint}")
    url, caption = _url(part, kind, where), part.get("caption")
    if caption is not None and (not isinstance(caption, str) or not is_answer or kind != "image_url"):
        raise _Invalid(f"{where}.caption", "belongs to images that the assistant drew, as a string; leave it out")
    return MediaPart(where, kinds[kind], url, caption=caption)


def _url(part: dict[str, Any], kind: str, where: str) -> str:
    if isinstance(part.get(kind), str):
        return part[kind]
    inner = _object(part, kind, where)
    detail = inner.get("detail")
    if detail is not None and detail not in DETAILS:
        raise _Invalid(f"{where}.{kind}.detail", f"expected one of {', '.join(DETAILS)}, got {shown(detail)}")
    return _string(inner, "url", f"{where}.{kind}")


def _object(part: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    if not isinstance(part.get(name), dict):
        raise _Invalid(f"{where}.{name}", f"expected an object, got {shown(part.get(name))}")
    return part[name]


def _string(found: dict[str, Any], name: str, where: str) -> str:
    if not isinstance(found.get(name), str):
        raise _Invalid(f"{where}.{name}", f"expected a string, got {shown(found.get(name))}")
    return found[name]


__all__ = ["ApiMessage", "MediaPart", "messages_of"]
