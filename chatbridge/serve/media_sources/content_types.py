"""Whether a declared content type fits the modality that a request names, and the ending of the stored file."""

from __future__ import annotations

import mimetypes
import re
from pathlib import PurePosixPath

from chatbridge.conversation.modalities import MODALITIES

LONGEST_NAME = 80  # characters of the name of a stored file
UNKNOWN = ("", "application/octet-stream", "binary/octet-stream")  # types that declare nothing
ENDINGS = {  # type -> ending, where the table of the system has none, or another one on other systems
    "image/jpeg": ".jpg",
    "image/jpg": ".jpg",
    "image/png": ".png",
    "image/webp": ".webp",
    "image/gif": ".gif",
    "audio/wav": ".wav",
    "audio/wave": ".wav",
    "audio/x-wav": ".wav",
    "audio/vnd.wave": ".wav",
    "audio/mpeg": ".mp3",
    "audio/mp3": ".mp3",
    "audio/flac": ".flac",
    "audio/x-flac": ".flac",
    "audio/ogg": ".ogg",
    "audio/opus": ".opus",
    "audio/mp4": ".m4a",
    "audio/x-m4a": ".m4a",
    "audio/aac": ".aac",
    "audio/webm": ".webm",
    "video/mp4": ".mp4",
    "video/webm": ".webm",
    "video/quicktime": ".mov",
    "video/x-matroska": ".mkv",
    "video/x-msvideo": ".avi",
}
CONTAINERS = ("application/ogg", "application/mp4", "application/x-matroska")  # of videos and of audio
ALSO = {  # modality -> further main types, or types, that hold it
    "audio": ("video", *CONTAINERS),  # the audio track of a video
    "video": ("image/gif", "image/webp", "image/png", "image/apng", *CONTAINERS),  # animations
}


def main_type(declared: str) -> str:
    """The type of a Content-Type header, without its parameters, in lower case."""
    return declared.partition(";")[0].strip().lower()


def fits(type_: str, modality: str | None) -> bool:
    """Whether content of this type may be of this modality; a type that declares nothing fits all."""
    if modality is None or type_ in UNKNOWN:
        return True
    mime = MODALITIES.get(modality).mime if modality in MODALITIES else None
    if mime is None:  # depth, motion ...: arrays, tables and images
        return type_ not in ("text/html", "application/xhtml+xml")
    accepted = (mime, *ALSO.get(modality, ()))
    return type_ in accepted or type_.partition("/")[0] in accepted


def file_name(sent: str, type_: str) -> str:
    """A safe name for a stored file, which keeps the ending that shows its modality.

    sent   the name that the reference has; its ending counts unless the declared type is another one
    """
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", sent)[-LONGEST_NAME:].lstrip(".-") or "media"
    if type_ in UNKNOWN or (MODALITIES.of_file(name) is not None and _agrees(name, type_)):
        return name
    ending = ENDINGS.get(type_) or mimetypes.guess_extension(type_) or ""
    return name if PurePosixPath(name).suffix.lower() == ending or _agrees(name, type_) else f"{name}{ending}"


def _agrees(name: str, type_: str) -> bool:
    """Whether the ending of a name is one of the declared main type."""
    guess = mimetypes.guess_type(name)[0]
    return guess is not None and guess.partition("/")[0] == type_.partition("/")[0]
