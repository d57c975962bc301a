"""Bytes of one remote file into a local one: http(s) by urllib, `pipe:` by a shell, everything else by fsspec.

A transfer that broke off goes on where it stopped, if the server can send ranges and the file is still the same. Tries
without progress wait 1, 2, 4 ... seconds in between; what cannot get better (404, no permission) is not tried again.
"""

from __future__ import annotations

import http.client
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from chatbridge.common.extras import how_to_install

TRIES = 8  # without progress, about a minute and a half of waiting in all
COMMAND_TRIES = 3  # of a command, whose faults are more often its own
MOST_WAIT_S = 30.0
STALL_S = 60.0  # without a byte, a connection or command counts as dead ...
SLOWEST = 1 << 10  # ... and so does one below so many bytes per second over STALL_S
CHUNK = 1 << 20
FINAL_STATUS = {400, 401, 403, 404, 405, 410, 451}
NOT_FOUND = {126, 127}  # a shell's status for a command that is not there or may not run
PIPE = "pipe:"


class FetchError(Exception):
    """A remote file that did not arrive; str() is a reason for a person. is_final: trying again cannot help."""

    def __init__(self, reason: str, is_final: bool = False, wait_s: float = 0.0):
        super().__init__(reason)
        self.is_final, self.wait_s = is_final, wait_s


@dataclass(frozen=True)
class Stream:
    """What a server sends.

    start    the byte of the file that the first chunk begins with
    total    size of the whole file, where the server says it
    tag      changes when the file does; "" when the server gives nothing of the kind
    """

    start: int
    total: int | None
    tag: str
    chunks: Iterator[bytes]


def is_remote(pattern: str) -> bool:
    return pattern.startswith(PIPE) or "://" in pattern


def shown(address: str) -> str:
    """An address without what must not stand in a log: the signature behind the question mark, a password."""
    if address.startswith(PIPE):
        return address
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def name_of(address: str) -> str:
    """The file name of a remote shard; of a command, the last word that ends like a tar."""
    if not address.startswith(PIPE):
        return Path(urlsplit(address).path).name or "shard.tar"
    words = re.findall(r"[^\s'\"/=|;&<>]+\.tar\b", address)
    return words[-1] if words else "shard.tar"


def missing_package(address: str) -> str | None:
    """What has to be installed before an address can be read; None when nothing has to be."""
    if address.startswith((PIPE, "http://", "https://")):
        return None
    from fsspec import get_filesystem_class
    from fsspec.registry import known_implementations

    protocol = address.partition("://")[0]
    try:
        get_filesystem_class(protocol)
    except (ImportError, ValueError) as error:
        module = known_implementations.get(protocol, {}).get("class", "").partition(".")[0]
        return how_to_install(module) if module and module != "fsspec" else str(error)
    return None


def fetch(address: str, part: Path, size: int | None = None, digest: str | None = None, tries: int = TRIES) -> None:
    """Bring a remote file to `part`, going on with what is there already.

    size, digest   bytes and sha256 that it must have, where they are known
    raises         FetchError when it does not arrive, OSError when it cannot be written (a full disk)
    """
    failed, furthest = 0, _size(part)
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
            if error.is_final or failed >= tries:
                raise
            _sleep(max(error.wait_s, min(MOST_WAIT_S, 2.0 ** (failed - 1))))


def read_small(address: str, most_bytes: int, tries: int = 3) -> bytes:
    """The first bytes of a remote file. raises FetchError"""
    for failed in range(1, tries + 1):
        try:
            content = b""
            for chunk in _open(address, 0, "").chunks:
                content += chunk
                if len(content) >= most_bytes:
                    break
            return content[:most_bytes]
        except FetchError as error:
            if error.is_final or failed == tries:
                raise
            _sleep(2.0 ** (failed - 1))
    raise FetchError(f"{shown(address)}: was not asked for")


def _receive(address: str, part: Path) -> None:
    note = part.with_name(f"{part.name}.tag")
    have, tag = _size(part), note.read_text() if note.is_file() else ""
    stream = _open(address, have, tag)
    if not stream.start:
        part.unlink(missing_ok=True)  # before the note: an older part must not go on under the new tag
    note.write_text(stream.tag)
    with part.open("r+b" if stream.start else "wb") as file:
        file.seek(stream.start)
        for chunk in stream.chunks:
            file.write(chunk)
    arrived = _size(part)
    if stream.total is not None and arrived != stream.total:
        if arrived > stream.total:
            part.unlink()
        raise FetchError(f"{shown(address)}: broke off after {arrived:,} of {stream.total:,} bytes")
    note.unlink()


