"""Media that a user names in text: a path or an http(s) address, with or without its modality."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from chatbridge.common.errors import MediaError, Problem, nearest
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.datasets.remote_shards.addresses import fault_of, shown
from chatbridge.datasets.remote_shards.open_stream import FetchError, open_stream
from chatbridge.processors.limits import MB
from chatbridge.serve.engine import ChatEngine
from chatbridge.serve.uploads.upload_parts import Attachment

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
LONGEST_NAME = 100  # characters of the name of a downloaded file


@dataclass(frozen=True)
class MediaRef:
    """A file or address, and the modality it is read as; None: the content decides, as for an upload."""

    ref: str
    modality: str | None = None

    @property
    def is_remote(self) -> bool:
        return SCHEME.match(self.ref) is not None

    @property
    def path(self) -> Path:
        """The local file."""
        return Path(self.ref).expanduser()


def problem_of(media: MediaRef, modalities: Sequence[str]) -> Problem | None:
    """What prevents a model with these modalities from reading a file, as far as it shows without opening it."""
    if media.modality is None or media.modality in modalities:
        return place_problem(media)
    if not modalities:
        return Problem(_option(media), "this model processes text only", hint="choose another --cfg-path")
    is_known = media.modality in MODALITIES
    message = f"this model cannot process {media.modality}" if is_known else f"no modality is named {media.modality!r}"
    return Problem(_option(media), message, allowed=tuple(modalities), nearest=nearest(media.modality, modalities))


def place_problem(media: MediaRef) -> Problem | None:
    """The problem of a path without a file, or an address that is not http(s); None if there is none."""
    option = _option(media)
    if media.is_remote:
        fault = _address_fault(media.ref)
        return Problem(option, f"{shown(media.ref)} {fault}") if fault else None
    try:
        if media.path.exists():
            return None
    except (OSError, ValueError) as error:  # a name that is too long, or has a zero byte
        return Problem(option, f"{media.ref[:200]!r} is not a valid path: {error}")
    beside = sorted(one.name for one in media.path.parent.iterdir()) if media.path.parent.is_dir() else []
    hint = "paths start in the current folder" if not media.path.is_absolute() else None
    return Problem(option, f"there is no file {media.ref}", nearest=nearest(media.path.name, beside), hint=hint)


def _option(media: MediaRef) -> str:
    """The argument that names a file."""
    if media.modality is None:
        return "--attach"
    return f"--{media.modality}" if media.modality in MODALITIES else f"--media {media.modality}=..."


def attached(engine: ChatEngine, media: MediaRef, folder: Path) -> Attachment:
    """The decoded parts of a file; an address is downloaded to `folder` first. raises MediaError"""
    if problem := problem_of(media, engine.modalities):
        guess = f"; did you mean {problem.nearest}?" if problem.nearest else ""
        accepted = f"; it accepts {', '.join(problem.allowed)}" if problem.allowed else ""
        raise MediaError(f"{problem.message}{accepted}{guess}")
    if not media.is_remote:
        return engine.attach(media.path, media.modality)
    path = downloaded(media.ref, folder, engine.limits.max_file_mb)
    return replace(engine.attach(path, media.modality), address=shown(media.ref))


def downloaded(address: str, folder: Path, max_mb: float) -> Path:
    """A file of an address, http(s) only, in `folder`. raises MediaError, also for a file larger than max_mb"""
    where, limit = shown(address), int(max_mb * MB)
    too_large = MediaError(f"{where}: larger than {max_mb:g} MB (evaluation.chat.max_file_mb)")
    path, size = _free_path(folder, address), 0
    try:
        stream = open_stream(address, 0, "")
        if stream.total is not None and stream.total > limit:
            raise too_large
        with open(path, "wb") as file:
            for chunk in stream.chunks:
                size += len(chunk)
                if size > limit:
                    raise too_large
                file.write(chunk)
    except FetchError as error:
        raise MediaError(str(error)) from None
    if stream.total is not None and size < stream.total:
        raise MediaError(f"{where}: the connection ended after {size:,} of {stream.total:,} bytes; try again")
    return path


def refs_in(line: str, modality: str | None = None) -> list[MediaRef]:
    """The files of a line as a user types or drops them: quotes and escaped blanks as in a shell, or one path with
    blanks."""
    line = line.strip()
    if not line or MediaRef(line).is_remote or _is_there(line):
        return [MediaRef(line, modality)] if line else []
    try:
        words = shlex.split(line)
    except ValueError:  # a quote without its end
        words = [line]
    return [MediaRef(word, modality) for word in words]


def names_of(attachments: Sequence[Attachment]) -> Iterator[str]:
    """ "image dog.jpg", "video with its audio clip.mp4" """
    for one in attachments:
        yield f"{one.kind} {one.address or one.path.name}"


def _is_there(line: str) -> bool:
    try:
        return MediaRef(line).path.exists()
    except (OSError, ValueError):
        return False


def _address_fault(address: str) -> str | None:
    if not address.lower().startswith(("http://", "https://")):
        return "is not an http or https address; download the file and give its path"
    return fault_of(address)


def _free_path(folder: Path, address: str) -> Path:
    """A path in a new folder, with the name that the address has, so that its ending helps to find the modality."""
    name = re.sub(r"[^\w.-]", "_", unquote(urlsplit(address).path).rpartition("/")[2])[-LONGEST_NAME:].lstrip(".")
    inner = folder / f"{len(list(folder.iterdir())):04d}"
    inner.mkdir()
    return inner / (name or "download")
