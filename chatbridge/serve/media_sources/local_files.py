"""file:// URLs: files below one folder, without following symbolic links.

Each part of the path is opened relative to the descriptor of the folder before it, so the check and the opening are one
step: no rename and no new link in between leads out of the folder (the idea of openat2's RESOLVE_BENEATH).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

from chatbridge.serve.media_sources.content import Content
from chatbridge.serve.media_sources.source_error import SourceError, shortened

CHUNK = 1 << 20  # bytes
OUTSIDE = "is not below the folder of media that this server reads (--media-root)"


@dataclass(frozen=True)
class MediaRoot:
    """The folder whose files may be named.

    path   with symbolic links resolved
    given  as it was written, absolute: requests may use either
    """

    path: Path
    given: Path


def check_root(root: Path) -> MediaRoot:
    """The folder of a path.

    raises   ValueError if it is not a folder, or this system cannot open files relative to a descriptor
    """
    if os.open not in os.supports_dir_fd or not hasattr(os, "O_NOFOLLOW"):
        raise ValueError("--media-root needs openat and O_NOFOLLOW, which this system does not have; use data URLs")
    try:
        found = root.expanduser().resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"--media-root {root}: cannot be opened ({getattr(error, 'strerror', error)})") from None
    if not found.is_dir():
        raise ValueError(f"--media-root {root}: is a file, expected a folder")
    return MediaRoot(found, Path(os.path.abspath(root.expanduser())))


@contextmanager
def local_file(url: str, root: MediaRoot | None) -> Iterator[Content]:
    """The content of a file:// URL below `root`. raises SourceError"""
    if root is None:
        raise SourceError(
            403, "file:// URLs are not accepted here; start the server with --media-root, or send data URLs"
        )
    path = _path_of(url)
    parts = _parts_below(path, root)
    shown = f"file://{os.fsdecode(path)}"
    descriptor = _open_below(root.path, parts, shown)
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            what = "a folder" if stat.S_ISDIR(facts.st_mode) else "a pipe or a device"
            raise SourceError(400, f"{shortened(shown)}: is {what}, expected a file")
        chunks = iter(lambda: os.read(descriptor, CHUNK), b"")
        yield Content(chunks, shortened(shown), "", os.fsdecode(parts[-1]), facts.st_size)
    finally:
        os.close(descriptor)


def _path_of(url: str) -> bytes:
    """The decoded absolute path of a file:// URL."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise SourceError(400, f"the file URL is not valid: {error}") from None
    if parts.netloc.lower() not in ("", "localhost"):
        raise SourceError(400, f"file://{shortened(parts.netloc)}... names a host; write file:///, then the whole path")
    if parts.query or parts.fragment:
        raise SourceError(400, "the file URL has a ? or #; in a file name they are written %3F and %23")
    try:
        path = unquote_to_bytes(parts.path)
    except UnicodeEncodeError:
        raise SourceError(400, "the file URL has half of a UTF-16 pair, which is not a character") from None
    if b"\0" in path or not path.startswith(b"/"):
        raise SourceError(400, "the file URL needs an absolute path without zero characters: file:///folder/name.jpg")
    return path


def _parts_below(path: bytes, root: MediaRoot) -> list[bytes]:
    """The parts of the path after the root. Nothing is opened: a path outside gets one message, there or not."""
    folders = (os.fsencode(folder).rstrip(b"/") + b"/" for folder in (root.path, root.given))
    inside = next(filter(path.startswith, folders), None)
    parts = [part for part in path.removeprefix(inside or b"").split(b"/") if part not in (b"", b".")]
    if inside is None or b".." in parts or not parts:
        raise SourceError(403, f"file://{shortened(os.fsdecode(path))} {OUTSIDE}")
    return parts


def _open_below(root: Path, parts: list[bytes], shown: str) -> int:
    """A descriptor of the file, each folder on the way opened from the one before it."""
    folder_flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    try:
        at = os.open(root, folder_flags)
        for part in parts[:-1]:
            at = _step(part, folder_flags, at)
        return _step(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY, at)  # a pipe must not wait
    except OSError as error:
        raise _as_source_error(error, shortened(shown)) from None


def _step(name: bytes, flags: int, folder: int) -> int:
    try:
        return os.open(name, flags, dir_fd=folder)
    except NotADirectoryError:
        if _is_link(name, folder):  # Linux reports the same for a link and for a file here
            raise OSError(errno.ELOOP, "a symbolic link") from None
        raise
    finally:
        os.close(folder)


def _is_link(name: bytes, folder: int) -> bool:
    with suppress(OSError):
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    return False


def _as_source_error(error: OSError, shown: str) -> SourceError:
    if error.errno == errno.ELOOP:
        return SourceError(403, f"{shown}: a symbolic link is not followed; name its target, below --media-root")
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ENXIO):
        return SourceError(404, f"{shown}: no such file below --media-root")
    if error.errno in (errno.EACCES, errno.EPERM):
        return SourceError(403, f"{shown}: the server has no permission to read it")
    return SourceError(502, f"{shown}: cannot be opened ({error.strerror})")
