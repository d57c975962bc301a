"""From the messages of a request to a conversation: media are fetched and decoded here, in a thread of the request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from chatbridge.common.errors import MediaError
from chatbridge.conversation.messages import Conversation, Drawing, Media, Message, Part, Text
from chatbridge.conversation.question_form import QuestionForm
from chatbridge.serve.backend import Backend
from chatbridge.serve.media_sources import MediaSources
from chatbridge.serve.openai_api.api_errors import ApiError
from chatbridge.serve.openai_api.messages import ApiMessage, MediaPart
from chatbridge.serve.session import check_size


class Stopped(Exception):
    """The request was given up while its media were read."""


def conversation_of(
    messages: Sequence[ApiMessage], backend: Backend, sources: MediaSources, is_stopped: Callable[[], bool]
) -> tuple[Conversation, tuple[str, ...]]:
    """The conversation with decoded media, and notes for the user about them.

    raises   MediaError with the place of a part that cannot be read, NoAnswer beyond the limits of a conversation,
             Stopped
    """
    notes: list[str] = []
    made: list[Message] = []
    with sources.request(is_stopped) as files:
        for message in messages:
            parts: list[Part] = []
            for part in message.parts:
                if is_stopped():
                    raise Stopped
                parts += [part] if isinstance(part, Text) else _read(part, backend, files, notes)
            made.append(_in_form(Message(message.role, tuple(parts)), backend.question_form))
    conversation = tuple(made)
    check_size(conversation, backend.limits)
    return conversation, tuple(dict.fromkeys(notes))


def _read(part: MediaPart, backend: Backend, files: Any, notes: list[str]) -> list[Part]:
    """A media item as parts: a video brings its audio track if the model processes audio."""
    if part.modality not in backend.modalities and not (part.modality == "video" and "audio" in backend.modalities):
        accepted = ", ".join(backend.modalities) or "text only"
        text = f"{part.where}: this model cannot process {part.modality}; it accepts {accepted}"
        raise ApiError(400, text, part.where, "unsupported_modality")
    try:
        file = files.decode(part.data, part.format) if part.url is None else files.fetch(part.url, part.modality)
        attached = backend.attach(file.path, None if part.modality == "video" else part.modality)
    except MediaError as error:
        status, code = getattr(error, "status", 400), getattr(error, "code", "invalid_media")
        raise ApiError(status, f"{part.where}: {error}", part.where, code) from error
    found = attached.media[0].modality
    if found != part.modality and not (found == "audio" and "video" not in backend.modalities):  # its track alone
        text = f"{part.where}: the content is {found}, not {part.modality}; send it as {found}_url"
        raise ApiError(415, text, part.where, "media_type_mismatch")
    notes += [f"{part.where}: {attached.note}"] if attached.note else []
    if part.caption is not None:
        return [Drawing(part.caption, attached.media[0].ref)]
    return list(attached.media)


def _in_form(message: Message, form: QuestionForm) -> Message:
    """A question of media and one text, in either order, as the model was trained to read it; others as written.

    Numbers in brackets stay text: parts of a message show the places of its media.
    """
    texts = [part.text for part in message.parts if isinstance(part, Text)]
    media = [part for part in message.parts if isinstance(part, Media)]
    edges = (message.parts[0], message.parts[-1])
    if message.role != "user" or not media or len(texts) != 1 or not any(isinstance(edge, Text) for edge in edges):
        return message
    return replace(form, numbered=False).message(media, texts[0])


__all__ = ["Stopped", "conversation_of"]
