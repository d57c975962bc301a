"""The media of requests as private files.

A reference becomes a copy in a temporary folder of its request: nobody can exchange the file between its check and its
decoding, and leaving the request removes it.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from chatbridge.common.extras import need
from chatbridge.processors.limits import MB
from chatbridge.serve.media_sources.content import Content
from chatbridge.serve.media_sources.content_types import file_name, fits
from chatbridge.serve.media_sources.data_urls import audio_data, data_url, too_large
from chatbridge.serve.media_sources.limits import SourceLimits
from chatbridge.serve.media_sources.local_files import check_root, local_file
from chatbridge.serve.media_sources.source_error import SourceError, shortened

if TYPE_CHECKING:
    from chatbridge.serve.media_sources.checked_connection import Network

POLL_S = 0.25  # between two looks at whether the request has ended
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class MediaFile:
    """A media item of a request.

    path      a private copy, whose name has the ending of its type
    modality  that the request names; None: its content decides
    shown     its reference for messages and logs
    digest    SHA-256 of its bytes, hexadecimal
    """

    path: Path
    modality: str | None
    shown: str
    digest: str
    num_bytes: int


class MediaSources:
    """Where the media of requests may come from. Safe to use from any number of threads.

    max_file_mb   of one item (evaluation.chat.max_file_mb)
    media_root    the folder of file:// URLs; None: they are not accepted
    allow_remote  whether http(s) addresses are downloaded, from public hosts only
    network       how hosts are reached; None: through the system
    raises        ValueError for a media_root that is not a folder, ImportError without httpx where it is needed
    """

    def __init__(
        self,
        max_file_mb: float,
        media_root: Path | None = None,
        allow_remote: bool = False,
        limits: SourceLimits | None = None,
        network: Network | None = None,
    ) -> None:
        self.max_bytes, self.allow_remote = int(max_file_mb * MB), allow_remote
        self.limits = limits or SourceLimits()
        self.root = check_root(media_root) if media_root is not None else None
        self.network = _network(network) if allow_remote else None
        self.folder = Path(tempfile.mkdtemp(prefix="chatbridge-media-"))
        self._downloads = threading.BoundedSemaphore(self.limits.max_downloads)

    def request(self, is_stopped: Callable[[], bool] = lambda: False) -> RequestFiles:
        """The files of one request, a context manager; `is_stopped` ends a download that nobody waits for."""
        return RequestFiles(self, is_stopped)

    def close(self) -> None:
        """Remove every file that is left."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def content(self, url: str, max_bytes: int, is_stopped: Callable[[], bool]) -> AbstractContextManager[Content]:
        """What a reference names. raises SourceError"""
        scheme = url.partition(":")[0].lower() if ":" in url[:20] else ""
        if scheme == "data":
            return nullcontext(data_url(url, max_bytes))
        if scheme == "file":
            return local_file(url, self.root)
        if scheme in ("http", "https"):
            return self._download(url, is_stopped)
        accepted = "a data: URL" + ", a file:// URL" * bool(self.root) + ", an http(s) address" * self.allow_remote
        raise SourceError(400, f"{shortened(url[:60])!r} is not {accepted}; for example data:image/png;base64,...")

    @contextmanager
    def _download(self, url: str, is_stopped: Callable[[], bool]) -> Iterator[Content]:
        if self.network is None:
            raise SourceError(
                403, "http(s) addresses are not accepted here; start the server with --allow-remote, or send data URLs"
            )
        from chatbridge.serve.media_sources.download import remote_file

        self._wait_for_place(is_stopped)
        try:
            with remote_file(url, self.limits, self.network, is_stopped) as content:
                yield content
        finally:
            self._downloads.release()

    def _wait_for_place(self, is_stopped: Callable[[], bool]) -> None:
        """Take one of the places of downloads. raises SourceError when none becomes free"""
        end = time.monotonic() + self.limits.total_s
        while not self._downloads.acquire(timeout=POLL_S):
            if is_stopped():
                raise SourceError(408, "the request ended before its media were downloaded")
            if time.monotonic() > end:
                raise SourceError(503, f"{self.limits.max_downloads} downloads are running already; try again later")


