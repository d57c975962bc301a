"""Download one remote file to a local one: resumed, retried, compared with its manifest.

An interrupted download resumes where it stopped if the server can send ranges and the file is unchanged. Attempts
without progress are 1, 2, 4 ... seconds apart; permanent errors (404, permission denied) are not retried.
"""

from __future__ import annotations

import logging
import time
from hashlib import sha256
from pathlib import Path

from chatbridge.common.safe_files import replace_text
from chatbridge.datasets.remote_shards.addresses import PIPE, shown
from chatbridge.datasets.remote_shards.open_stream import CHUNK, FetchError, open_stream

logger = logging.getLogger(__name__)

TRIES = 8  # without progress; about a minute and a half in all
COMMAND_TRIES = 3  # of a command, whose errors are rarely temporary
MOST_WAIT_S = 30.0


class WrongContent(FetchError):
    """The content differs from the manifest. Once may be a transmission error, twice is not."""


def fetch(address: str, part: Path, size: int | None = None, digest: str | None = None, tries: int = TRIES) -> None:
    """Download a remote file to `part`, and resume if a part of it is there already.

    size, digest   expected bytes and sha256, if known
    raises         FetchError when the download fails, OSError when the file cannot be written (a full disk)
    """
    failed, wrong, furthest = 0, 0, _size(part)
    if address.startswith(PIPE):
        tries = min(tries, COMMAND_TRIES)
    while True:
        try:
            _receive(address, part)
            _check(part, size, digest)
            return
        except FetchError as error:
            failed = 0 if _size(part) > furthest else failed + 1
            furthest = max(furthest, _size(part))
            wrong += isinstance(error, WrongContent)
            if error.is_final or failed >= tries or wrong > 1:
                raise
            wait_s = max(error.wait_s, min(MOST_WAIT_S, 2.0 ** (failed - 1)))
            logger.warning("%s; trying again in %.0f s", error, wait_s)
            _sleep(wait_s)


def read_small(address: str, most_bytes: int, tries: int = 3) -> bytes:
    """The first bytes of a remote file, at most `most_bytes`. raises FetchError"""
    failed = 0
    while True:
        try:
            content = b""
            for chunk in open_stream(address, 0, "").chunks:
                content += chunk
                if len(content) >= most_bytes:
                    break
            return content[:most_bytes]
        except FetchError as error:
            failed += 1
            if error.is_final or failed == tries:
                raise
            _sleep(2.0 ** (failed - 1))


def _receive(address: str, part: Path) -> None:
    tag_file = part.with_name(f"{part.name}.tag")
    have, tag = _size(part), tag_file.read_text() if tag_file.is_file() else ""
    stream = open_stream(address, have, tag)
    if not stream.start:
        part.unlink(missing_ok=True)  # before the tag: an older part must not be resumed under the new tag
    replace_text(tag_file, stream.tag)
    with part.open("r+b" if stream.start else "wb") as file:
        file.seek(stream.start)
        for chunk in stream.chunks:
            file.write(chunk)
    arrived = _size(part)
    if stream.total is not None and arrived != stream.total:
        if arrived > stream.total:
            part.unlink()
        raise FetchError(f"{shown(address)}: the download ended after {arrived:,} of {stream.total:,} bytes")
    tag_file.unlink()


def _check(part: Path, size: int | None, digest: str | None) -> None:
    """raises   WrongContent, and removes the file, if it differs from the manifest"""
    found = _size(part)
    fault = f"has {found:,} bytes, expected {size:,} by the manifest" if size is not None and found != size else None
    if fault is None and digest is not None:
        with part.open("rb") as stream:
            total = sha256()
            while block := stream.read(CHUNK):
                total.update(block)
        fault = None if total.hexdigest() == digest else "its sha256 differs from the manifest"
    if fault is not None:
        part.unlink()
        raise WrongContent(f"{part.name.removesuffix('.part')}: {fault}")


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _sleep(seconds: float) -> None:
    time.sleep(seconds)
