"""Copies of the media of conversations in a folder beside their file, so that both can be moved and trained on."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from chatbridge.conversation.messages import Media
from chatbridge.processors.png_file import png_of
from chatbridge.serve.uploads.upload_parts import Attachment

LONGEST_STEM = 40  # characters of the name of the original file
BLOCK = 1 << 20  # bytes


class CannotStore(ValueError):
    """A media item that cannot be stored; str() is the message for the user."""


class StoredMedia:
    """Files of media items in `folder`, named by their content: equal files are stored once.

    Any number of threads and processes may store into one folder: a file appears whole or not at all.

    folder   is made with the first file
    root     what the names given back are relative to
    link     local files are not copied, and keep their absolute path; what is in memory is stored
    """

    def __init__(self, folder: Path, root: Path, how: Literal["copy", "link"] = "copy") -> None:
        self.folder, self.root, self.how = folder, root, how

    def name_of(self, media: Media, origin: Attachment | None) -> str:
        """The path of a media item for a line of `records`. raises CannotStore

        origin   the file that the user attached, of a decoded item
        """
        ref = media.ref if origin is None else origin.path
        try:
            if isinstance(ref, (str, Path)):
                return self._of_file(Path(ref), is_temporary=origin is not None and bool(origin.address))
            if isinstance(ref, bytes):
                return self._put(io.BytesIO(ref), f"{media.modality}.bin")
            if isinstance(ref, Tensor) and media.modality == "image":
                return self._put(io.BytesIO(png_of(ref)), "drawing.png")
        except OSError as error:
            raise CannotStore(f"{error.filename or ref}: {error.strerror or error}") from None
        kind = type(media.ref).__name__
        raise CannotStore(f"a {media.modality} that is in memory only ({kind}) cannot be stored; attach it as a file")

    def _of_file(self, path: Path, is_temporary: bool) -> str:
        if self.how == "link" and not is_temporary:
            return str(path.absolute())
        if not path.exists():
            raise CannotStore(f"{path} no longer exists, so it cannot be stored; attach it again")
        if path.is_dir():  # the frames of a video
            return self._put_folder(path)
        with path.open("rb") as source:
            return self._put(source, path.name)

    def _put(self, source: Any, name: str) -> str:
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f".{os.getpid()}-{threading.get_ident()}.part"
        digest = hashlib.sha256()
        try:
            with part.open("wb") as file:
                while block := source.read(BLOCK):
                    digest.update(block)
                    file.write(block)
            return self._moved(part, f"{digest.hexdigest()[:16]}-{plain_name(name)}")
        finally:
            part.unlink(missing_ok=True)

    def _put_folder(self, path: Path) -> str:
        frames = sorted(one for one in path.iterdir() if one.is_file())
        digest = hashlib.sha256()
        for frame in frames:
            digest.update(f"{frame.name}\0".encode() + hashlib.sha256(frame.read_bytes()).digest())
        target = self.folder / f"{digest.hexdigest()[:16]}-{plain_name(path.name)}"
        if not target.exists():
            part = self.folder / f".{os.getpid()}-{threading.get_ident()}.frames"
            part.mkdir(parents=True)
            try:
                for frame in frames:
                    shutil.copyfile(frame, part / frame.name)
                self._moved(part, target.name)
            finally:
                shutil.rmtree(part, ignore_errors=True)
        return self._relative(target)

    def _moved(self, part: Path, name: str) -> str:
        """Give a finished file its name, unless an equal one has it."""
        target = self.folder / name
        if not target.exists():
            try:
                os.replace(part, target)
            except OSError:  # a folder that another process moved there first
                if not target.exists():
                    raise
        return self._relative(target)

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def plain_name(name: str) -> str:
    """A file name of ASCII letters, digits, dots and dashes, with the ending of `name`."""
    stem, dot, ending = re.sub(r"[^\w.-]", "_", name, flags=re.ASCII).rpartition(".")
    return (
        f"{(stem or 'file').lstrip('.')[-LONGEST_STEM:] or 'file'}{dot}{ending[-20:]}"
        if dot
        else ending[-60:] or "file"
    )


def origins_of(attached: Iterable[Attachment]) -> dict[int, Attachment]:
    """id of the decoded content of an item -> the file that was attached."""
    return {id(item.ref): one for one in attached for item in one.media}


__all__ = ["CannotStore", "StoredMedia", "origins_of", "plain_name"]
