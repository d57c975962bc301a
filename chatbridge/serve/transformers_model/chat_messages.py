"""Messages as transformers' processors take them, as typed conversations of ChatBridge.

A message is {"role": "system" | "user" | "assistant", "content": text or a list of parts}; a part {"type": "text",
"text": ...} or {"type": "image", ...} with its content under "image", "path", "url", "base64" or "data".
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chatbridge.conversation.messages import Conversation, Media, Message, Part, Text
from chatbridge.serve.message_inputs import is_pil, parts_of

ROLES = ("system", "user", "assistant")
CONTENT = ("path", "url", "data", "base64")  # keys of a part, beside its own type
TEXTS = ("text", "input_text", "output_text")


def is_batch(messages: Any) -> bool:
    """Whether these are several conversations: a list of lists of messages."""
    return bool(messages) and isinstance(messages, (list, tuple)) and isinstance(messages[0], (list, tuple))


def conversation_of(messages: Sequence[Any], processors: Mapping[str, Any]) -> Conversation:
    """A typed conversation; nothing is decoded yet but what is in memory.

    processors   modality -> processor of the modalities that the model reads
    raises       ValueError for a role, a type of part or a content that is not known, or messages without one
    """
    if not isinstance(messages, (list, tuple)) or not messages:
        raise ValueError("a conversation is a list of messages {'role': ..., 'content': ...}, and has at least one")
    return tuple(_message(number, message, processors) for number, message in enumerate(messages))


def _message(number: int, message: Any, processors: Mapping[str, Any]) -> Message:
    if not isinstance(message, Mapping) or message.get("role") not in ROLES:
        found = message.get("role") if isinstance(message, Mapping) else type(message).__name__
        raise ValueError(f"message {number}: the role is one of {', '.join(ROLES)}; found {found!r}")
    content = message.get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, (list, tuple)):
        raise ValueError(f"message {number}: the content is text or a list of parts; found {type(content).__name__}")
    try:
        made = tuple(one for part in parts for one in _part(part, processors))
    except (ValueError, TypeError) as error:
        raise ValueError(f"message {number}: {error}") from None
    return Message(message["role"], made)


def _part(part: Any, processors: Mapping[str, Any]) -> tuple[Part, ...]:
    if isinstance(part, str):
        return (Text(part),)
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in TEXTS and isinstance(part.get("text"), str):
        return (Text(part["text"]),)
    modality = str(kind).removesuffix("_url").removeprefix("input_")
    if kind is None or modality not in processors:
        accepted = ", ".join(("text", *processors))
        raise ValueError(f"a part has the type {kind!r}, this model takes {accepted}")
    return _media(modality, _content(part, modality, str(kind)), part, processors)


def _content(part: Mapping[str, Any], modality: str, kind: str) -> Any:
    for key in (modality, kind, *CONTENT):
        value = part.get(key)
        if isinstance(value, Mapping) and "url" in value:  # {"image_url": {"url": ...}}
            value = value["url"]
        if value is not None:
            return _decoded(value) if key == "base64" else value
    raise ValueError(f"a part of type {kind!r} has no content; give it under {modality!r} or 'path'")


def _media(modality: str, value: Any, part: Mapping[str, Any], processors: Mapping[str, Any]) -> tuple[Part, ...]:
    if isinstance(value, (bytes, bytearray)):
        return (Media(modality, bytes(value)),)
    if isinstance(value, Path):
        return (Media(modality, value),)
    if isinstance(value, str):
        return (Media(modality, _file(value)),)
    if modality == "video" and isinstance(value, (list, tuple)) and value and all(map(is_pil, value)):
        value = np.stack([np.asarray(frame.convert("RGB")) for frame in value])
    if modality == "audio" and not isinstance(value, (tuple, Mapping)):
        rate = part.get("sampling_rate") or getattr(processors["audio"], "rate_hz", 16000)
        value = (np.asarray(value), rate)
    made = parts_of(value, lambda path: (Media(modality, path),), processors)
    if not all(isinstance(one, Media) and one.modality == modality for one in made):
        found = ", ".join(one.modality if isinstance(one, Media) else "text" for one in made)
        raise ValueError(f"the content of a part of type {modality!r} is {found}")
    return made


def _file(value: str) -> Path | bytes:
    """A path, or the bytes of a data URL. raises ValueError for an address of the network, which is not opened"""
    if value.startswith("data:"):
        return _decoded(value.partition(",")[2])
    if value.startswith(("http://", "https://")):
        raise ValueError(f"{value}: addresses are not opened; download the file and give its path")
    return Path(value.removeprefix("file://"))


def _decoded(value: Any) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise ValueError(f"the content is not base64 ({error})") from None


__all__ = ["conversation_of", "is_batch"]
