"""A conversation and its media as one .zip; an archive of somebody else is not trusted."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from chatbridge.processors.limits import MB
from chatbridge.serve.saved_conversations.loaded_session import LoadError

CONVERSATION = "conversation.jsonl"
MOST_FILES = 1000
MOST_TIMES = 4  # all files together, in times of the limit of one
BLOCK = 1 << 20  # bytes


def write_zip(root: Path, file: Path) -> None:
    """Everything below `root`; media are compressed already. The file appears whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
            for path in sorted(root.rglob("*")):
                archive.write(path, path.relative_to(root).as_posix())
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)


def unpacked(file: Path, folder: Path, max_mb: float) -> Path:
    """A new folder in `folder` with the files of an archive that `write_zip` made.

    Names that lead elsewhere, links, and more content than the limits allow are refused, whatever the archive declares.
    raises   LoadError
    """
    folder.mkdir(parents=True, exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="conversation_", dir=folder))
    try:
        _unpack_all(file, root, max_mb)
    except BaseException:
        shutil.rmtree(root, ignore_errors=True)
        raise
    return root


def _unpack_all(file: Path, root: Path, max_mb: float) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            found = [one for one in archive.infolist() if not one.is_dir()]
            if len(found) > MOST_FILES:
                raise LoadError(f"{file.name} has {len(found)} files, more than the {MOST_FILES} of a conversation")
            if CONVERSATION not in (one.filename for one in found):
                raise LoadError(f"{file.name} has no {CONVERSATION}, so it is not a saved conversation")
            left = int(MOST_TIMES * max_mb * MB)
            for one in found:
                left -= _unpack(archive, one, root, min(left, int(max_mb * MB)), file.name)
    except FileExistsError:
        raise LoadError(f"{file.name} has two files of one name") from None
    except OSError as error:
        raise LoadError(f"{file.name} cannot be unpacked: {error.strerror or error}") from None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, zlib.error) as error:
        if isinstance(error, LoadError):
            raise
        # damaged, or with a password
        raise LoadError(f"{file.name} cannot be unpacked: {error}") from None


def _unpack(archive: zipfile.ZipFile, one: zipfile.ZipInfo, root: Path, limit: int, name: str) -> int:
    """Write one file; its size in bytes."""
    path = PurePosixPath(one.filename)
    is_link = (one.external_attr >> 16) & 0o170000 == 0o120000
    if path.is_absolute() or ".." in path.parts or "\\" in one.filename or ":" in one.filename or is_link:
        raise LoadError(f"{name} has a file that leads out of its folder: {one.filename[:100]!r}")
    target, size = root.joinpath(*path.parts), 0
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(one) as source, target.open("xb") as out:
        while block := source.read(BLOCK):
            size += len(block)
            if size > limit:
                raise LoadError(f"{name}: {one.filename[:100]!r} is larger than allowed (evaluation.chat.max_file_mb)")
            out.write(block)
    return size


__all__ = ["CONVERSATION", "unpacked", "write_zip"]
