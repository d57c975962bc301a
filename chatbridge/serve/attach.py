"""From an uploaded file to typed parts of a message: what it is, whether it can be read, whether it has a sound."""

from __future__ import annotations

import mimetypes
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from chatbridge.common.errors import MediaError
from chatbridge.common.extras import need
from chatbridge.conversation.messages import Media
from chatbridge.processors.container_file import open_container
from chatbridge.processors.image_file import is_image
from chatbridge.processors.source import Processor, check_source

KINDS = ("image", "video", "audio")
TYPES = {"image": "jpg, png, webp", "video": "mp4, webm, mov", "audio": "wav, mp3, flac"}  # examples for messages


@dataclass(frozen=True)
class Attachment:
    """A file of a user's turn.

    media   the parts it becomes: a video with a sound track is a video followed by a sound
    note    what the person should know about it, "" for nothing
    """

    path: Path
    media: tuple[Media, ...]
    note: str = ""

    @property
    def kind(self) -> str:
        """For people: image, sound, video, video with its sound."""
        words = {"audio": "sound"}
        return " with its ".join(words.get(item.modality, item.modality) for item in self.media)


def attach(path: str | Path, processors: Mapping[str, Processor]) -> Attachment:
    """The parts that a file becomes for a model with these processors.

    raises   MediaError when it cannot be read, or the model has no way for what it holds
    """
    path = Path(path)
    try:
        check_source(path)
        kind = kind_of(path)
        if kind == "video":
            return _video(path, processors)
        return Attachment(path, (_readable(path, kind, processors),))
    except MediaError as error:
        raise MediaError(str(error).replace(str(path), path.name)) from error


def kind_of(path: Path) -> str:
    """image, video or audio: by what the file holds where its name misleads (a .webm or .mp4 may hold sound alone)."""
    guess = _type(path)
    if guess in ("image", "audio"):
        return guess
    if guess == "video":
        return "audio" if _streams(path) == {"audio"} else "video"
    if is_image(path):  # first: PyAV takes a picture for a video of one frame
        return "image"
    return next((kind for kind in ("video", "audio") if kind in _streams(path)), "image")


def _type(path: Path) -> str:
    """What the name says: image, video, audio, text ...; "" for nothing."""
    return (mimetypes.guess_type(path.name)[0] or "").partition("/")[0]


def _video(path: Path, processors: Mapping[str, Processor]) -> Attachment:
    """A video, followed by its own sound where it has one and the model can hear. Silence is never invented."""
    if "video" not in processors and "audio" in processors:
        sound = _readable(path, "audio", processors)
        return Attachment(path, (sound,), f"{path.name}: this model has no way for videos, it takes the sound alone")
    video = _readable(path, "video", processors)
    if "audio" not in processors:
        return Attachment(path, (video,))
    if find_spec("av") is None:
        return Attachment(path, (video,), f"{path.name}: its sound was not looked for, the package 'av' is missing")
    if "audio" not in _streams(path):
        return Attachment(path, (video,), f"{path.name} has no sound, so it is shown as a video alone")
    try:
        return Attachment(path, (video, _readable(path, "audio", processors)))
    except MediaError as error:
        reason = str(error).removeprefix(f"{path}: ")
        return Attachment(path, (video,), f"the sound of {path.name} cannot be read, so it is shown alone ({reason})")


def _readable(path: Path, kind: str, processors: Mapping[str, Processor]) -> Media:
    if kind not in processors:
        raise MediaError(f"{path.name}: this model takes no {kind}; it takes {_listed(processors)}")
    try:
        processors[kind](path, None)
    except MediaError as error:
        if _type(path) not in KINDS:
            raise MediaError(f"{path.name} is no file this model can take; it takes {_listed(processors)}") from error
        raise
    return Media(kind, path)


def _listed(kinds: Iterable[str]) -> str:
    return ", ".join(f"{kind} ({TYPES[kind]} ...)" if kind in TYPES else kind for kind in kinds)


def _streams(path: Path) -> set[str]:
    """Kinds of streams in a container; empty when it is none, or PyAV is not there to ask. A cover is no video."""
    if find_spec("av") is None:
        return set()
    av: Any = need("av", "looking into videos")
    try:
        with open_container(path) as container:
            cover = av.stream.Disposition.attached_pic
            return {stream.type for stream in container.streams if not stream.disposition & cover}
    except (av.FFmpegError, OSError, ValueError):
        return set()