def _check(part: Path, size: int | None, digest: str | None) -> None:
    """raises   FetchError, and removes the file, when it is not the one that the manifest lists"""
    found = _size(part)
    fault = f"has {found:,} bytes, the manifest says {size:,}" if size is not None and found != size else None
    if fault is None and digest is not None:
        with part.open("rb") as stream:
            total = sha256()
            while block := stream.read(CHUNK):
                total.update(block)
        fault = None if total.hexdigest() == digest else "has another sha256 than the manifest says"
    if fault is not None:
        part.unlink()
        raise FetchError(f"{part.name.removesuffix('.part')}: {fault}")


def _open(address: str, have: int, tag: str) -> Stream:
    if address.startswith(PIPE):
        return Stream(0, None, "", _command(address.removeprefix(PIPE)))
    if address.startswith(("http://", "https://")):
        return _http(address, have, tag)
    return _fsspec(address, have, tag)


def _http(address: str, have: int, tag: str) -> Stream:
    headers = {"User-Agent": "chatbridge", "Accept-Encoding": "identity"}
    if have and tag:
        headers |= {"Range": f"bytes={have}-", "If-Range": tag}
    try:
        answer = urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=STALL_S)
    except urllib.error.HTTPError as error:
        error.close()
        reason = f"{shown(address)}: the server says {error.code} {error.reason}"
        if error.code == 416:  # what is there reaches beyond the file
            return _http(address, 0, "")
        raise FetchError(reason, error.code in FINAL_STATUS, _retry_after(error.headers)) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        fault = getattr(error, "reason", None) or error
        raise FetchError(f"{shown(address)}: {fault or type(error).__name__}", isinstance(error, ValueError)) from None
    given = answer.headers
    start, total = 0, int(given["Content-Length"]) if given.get("Content-Length", "").isdigit() else None
    if answer.status == 206:
        place = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", given.get("Content-Range", ""))
        if place is None or int(place[1]) != have:
            answer.close()
            return _http(address, 0, "")
        start, total = have, int(place[2])
    strong = given.get("ETag", "W/")
    tag = given.get("Last-Modified", "") if strong.startswith("W/") else strong
    return Stream(start, total, tag, _chunks(answer.read1, answer.close, shown(address)))


def _fsspec(address: str, have: int, tag: str) -> Stream:
    from fsspec.core import url_to_fs

    try:
        system, path = url_to_fs(address)
        facts = system.info(path)
        version = str(facts.get("ETag") or facts.get("etag") or facts.get("mtime") or facts.get("LastModified") or "")
        total, start = facts.get("size"), have if have and tag and version == tag else 0
        file: Any = system.open(path, "rb")
        file.seek(start)
    except Exception as error:  # every file system has errors of its own
        is_final = isinstance(error, FileNotFoundError | PermissionError | ImportError | ValueError)
        kind = {FileNotFoundError: "there is no such file", PermissionError: "no permission to read it"}
        raise FetchError(f"{shown(address)}: {kind.get(type(error)) or error or type(error)}", is_final) from None
    return Stream(start, total, version, _chunks(file.read, file.close, shown(address)))


def _chunks(read: Callable[[int], bytes], close: Callable[[], object], where: str) -> Iterator[bytes]:
    begun, arrived = time.monotonic(), 0
    try:
        while chunk := read(CHUNK):
            yield chunk
            arrived += len(chunk)
            if (now := time.monotonic()) - begun > STALL_S:
                if arrived < SLOWEST * STALL_S:
                    raise FetchError(f"{where}: only {arrived:,} bytes came in {now - begun:.0f} s")
                begun, arrived = now, 0
    except FetchError:
        raise
    except Exception as error:
        raise FetchError(f"{where}: the connection broke: {error or type(error).__name__}") from None
    finally:
        close()


def _command(command: str) -> Iterator[bytes]:
    """The output of a shell command; it fails when any part of a pipeline fails."""
    bash = shutil.which("bash")
    words = [bash, "-o", "pipefail", "-c", command] if bash else ["/bin/sh", "-c", command]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        )
        assert process.stdout is not None
        try:
            while True:
                if not select.select([process.stdout], [], [], STALL_S)[0]:
                    raise FetchError(f"the command {command!r} sent nothing for {STALL_S:.0f} s")
                chunk = os.read(process.stdout.fileno(), CHUNK)
                if not chunk:
                    break
                yield chunk
            code = process.wait(STALL_S)
        except subprocess.TimeoutExpired:
            raise FetchError(f"the command {command!r} does not end") from None
        finally:
            process.stdout.close()
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if code:
            errors.seek(0)
            lines = errors.read().decode("utf-8", "replace").split("\n")
            last = next((line.strip() for line in reversed(lines) if line.strip()), "it says nothing")
            raise FetchError(f"the command {command!r} failed with status {code}: {last}", code in NOT_FOUND)


def _retry_after(headers: Any) -> float:
    value = (headers or {}).get("Retry-After", "")
    return min(2 * MOST_WAIT_S, float(value)) if value.isdigit() else 0.0


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _sleep(seconds: float) -> None:
    time.sleep(seconds)
