"""Reads uploads in separate processes: a decoder that hangs or crashes costs that upload and nothing else.

Each file is read by a process of its own, forked from a *fork server*. A fork server is forked once, early, before the
main process has threads that compute, and only forks readers (through `common.process_pool`, as the data commands do),
so no reader inherits a lock that a generating thread holds, and decoders are imported once.

Python's forkserver and pebble's pools do not serve here: the first needs picklable processors, which plugins need not
have, and the second forks from threads of the main process.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import warnings
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from chatbridge.common.errors import MediaError
from chatbridge.common.forked import renew_in_children
from chatbridge.common.process_pool import LostTask, ProcessPool
from chatbridge.processors.image_file import read_image
from chatbridge.processors.limits import ChatLimits, Limits
from chatbridge.processors.media_processor import Processor
from chatbridge.processors.media_source import name_of
from chatbridge.serve.media_pictures.media_preview import Preview, preview_of
from chatbridge.serve.uploads.kept_uploads import KeptUploads
from chatbridge.serve.uploads.upload_parts import Attachment, DecodedMedia, attach, decoded

PARENT_CHECK_S = 5.0  # between two checks that the main process is still alive
REPLY_GRACE_S = 30.0  # beyond the time limit of a file, for a fork server to reply
NUM_FORK_SERVERS = 2  # files that are read at the same time
DECODERS = ("PIL.Image", "av", "soundfile", "torchaudio.compliance.kaldi")  # imported once, before readers are forked


@dataclass(frozen=True)
class ReadRequest:
    """One file to read. Without a modality its content decides.

    is_upload   the result is an Attachment with notes for the user, not the decoded item alone
    view        pixels: of an image file, uint8[3, H, W]; preview: see `media_preview`
    """

    ref: str | Path | bytes
    modality: str | None = None
    is_upload: bool = False
    view: Literal["pixels", "preview"] | None = None


class UploadReader:
    """Reads files for a chat. Calls from several threads run in parallel, up to the number of fork servers.

    kept         files that were read, by their content
    processors   modality -> processor with the limits of the chat
    """

    def __init__(
        self, processors: Mapping[str, Processor], limits: ChatLimits, num_fork_servers: int = NUM_FORK_SERVERS
    ) -> None:
        self.read_file, self.limits = _ReadFile(processors), limits
        self.kept = KeptUploads(limits.upload_cache_mb, limits.max_file_mb)
        num_fork_servers = num_fork_servers if can_fork() else 0
        self._fork_servers = [_ForkServer(self.read_file, limits.time_limit_s) for _ in range(num_fork_servers)]
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """With all fork servers free, as none of this process is used yet."""
        self._free: queue.SimpleQueue[_ForkServer] = queue.SimpleQueue()
        for server in self._fork_servers:
            self._free.put(server)

    def attach(self, path: str | Path, modality: str | None = None) -> Attachment:
        """A file as typed, decoded parts of a turn. raises MediaError with a message for the user

        modality   one of the processors; None: the content decides
        """
        path = Path(path)
        request = ReadRequest(path, modality, is_upload=True)
        return self.kept.attachment(path, modality, lambda: self._result(request, path.name))

    def read(self, modality: str, ref: str | Path | bytes) -> DecodedMedia:
        """A media item as the input of its encoder. raises MediaError with a message for the user"""
        return self.kept.media(modality, ref, lambda: self._result(ReadRequest(ref, modality), name_of(ref)))

    def pixels(self, ref: str | Path | bytes) -> Tensor:
        """An image file as uint8[3, H, W]. raises MediaError with a message for the user"""
        return self._result(ReadRequest(ref, "image", view="pixels"), name_of(ref)).tensor

    def preview(self, modality: str, ref: str | Path | bytes) -> Preview:
        """What there is to show of a media file. raises MediaError with a message for the user"""
        return self._result(ReadRequest(ref, modality, view="preview"), name_of(ref))

    def close(self) -> None:
        """End the fork servers; a later call starts them again."""
        for server in self._fork_servers:
            server.stop()

    def _result(self, request: ReadRequest, name: str) -> Any:
        result = self._send(request)
        if isinstance(result, LostTask):
            limit = f"; {self.limits.time_limit_s:g} s are allowed (evaluation.chat.time_limit_s)"
            raise MediaError(f"{name}: {result}{limit if 'hung' in result.reason else ''}")
        if isinstance(result, MediaError):
            raise MediaError(str(result).replace("data.media.", "evaluation.chat.")) from None
        return result

    def _send(self, request: ReadRequest) -> Any:
        """The result of a request, once a fork server is free; without fork, this process reads the file."""
        if not self._fork_servers:
            return self.read_file(request)
        server = self._free.get()
        try:
            return server.send(request)
        finally:
            self._free.put(server)


class _ReadFile:
    """Maps a request to an Attachment, a DecodedMedia, or the MediaError with the reason."""

    def __init__(self, processors: Mapping[str, Processor]) -> None:
        self.processors = processors

    def __call__(self, request: ReadRequest) -> Any:
        try:
            if request.view == "pixels":
                return decoded(_pixels(request.ref, self.processors))
            if request.view == "preview":
                return preview_of(request.ref, self.processors[str(request.modality)])
            if request.is_upload or request.modality is None:
                return attach(Path(str(request.ref)), self.processors, request.modality)
            return decoded(self.processors[request.modality](request.ref, None))
        except MediaError as error:
            return MediaError(str(error))
        except MemoryError:
            return MediaError(f"{name_of(request.ref)}: there is not enough memory to read it")
        except Exception as error:  # the process pool must not see it: a bad file, or a bug in a plugin's processor
            return MediaError(f"{name_of(request.ref)}: cannot be read ({type(error).__name__}: {error})")


def _pixels(ref: str | Path | bytes, processors: Mapping[str, Processor]) -> Tensor:
    """uint8[3, H, W]"""
    limits = getattr(processors.get("image"), "limits", None) or Limits()
    return torch.from_numpy(read_image(ref, limits.max_pixels)).permute(2, 0, 1)


class _ForkServer:
    """A forked process that forks a reader for each request."""

    def __init__(self, read_file: _ReadFile, time_limit_s: float) -> None:
        self.read_file, self.time_limit_s = read_file, time_limit_s
        self.start()

    def start(self) -> None:
        self.pipe, child_end = Pipe()
        for stream in (sys.stdout, sys.stderr):  # otherwise the child writes their buffers a second time
            with suppress(Exception):
                stream.flush()
        with warnings.catch_warnings():
            # Python 3.12 warns of a fork with threads. The child is single-threaded and computes nothing itself.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            _serve(self.read_file, self.time_limit_s, self.pipe, child_end)
        child_end.close()
        with suppress(OSError):  # the child does the same; either may come first
            os.setpgid(pid, pid)
        self._owner = os.getpid()
        self._end = weakref.finalize(self, _end, pid, self.pipe, self._owner)

    def stop(self) -> None:
        self._end()

    def send(self, request: ReadRequest) -> Any:
        """The result of a request, or LostTask. A fork server that died is replaced at the next request."""
        if not self._end.alive or self._owner != os.getpid():  # that of a parent answers the parent
            self.start()
        try:
            self.pipe.send(request)
            if self.pipe.poll(self.time_limit_s + REPLY_GRACE_S):
                return self.pipe.recv()
        except (OSError, EOFError):
            pass
        except BaseException:  # Ctrl-C: the next request must not receive the reply to this one
            self.stop()
            raise
        self.stop()
        return LostTask("the process that reads files ended", "it may have run out of memory; upload the file again")


def can_fork() -> bool:
    """Whether this system can fork processes."""
    return hasattr(os, "fork")


def _serve(read_file: _ReadFile, time_limit_s: float, parent_end: Connection, pipe: Connection) -> None:
    """The main loop of a fork server; it never returns."""
    try:
        with suppress(OSError):
            os.setpgid(0, 0)  # Ctrl-C must reach the main process only, which then ends this group
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        parent_end.close()
        torch.set_num_threads(1)
        for name in DECODERS:
            with suppress(Exception):
                import_module(name)
        parent = os.getppid()
        while os.getppid() == parent:
            if pipe.poll(PARENT_CHECK_S):
                ((_, result),) = ProcessPool(read_file, 1, time_limit_s, ahead=1).results([pipe.recv()])
                pipe.send(result)
    except BaseException:  # the main process has ended, or closed the pipe
        pass
    finally:
        os._exit(0)


def _end(pid: int, pipe: Connection, owner: int) -> None:
    """End a fork server and its reader, whatever they are doing. Copies of it in forked children do nothing."""
    if os.getpid() != owner:
        return
    pipe.close()
    with suppress(OSError):
        os.killpg(pid, signal.SIGKILL)
    with suppress(OSError):
        os.kill(pid, signal.SIGKILL)  # if it has no group of its own yet
    with suppress(OSError):
        os.waitpid(pid, 0)
