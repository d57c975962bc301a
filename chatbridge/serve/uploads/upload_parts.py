"""Turns an uploaded file into typed parts of a message: its modality, its decoded content, its audio track.

Each file is decoded once: the parts hold the inputs of the encoders. This runs in a separate process, see
`upload_reader`.
"""

from __future__ import annotations

import hashlib
import mimetypes
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
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
from chatbridge.processors.media_processor import Processor
from chatbridge.processors.media_source import check_source

MAX_ENDINGS = 3  # per modality in a message


@dataclass(frozen=True, eq=False)
class DecodedMedia:
    """A media item as the input of its encoder, float[...]; processors do not read it again, and nobody changes it."""

    tensor: Tensor

    @cached_property
    def digest(self) -> bytes:
        """See `digest_of`."""
        return digest_of(self.tensor)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the values as an array: torch would send a tensor between processes through a file descriptor."""
        return _restored, (self.tensor.numpy(),)


def digest_of(item: Tensor) -> bytes:
    """Stands for the values, shape and dtype of a tensor of any dtype[...]: two with the same digest are equal."""
    found = hashlib.blake2b(f"{item.dtype}{list(item.shape)}".encode(), digest_size=20)
    found.update(item.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.digest()


def decoded(tensor: Tensor) -> DecodedMedia:
    """The output of a processor, float[...], on the CPU and contiguous."""
    return DecodedMedia(tensor.detach().cpu().contiguous())


def _restored(array: np.ndarray) -> DecodedMedia:
    return DecodedMedia(torch.from_numpy(np.array(array)))


@dataclass(frozen=True)
class Attachment:
    """A file of a user's turn.

    media   its decoded parts: a video with an audio track is a video followed by audio
    note    a message for the user, "" for none
    address  where the file was downloaded from; "" for a local file
    """

    path: Path
    media: tuple[Media, ...]
    note: str = ""
    address: str = ""

    @property
    def kind(self) -> str:
        """Its modalities for display: image, audio, video, video with its audio, depth map."""
        return " with its ".join(MODALITIES.noun(item.modality) for item in self.media)


def attach(path: str | Path, processors: Mapping[str, Processor], modality: str | None = None) -> Attachment:
    """The file as decoded parts for a model with these processors.

    modality   read it as this one, which has a processor; None: its name and content decide
    raises   MediaError if it cannot be read, or the model cannot process its modality
    """
    path = Path(path)
    try:
        check_source(path)
        if modality is not None:
            return _read_as(path, modality, processors)
        kind = kind_of(path)
        if kind == "video":
            return _video(path, processors)
        if kind == "image":
            return _image(path, processors)
        return Attachment(path, (_readable(path, kind, processors),))
    except MediaError as error:
        raise MediaError(str(error).replace(str(path), path.name)) from error


def kind_of(path: Path) -> str:
    """The modality of a file by its ending; for image, video and audio by its content where the ending is ambiguous (a
    .webm or .mp4 may have only an audio track)."""
    named = MODALITIES.of_file(path.name)
    if named is not None and named.mime is None:
        return named.name
    guess = _type(path)
    if guess in ("image", "audio"):
        return guess
    if guess == "video":
        return "audio" if _streams(path) == {"audio"} else "video"
    if is_image(path):  # first: PyAV reads an image as a video of one frame
        return "image"
    return next((kind for kind in ("video", "audio") if kind in _streams(path)), "image")


def _type(path: Path) -> str:
    """The type by file name: image, video, audio, text ...; "" if unknown."""
    return (mimetypes.guess_type(path.name)[0] or "").partition("/")[0]


def _read_as(path: Path, modality: str, processors: Mapping[str, Processor]) -> Attachment:
    """One item of this modality, with a note if an audio track beside it is not used."""
    item = Media(modality, decoded(processors[modality](path, None)))
    has_track = modality == "video" and "audio" in processors and path.is_file() and "audio" in _streams(path)
    note = (
        f"{path.name} is read as video only; its audio track counts where it is attached as audio" if has_track else ""
    )
    return Attachment(path, (item,), note)


def _image(path: Path, processors: Mapping[str, Processor]) -> Attachment:
    """An image; an animation is a video if the model processes video, otherwise its first frame, with a note."""
    count = _num_frames(path)
    if count < 2:
        return Attachment(path, (_readable(path, "image", processors),))
    if "video" in processors and is_image_file(path):
        note = f"{path.name} is an animation of {count} frames and is read as a video"
        return Attachment(path, (_readable(path, "video", processors),), note)
    note = f"{path.name} has {count} frames or pages; only the first one is used"
    return Attachment(path, (_readable(path, "image", processors),), note)


def _num_frames(path: Path) -> int:
    """Number of frames or pages; 1 for a file that cannot be read, whose processor raises the reason."""
    try:
        return num_frames(path)
    except MediaError:
        return 1


def _video(path: Path, processors: Mapping[str, Processor]) -> Attachment:
    """A video, followed by its audio track if it has one and the model processes audio. Silence is never added."""
    if "video" not in processors and "audio" in processors:
        audio = _readable(path, "audio", processors)
        return Attachment(path, (audio,), f"{path.name}: this model cannot process video; only its audio track is used")
    video = _readable(path, "video", processors)
    if "audio" not in processors:
        return Attachment(path, (video,))
    if find_spec("av") is None:
        note = f"{path.name}: its audio track, if any, is ignored, because the package 'av' is not installed"
        return Attachment(path, (video,), note)
    if "audio" not in _streams(path):
        return Attachment(path, (video,), f"{path.name} has no audio track; only the video is used")
    try:
        return Attachment(path, (video, _readable(path, "audio", processors)))
    except MediaError as error:
        reason = str(error).removeprefix(f"{path}: ")
        note = f"the audio track of {path.name} cannot be read ({reason}); only the video is used"
        return Attachment(path, (video,), note)


def _readable(path: Path, kind: str, processors: Mapping[str, Processor]) -> Media:
    if kind not in processors:
        raise MediaError(f"{path.name}: this model cannot process {kind}; it accepts {_listed(processors)}")
    try:
        return Media(kind, decoded(processors[kind](path, None)))
    except MediaError as error:
        if not _has_known_ending(path):
            message = f"{path.name} is not a file that this model can process; it accepts {_listed(processors)}"
            raise MediaError(message) from error
        raise


def _has_known_ending(path: Path) -> bool:
    """Whether the ending of a file name determines its modality."""
    return MODALITIES.of_file(path.name) is not None or any(one.mime == _type(path) for one in MODALITIES if one.mime)


def _listed(kinds: Iterable[str]) -> str:
    """ "image (jpg, png, webp ...), depth (npy, depth.png)" """
    return ", ".join(_with_examples(kind) for kind in kinds)


def _with_examples(kind: str) -> str:
    endings = MODALITIES.get(kind).endings.upload if kind in MODALITIES else ()
    more = " ..." if len(endings) > MAX_ENDINGS else ""
    return f"{kind} ({', '.join(endings[:MAX_ENDINGS])}{more})" if endings else kind


def _streams(path: Path) -> set[str]:
    """Types of the streams in a container, without cover images; empty for other files, or without PyAV."""
    if find_spec("av") is None:
        return set()
    av: Any = need("av", "reading the tracks of videos")
    try:
        with open_container(path) as container:
            cover = av.stream.Disposition.attached_pic
            return {stream.type for stream in container.streams if not stream.disposition & cover}
    except (av.FFmpegError, OSError, ValueError):
        return set()
