"""The bytes of a remote file from a given position: http(s) by urllib, `pipe:` by a shell, all others by fsspec."""

from __future__ import annotations

import http.client
import os
import re
import select
import shutil
import signal
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from chatbridge.datasets.remote_shards.addresses import PIPE, shown
from chatbridge.datasets.remote_shards.permissions import refusal

STALL_S = 60.0  # a connection or command without a byte for so long has failed ...
SLOWEST = 1 << 10  # ... and so has one with fewer bytes per second over STALL_S
LONGEST_WAIT_S = 60.0  # that a server may request with Retry-After
CHUNK = 1 << 20
FINAL_STATUS = {400, 401, 403, 404, 405, 410, 451}
VERSIONS = ("ETag", "etag", "blob_id", "mtime", "LastModified", "last_modified")  # names in fsspec's file systems
NOT_FOUND = {126, 127}  # exit codes of a shell for a command that is missing or not executable


class FetchError(Exception):
    """A remote file could not be read; str() is the reason. is_final: trying again cannot help."""

    def __init__(self, reason: str, is_final: bool = False, wait_s: float = 0.0):
        super().__init__(reason)
        self.is_final, self.wait_s = is_final, wait_s


@dataclass(frozen=True)
class RemoteStream:
    """An open remote file.

    start    position in the file of the first byte of the first chunk
    total    size of the whole file in bytes, if known
    tag      changes when the file changes; "" if the server has nothing of the kind
    """

    start: int
    total: int | None
    tag: str
    chunks: Iterator[bytes]


def open_stream(address: str, have: int, tag: str, headers: Mapping[str, str] | None = None) -> RemoteStream:
    """A remote file, from byte `have` on if its tag is still the same. Opening and reading raise FetchError.

    headers   of an http request, in place of its own ones with the same name
    """
    if (reason := refusal(address)) is not None:
        raise FetchError(reason, is_final=True)
    if address.startswith(PIPE):
        return RemoteStream(0, None, "", _command(address.removeprefix(PIPE)))
    if address.startswith(("http://", "https://")):
        return _http(address, have, tag, headers or {})
    return _fsspec(address, have, tag)


def _http(address: str, have: int, tag: str, more: Mapping[str, str]) -> RemoteStream:
    headers = {"User-Agent": "chatbridge", "Accept-Encoding": "identity", **more}
    if have and tag:
        headers |= {"Range": f"bytes={have}-", "If-Range": tag}
    try:
        request = urllib.request.Request(_quoted(address), headers=headers)
        answer = urllib.request.urlopen(request, timeout=STALL_S, context=_trust())
    except urllib.error.HTTPError as error:
        error.close()
        reason = f"{shown(address)}: the server answered {error.code} {error.reason}"
        if error.code == 416 and have:  # the local part is longer than the file
            return _http(address, 0, "", more)
        raise FetchError(reason, error.code in FINAL_STATUS, _retry_after(error.headers)) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        fault = getattr(error, "reason", None) or error
        is_final = isinstance(error, ValueError) or isinstance(fault, ssl.SSLCertVerificationError)
        raise FetchError(f"{shown(address)}: {fault or type(error).__name__}", is_final) from None
    given = answer.headers
    start, total = 0, int(given["Content-Length"]) if given.get("Content-Length", "").isdecimal() else None
    if answer.status == 206:
        place = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", given.get("Content-Range", ""))
        if place is None or int(place[1]) != have:
            answer.close()
            if not have:
                raise FetchError(f"{shown(address)}: the server sent a range that was not requested")
            return _http(address, 0, "", more)
        start, total = have, int(place[2])
    strong = given.get("ETag", "W/")
    tag = given.get("Last-Modified", "") if strong.startswith("W/") else strong
    return RemoteStream(start, total, tag, _chunks(answer.read1, answer.close, shown(address)))


def _quoted(address: str) -> str:
    """Percent-encode spaces and non-ASCII letters of an address; what is encoded already stays."""
    parts = urllib.parse.urlsplit(address)
    path, query = (urllib.parse.quote(part, safe="%/:=&?~#+!$,;'@()*[]") for part in (parts.path, parts.query))
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc, path, query, ""))


def _fsspec(address: str, have: int, tag: str) -> RemoteStream:
    from fsspec.core import url_to_fs

    try:
        system, path = url_to_fs(address)
        facts = system.info(path)
        version = str(next(filter(None, map(facts.get, VERSIONS)), ""))
        total, start = facts.get("size"), have if have and tag and version == tag else 0
        file: Any = system.open(path, "rb")
        file.seek(start)
    except Exception as error:  # every file system has its own exceptions
        is_final = isinstance(error, FileNotFoundError | PermissionError | ImportError | ValueError)
        kind = {FileNotFoundError: "no such file", PermissionError: "permission denied"}
        raise FetchError(f"{shown(address)}: {kind.get(type(error)) or error or type(error)}", is_final) from None
    return RemoteStream(start, total, version, _chunks(file.read, file.close, shown(address)))


def _chunks(read: Callable[[int], bytes], close: Callable[[], object], where: str) -> Iterator[bytes]:
    begun, arrived = time.monotonic(), 0
    try:
        while chunk := read(CHUNK):
            yield chunk
            arrived += len(chunk)
            if (now := time.monotonic()) - begun > STALL_S:
                if arrived < SLOWEST * STALL_S:
                    raise FetchError(f"{where}: only {arrived:,} bytes arrived in {now - begun:.0f} s")
                begun, arrived = now, 0
    except FetchError:
        raise
    except Exception as error:
        raise FetchError(f"{where}: the connection was interrupted: {error or type(error).__name__}") from None
    finally:
        close()


def _command(command: str) -> Iterator[bytes]:
    """The output of a shell command; it fails if any command of a pipeline fails."""
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
                    raise FetchError(f"the command {command!r} had no output for {STALL_S:.0f} s")
                chunk = os.read(process.stdout.fileno(), CHUNK)
                if not chunk:
                    break
                yield chunk
            code = process.wait(STALL_S)
        except subprocess.TimeoutExpired:
            raise FetchError(f"the command {command!r} closed its output but did not exit") from None
        finally:
            process.stdout.close()
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if code:
            errors.seek(0)
            lines = errors.read().decode("utf-8", "replace").split("\n")
            last = next((line.strip() for line in reversed(lines) if line.strip()), "no error output")
            raise FetchError(f"the command {command!r} failed with status {code}: {last}", code in NOT_FOUND)


@cache
def _trust() -> ssl.SSLContext:
    """The certificates of this machine, and those of certifi for a Python installation without any."""
    context = ssl.create_default_context()
    with suppress(ImportError):
        import certifi

        context.load_verify_locations(certifi.where())
    return context


def _retry_after(headers: Any) -> float:
    value = (headers or {}).get("Retry-After", "")
    return min(LONGEST_WAIT_S, float(value)) if value.isdecimal() else 0.0
