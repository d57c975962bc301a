"""From an uploaded file to typed parts of a message: what it is, whether it can be read, whether it has audio.

Each file is decoded once: the parts hold what the encoders take. This runs in a process of its own, see `reader`.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chatbridge.common.errors import MediaError
from chatbridge.common.extras import need
from chatbridge.conversation.messages import Media
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.processors.animated_image import is_image_file
from chatbridge.processors.container_file import open_container
from chatbridge.processors.image_file import is_image, num_frames
from chatbridge.processors.media_source import Processor, check_source

MOST_EXAMPLES = 3  # endings per modality in a message


@dataclass(frozen=True, eq=False)
class Decoded:
    """A media item as its encoder takes it; processors do not read it again."""

    tensor: Tensor

    def __reduce__(self) -> tuple[Any, ...]:
        """Between processes as an array, inside the message: a tensor would take a file descriptor and a handshake."""
        return _restored, (self.tensor.numpy(),)


def decoded(tensor: Tensor) -> Decoded:
    return Decoded(tensor.detach().cpu().contiguous())


def _restored(array: np.ndarray) -> Decoded:
    return Decoded(torch.from_numpy(np.array(array)))


@dataclass(frozen=True)
class Attachment:
    """A file of a user's turn.

    media   the parts it becomes, decoded: a video with an audio track is a video followed by audio
    note    what the person should know about it, "" for nothing
    """

    path: Path
    media: tuple[Media, ...]
    note: str = ""

    @property
    def kind(self) -> str:
        """For people: image, audio, video, video with its audio, depth map."""
        return " with its ".join(MODALITIES.noun(item.modality) for item in self.media)


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
        if kind == "image":
            return _image(path, processors)
        return Attachment(path, (_readable(path, kind, processors),))
    except MediaError as error:
        raise MediaError(str(error).replace(str(path), path.name)) from error


def kind_of(path: Path) -> str:
    """The modality of a file: by its ending; for image, video and audio by what it holds where the name misleads (a
    .webm or .mp4 may hold audio alone)."""
    named = MODALITIES.of_file(path.name)
    if named is not None and named.mime is None:
        return named.name
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


def _image(path: Path, processors: Mapping[str, Processor]) -> Attachment:
    """An image; an animation is a video where the model takes videos, else its first frame, and the note says so."""
    count = _num_frames(path)
    if count < 2:
        return Attachment(path, (_readable(path, "image", processors),))
    if "video" in processors and is_image_file(path):
        note = f"{path.name} is an animation of {count} frames, so it is read as a video"
        return Attachment(path, (_readable(path, "video", processors),), note)
    note = f"{path.name} holds {count} frames or pages; the model sees the first one only"
    return Attachment(path, (_readable(path, "image", processors),), note)


def _num_frames(path: Path) -> int:
    """1 also for what cannot be read: its processor says why."""
    try:
        return num_frames(path)
    except MediaError:
        return 1


def _video(path: Path, processors: Mapping[str, Processor]) -> Attachment:
    """A video, followed by its own audio where it has any and the model takes audio. Silence is never invented."""
    if "video" not in processors and "audio" in processors:
        sound = _readable(path, "audio", processors)
        return Attachment(path, (sound,), f"{path.name}: this model cannot process video; only its audio track is used")
    video = _readable(path, "video", processors)
    if "audio" not in processors:
        return Attachment(path, (video,))
    if find_spec("av") is None:
        return Attachment(
            path, (video,), f"{path.name}: its audio track was not looked for, the package 'av' is missing"
        )
    if "audio" not in _streams(path):
        return Attachment(path, (video,), f"{path.name} has no audio track, so it is shown as a video alone")
    try:
        return Attachment(path, (video, _readable(path, "audio", processors)))
    except MediaError as error:
        reason = str(error).removeprefix(f"{path}: ")
        return Attachment(
            path, (video,), f"the audio track of {path.name} cannot be read, so it is shown alone ({reason})"
        )


def _readable(path: Path, kind: str, processors: Mapping[str, Processor]) -> Media:
    if kind not in processors:
        raise MediaError(f"{path.name}: this model takes no {kind}; it takes {_listed(processors)}")
    try:
        return Media(kind, decoded(processors[kind](path, None)))
    except MediaError as error:
        if not _says_what(path):
            raise MediaError(f"{path.name} is no file this model can take; it takes {_listed(processors)}") from error
        raise


def _says_what(path: Path) -> bool:
    """Whether the name of a file says which modality it is."""
    return MODALITIES.of_file(path.name) is not None or any(one.mime == _type(path) for one in MODALITIES if one.mime)


def _listed(kinds: Iterable[str]) -> str:
    """ "image (jpg, png, webp ...), depth (npy, depth.png)" """
    return ", ".join(_with_examples(kind) for kind in kinds)


def _with_examples(kind: str) -> str:
    endings = MODALITIES.get(kind).endings.upload if kind in MODALITIES else ()
    more = " ..." if len(endings) > MOST_EXAMPLES else ""
    return f"{kind} ({', '.join(endings[:MOST_EXAMPLES])}{more})" if endings else kind


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
