"""A line of `records` as the turns of a chat that continues from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from chatbridge.common.errors import MediaError
from chatbridge.conversation.messages import Conversation, Drawing, Media, Message, Part
from chatbridge.datasets.formats.json_fields import BadRecord, Fields
from chatbridge.datasets.formats.record_messages import read_messages
from chatbridge.datasets.media_paths import media_path
from chatbridge.serve.engine import ChatEngine
from chatbridge.serve.saved_conversations.session_record import KEY
from chatbridge.serve.session import STOPPED, ChatTurn, Session
from chatbridge.serve.uploads.upload_parts import Attachment


class LoadError(ValueError):
    """A conversation that cannot be loaded; str() is the message for the user."""


@dataclass(frozen=True)
class Loaded:
    """notes   for the user"""

    id: str
    session: Session
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class MediaPlace:
    """Where the paths of a line lead.

    is_confined  only files below the root are opened, also by way of a link
    has_media    False for a file alone that somebody else gives: its media are not here
    """

    root: Path
    is_confined: bool = False
    has_media: bool = True

    def path(self, name: str) -> Path:
        """raises MediaError"""
        if not self.has_media:
            raise MediaError(f"{name}: the file names media that are not in it; load the .zip of the conversation")
        path = media_path(self.root, name)
        if self.is_confined and not path.resolve().is_relative_to(self.root.resolve()):
            raise MediaError(f"{name}: is not within the saved conversation")
        if not path.exists():
            raise MediaError(f"{name}: there is no such file in {self.root}")
        return path


def session_of_record(engine: ChatEngine, record: Mapping[str, Any], place: MediaPlace, name: str) -> Loaded:
    """The turns of a line, their files read.

    name     of a conversation without an id
    raises   LoadError with every problem of the line
    """
    try:
        messages = read_messages(Fields(record), Path)
    except (BadRecord, MediaError) as error:
        raise LoadError(f"the conversation cannot be used: {error}") from None
    reader = _Reader(engine, place)
    groups = _rounds(messages)
    turns = [reader.turn(number, *one) for number, one in enumerate(groups, start=1)]
    if reader.problems:
        raise LoadError("\n".join(["the conversation cannot be loaded:", *(f"  {one}" for one in reader.problems)]))
    details = record.get("details", {}).get(KEY)
    turns = [_with_details(turn, one) for turn, one in zip(turns, _about_turns(details, len(turns)), strict=True)]
    is_open = bool(turns) and not turns[-1].is_done
    notes = ("its last question has no answer; asking it again answers it",) if is_open else ()
    return Loaded(str(record.get("id", name)), tuple(turns), notes)


def _rounds(messages: Conversation) -> list[tuple[tuple[Message, ...], Message, Message | None]]:
    """(system messages, question, answer) of each turn. raises LoadError where a chat could not be so"""
    found: list[tuple[tuple[Message, ...], Message, Message | None]] = []
    before: tuple[Message, ...] = ()
    for number, message in enumerate(messages):
        if message.role == "system":
            if message.media:
                raise LoadError(f"message {number}: a system message of a chat has no files")
            before += (message,)
        elif message.role == "user":
            if found and found[-1][2] is None:
                raise LoadError(f"message {number}: a question follows a question; a chat has an answer in between")
            found.append((before, message, None))
            before = ()
        elif not found or found[-1][2] is not None or before:
            raise LoadError(f"message {number}: an answer that does not follow a question; a chat has none")
        else:
            found[-1] = (*found[-1][:2], message)
    if not found:
        raise LoadError("the conversation has no question")
    if before:
        raise LoadError("the conversation ends with a system message, after its last question")
    return found


class _Reader:
    """Reads the files of turns and collects what is wrong with them."""

    def __init__(self, engine: ChatEngine, place: MediaPlace) -> None:
        self.engine, self.place = engine, place
        self.problems: list[str] = []

    def turn(self, number: int, before: tuple[Message, ...], asked: Message, answer: Message | None) -> ChatTurn:
        attached = self._attached(number, asked.media)
        media = [item for one in attached for item in one.media]
        text, written = _text_of(asked), None
        form = self.engine.question_form
        if len(media) == len(asked.media):
            left = iter(media)
            parts = tuple(next(left) if isinstance(part, Media) else part for part in asked.parts)
            if form.message(media, text).parts != parts:
                written = Message("user", parts)
        turn = ChatTurn(text, attached, form=form, written=written, before=before)
        if answer is None:
            return turn
        parts = tuple(self._answer_part(number, part) for part in answer.parts)
        reply = Message("assistant", parts)
        return replace(turn, answer=reply.text, parts=parts, is_done=True)

    def _attached(self, number: int, items: Sequence[Media]) -> tuple[Attachment, ...]:
        """The files of a question; the track of a video that follows it joins it."""
        found: list[Attachment] = []
        at = 0
        while at < len(items):
            item, following = items[at], items[at + 1] if at + 1 < len(items) else None
            is_pair = item.modality == "video" and following == Media("audio", item.ref)
            found += self._attach(number, item, is_pair)
            at += 2 if is_pair else 1
        return tuple(found)

    def _attach(self, number: int, item: Media, with_track: bool) -> list[Attachment]:
        try:
            path = self.place.path(str(item.ref))
            one = self.engine.attach(path, item.modality)
            if not with_track:
                return [replace(one, note="")]
            track = self.engine.attach(path, "audio")
            return [replace(one, media=(*one.media, *track.media), note="")]
        except MediaError as error:
            self.problems.append(f"question {number}: {error}")
            return []

    def _answer_part(self, number: int, part: Part) -> Part:
        if isinstance(part, Drawing) and not self.engine.layout.template.can_draw:
            self.problems.append(f"answer {number}: has a drawing, which the chat template of this model cannot write")
            return part
        if not isinstance(part, (Drawing, Media)) or part.ref is None:
            return part
        try:
            path = self.place.path(str(part.ref))
            image = self.engine.reader.pixels(path)
        except MediaError as error:
            self.problems.append(f"answer {number}: {error}")
            return part
        if isinstance(part, Media):
            self.problems.append(f"answer {number}: has a {part.modality}; a chat has drawings only")
            return part
        return replace(part, ref=image)


def _text_of(asked: Message) -> str:
    """The text that the question is shown with."""
    return asked.text.strip()


def _about_turns(details: Any, count: int) -> list[Mapping[str, Any]]:
    """What a saved chat has about its turns; {} for lines of another origin."""
    turns = details.get("turns") if isinstance(details, Mapping) else None
    is_ours = isinstance(turns, list) and len(turns) == count and all(isinstance(one, Mapping) for one in turns)
    return list(turns) if is_ours and turns is not None else [{}] * count


def _with_details(turn: ChatTurn, about: Mapping[str, Any]) -> ChatTurn:
    notes, tokens = about.get("notes", ()), about.get("tokens", 0)
    notes = tuple(one for one in notes if isinstance(one, str)) if isinstance(notes, list) else ()
    is_cut = about.get("is_complete") is False and STOPPED not in notes
    is_number = isinstance(tokens, int) and not isinstance(tokens, bool)
    return replace(turn, notes=notes, is_cut=is_cut and turn.is_done, num_tokens=tokens if is_number else 0)


__all__ = ["LoadError", "Loaded", "MediaPlace", "session_of_record"]
