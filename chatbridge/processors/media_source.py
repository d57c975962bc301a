"""References to media files and data, and errors that name the file, the reason and what the content looks like."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from chatbridge.common.errors import MediaError
from chatbridge.processors.decoder_messages import in_words

if TYPE_CHECKING:  # scripts of dataset_prep read media without torch
    from torch import Tensor

LONGEST_NAME = 500  # characters of a path in a message; a longer one is text in the wrong field


@dataclass(frozen=True)
class SideBySide:
    """Two image files that become one image, the left one first (ImageProcessor)."""

    left: Path
    right: Path

    def __str__(self) -> str:
        return f"{self.left} beside {self.right}"


@dataclass(frozen=True)
class Rolled:
    """Audio moved by half its length: its second half, then its first; it no longer fits the time of its video."""

    ref: str | Path | bytes | Tensor

    def __str__(self) -> str:
        return f"{name_of(self.ref)}, moved by half its length"


Ref: TypeAlias = "str | Path | bytes | Tensor"  # path, encoded bytes, or a tensor (see each processor)


class NotAccepted(MediaError):
    """The content is of a format that is not opened, or names other files."""


class NoAudio(MediaError):
    """The file is intact, but it has no audio."""


def name_of(ref: Ref | SideBySide | Rolled) -> str:
    """A path, or a description of what is in memory, for messages."""
    if isinstance(ref, bytes):
        return f"data of {len(ref)} bytes"
    if not isinstance(ref, (str, Path, SideBySide, Rolled)):
        return f"tensor {list(ref.shape)}"
    name = str(ref)
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]} ..."


def check_source(ref: str | Path | bytes) -> None:
    """raises MediaError when there is nothing to open, or a pipe"""
    if isinstance(ref, bytes):
        if not ref:
            raise MediaError("the data is empty (0 bytes)")
        return
    try:
        is_there = Path(ref).exists()
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise MediaError(f"{name_of(ref)}: cannot be opened: {error.strerror}") from None
    if not is_there:
        raise MediaError(f"{ref}: no such file")
    if not (Path(ref).is_file() or Path(ref).is_dir()):  # reading would wait for a writer
        raise MediaError(f"{ref}: is a pipe or a device, expected a file")
    if Path(ref).is_file() and Path(ref).stat().st_size == 0:
        raise MediaError(f"{ref}: the file is empty (0 bytes)")


def opened(ref: str | Path | bytes) -> str | io.BytesIO:
    """The argument of decoders: a path, or a file in memory."""
    return io.BytesIO(ref) if isinstance(ref, bytes) else str(ref)


@contextmanager
def reasons(ref: Ref | Rolled, kind: str) -> Iterator[None]:
    """Every exception of a decoder becomes a MediaError that names the file and the reason; a MemoryError stays one.

    kind   image, video or audio
    """
    try:
        yield
    except NotAccepted as error:
        text = str(error).removeprefix(f"{name_of(ref)}: ")
        raise type(error)(f"{name_of(ref)}: {_not_readable(kind)} ({text})") from error.__cause__
    except MediaError as error:
        text = str(error)
        raise (error if name_of(ref) in text else type(error)(f"{name_of(ref)}: {text}")) from error.__cause__
    except Exception as error:
        if isinstance(error, MemoryError) and not type(error).__module__.startswith("av."):
            raise  # FFmpeg's is a size in a damaged file
        words = "; it looks like ".join(filter(None, (_said(error, ref), looks_like(ref, kind))))
        raise MediaError(f"{name_of(ref)}: {_not_readable(kind)} ({words})") from error


def _not_readable(kind: str) -> str:
    return "not readable audio" if kind == "audio" else f"not a readable {kind}"


_SIGNS = (  # first bytes, the format, and the kinds of media that usually have it
    (b"%!", "a PostScript program (EPS), which is never run", ""),
    (b"\xc5\xd0\xd3\xc6", "a PostScript program (EPS), which is never run", ""),
    (b"8BPS", "a Photoshop document (PSD)", ""),
    (b"\xd7\xcd\xc6\x9a", "a Windows metafile (WMF)", ""),
    (b"icns", "an Apple icon (ICNS)", ""),
    (b"SIMPLE  =", "a FITS file", ""),
    (b"\x89HDF", "an HDF5 file", ""),
    (b"DDS ", "a DirectDraw texture (DDS)", ""),
    (b"\0\0\1\0", "a Windows icon (ICO)", ""),
    (b"\x76\x2f\x31\x01", "an OpenEXR image", ""),
    (b"\xff\x0a", "a JPEG XL image", ""),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image", ""),
    (b"#EXTM3U", "a playlist (M3U), which names other files", ""),
    (b"ffconcat", "a list of files (ffconcat), which names other files", ""),
    (b"[playlist]", "a playlist (PLS), which names other files", ""),
    (b"[InternetShortcut]", "a link (.url), not the file itself", ""),
    (b"v=0", "a session description (SDP), which names other addresses", ""),
    (b"\xff\xd8\xff", "a JPEG image", "image"),
    (b"\x89PNG", "a PNG image", "image"),
    (b"GIF8", "a GIF image", "image"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video", "video"),
    (b"OggS", "an Ogg audio or video file", "audio video"),
    (b"fLaC", "a FLAC audio file", "audio"),
    (b"ID3", "an MP3 audio file", "audio"),
    (b"%PDF", "a PDF document", ""),
    (b"PK\x03\x04", "a zip archive", ""),
    (b"\x1f\x8b", "a gzip archive", ""),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", ""),
)
_BRANDS = {b"avif": "an AVIF image", b"heic": "a HEIC image", b"mif1": "a HEIF image", b"M4A ": "an MPEG-4 audio file"}


def looks_like(ref: Ref | Rolled, kind: str = "") -> str | None:
    """The format of a file that is not a readable `kind`, by its first bytes; None where they do not show it."""
    head = head_of(ref)
    after_tag = head[id3_size(head) :]
    for sign, what, usual in _SIGNS:
        if head.startswith(sign) or after_tag.startswith(sign):
            return None if kind in usual.split() else what
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12]) or (None if kind == "video" else "an MP4 or QuickTime video")
    if head and not head.strip(b"\0"):
        return "zero bytes only"
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    if b"<mpd" in text or b"<smil" in text or text.startswith((b"<asx", b"<playlist")):
        return "a playlist (XML), which names other files"
    if text.startswith((b"<svg", b"<?xml")):
        return "an SVG or XML document"
    return "text" if head.isascii() and all(32 <= byte or byte in b"\t\n\r\f" for byte in head) and head else None


def head_of(ref: Ref | Rolled, length: int = 256) -> bytes:
    """The first bytes of a file; none where there is no file."""
    if isinstance(ref, bytes):
        return ref[:length]
    if not isinstance(ref, (str, Path)) or not Path(ref).is_file():
        return b""
    try:
        with open(ref, "rb") as file:
            return file.read(length)
    except OSError:
        return b""


def id3_size(head: bytes) -> int:
    """Bytes of the ID3v2 tag that begins here, its head of 10 bytes included; 0 where there is none."""
    if not head.startswith(b"ID3") or len(head) < 10:
        return 0
    return 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])


def _said(error: Exception, ref: Ref | Rolled) -> str:
    """The decoder's message in plain words, without the file, which is named already."""
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if isinstance(ref, (str, Path)):
        for mention in (f" {str(ref)!r}", f"[{ref}] ", f" {ref}..."):
            words = words.replace(mention, "")
    return in_words(words)