def _network(network: Network | None) -> Network:
    need("httpx", "downloading the media of requests")
    from chatbridge.serve.media_sources.checked_connection import Network

    return network or Network()


class RequestFiles:
    """The media of one request, removed when it is left. Its items may be fetched by several threads."""

    def __init__(self, sources: MediaSources, is_stopped: Callable[[], bool]) -> None:
        self.sources, self.is_stopped = sources, is_stopped
        self._folder: Path | None = None
        self._lock = threading.Lock()
        self._num_items, self._num_bytes = 0, 0

    def __enter__(self) -> RequestFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the files."""
        with self._lock:
            folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def fetch(self, url: str, modality: str | None = None) -> MediaFile:
        """A data: URL, a file:// URL below the media root, or a public http(s) address, as a file. raises SourceError

        modality   that the content must be of, as far as its declared type shows; None: any
        """
        number = self._next_number()
        with self.sources.content(url, self.sources.max_bytes, self.is_stopped) as content:
            return self._store(content, number, modality)

    def decode(self, data: str, format: str, modality: str = "audio") -> MediaFile:
        """The base64 `data` of an `input_audio`, whose `format` is wav, mp3 ..., as a file. raises SourceError"""
        if data[:5].lower() == "data:":
            return self.fetch(data, modality)
        return self._store(audio_data(data, format, self.sources.max_bytes), self._next_number(), modality)

    def _next_number(self) -> int:
        with self._lock:
            self._num_items += 1
            if self._num_items > self.sources.limits.max_items:
                raise SourceError(413, f"the request has more than {self.sources.limits.max_items} media; send fewer")
            return self._num_items

    def _store(self, content: Content, number: int, modality: str | None) -> MediaFile:
        """Write the content to a new file, as far as it is of the modality and within the limits."""
        if not fits(content.type, modality):
            raise SourceError(415, f"{content.shown}: its type is {shortened(content.type)}, expected {modality}")
        if content.length is not None and content.length > self.sources.max_bytes:
            raise too_large(content.shown, content.length, self.sources.max_bytes)
        try:
            folder = self._new_folder(number)
            path, digest, size = folder / file_name(content.name, content.type), hashlib.sha256(), 0
            with path.open("xb") as file:
                for chunk in content.chunks:
                    size += len(chunk)
                    self._count(len(chunk), size, content)
                    digest.update(chunk)
                    file.write(chunk)
        except OSError as error:
            if error.errno in NO_SPACE:
                raise SourceError(507, "the server has no space left to store the media; try again later") from None
            raise SourceError(502, f"{content.shown}: cannot be read ({error.strerror or error})") from None
        if not size:
            raise SourceError(400, f"{content.shown}: is empty (0 bytes)")
        return MediaFile(path, modality, content.shown, digest.hexdigest(), size)

    def _count(self, added: int, size: int, content: Content) -> None:
        """raises SourceError beyond the limits of an item or a request, or when the request has ended"""
        if size > self.sources.max_bytes:
            raise too_large(content.shown, None, self.sources.max_bytes)
        with self._lock:
            self._num_bytes += added
            total = self._num_bytes
        limit = self.sources.limits.max_request_mb
        if total > limit * MB:
            raise SourceError(413, f"the media of the request are larger than {limit:g} MB together; send fewer")
        if self.is_stopped():
            raise SourceError(408, "the request ended while its media were read")

    def _new_folder(self, number: int) -> Path:
        """A folder of its own for one item, so that names do not meet."""
        with self._lock:
            if self._folder is None:
                self.sources.folder.mkdir(mode=0o700, exist_ok=True)
                self._folder = Path(tempfile.mkdtemp(dir=self.sources.folder))
            folder = self._folder / str(number)
        folder.mkdir()
        return folder


__all__ = ["MediaFile", "MediaSources", "RequestFiles"]
