"""Uploads are read in processes of their own: a decoder that hangs or crashes costs that upload and nothing else.

The engine keeps a few *nurseries*. A nursery is forked once, early, while the process has no threads that compute, and
does nothing but fork one reader per file (through `common.process_pool`, as the data commands do), so no reader ever
inherits a lock that a generating thread holds.
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
from typing import Any

import torch

from chatbridge.common.errors import MediaError
from chatbridge.common.process_pool import LostTask, ProcessPool
from chatbridge.processors.limits import ChatLimits
from chatbridge.processors.media_source import Processor, name_of
from chatbridge.serve.upload_parts import Attachment, Decoded, attach, decoded

LOOK_S = 5.0  # between looks at whether the server is still there
GRACE_S = 30.0  # beyond the time limit, for a nursery to answer
NUM_NURSERIES = 2  # files that are read at the same time
DECODERS = ("PIL.Image", "av", "soundfile", "torchaudio.compliance.kaldi")  # imported once, before readers are forked


@dataclass(frozen=True)
class Task:
    """One file to read. Without a modality the content decides, as for an upload."""

    ref: str | Path | bytes
    modality: str | None = None


class Reader:
    """Reads files for a chat. Calls from several threads run side by side, as many as there are nurseries.

    processors   modality -> processor, already with the limits of the chat
    """

    def __init__(self, processors: Mapping[str, Processor], limits: ChatLimits, num_nurseries: int = NUM_NURSERIES):
        self.work, self.limits = _Work(processors), limits
        self._free: queue.SimpleQueue[_Nursery] = queue.SimpleQueue()
        self._nurseries = [_Nursery(self.work, limits.time_limit_s) for _ in range(num_nurseries)] if can_fork() else []
        for nursery in self._nurseries:
            self._free.put(nursery)

    def attach(self, path: str | Path) -> Attachment:
        """A file as typed, decoded parts of a turn. raises MediaError with a reason for a person"""
        return self._found(Task(Path(path)), Path(path).name)

    def read(self, modality: str, ref: str | Path | bytes) -> Decoded:
        """A media item as its encoder takes it. raises MediaError"""
        return self._found(Task(ref, modality), name_of(ref))

    def close(self) -> None:
        """End the nurseries; a later call starts them again."""
        for nursery in self._nurseries:
            nursery.stop()

    def _found(self, task: Task, name: str) -> Any:
        found = self._answer(task)
        if isinstance(found, LostTask):
            limit = f"; {self.limits.time_limit_s:g} s are allowed (evaluation.chat.time_limit_s)"
            raise MediaError(f"{name}: {found}{limit if 'hung' in found.reason else ''}")
        if isinstance(found, MediaError):
            raise MediaError(str(found).replace("data.media.", "evaluation.chat.")) from None
        return found

    def _answer(self, task: Task) -> Any:
        if not self._nurseries:
            return self.work(task)
        nursery = self._free.get()
        try:
            return nursery.answer(task)
        finally:
            self._free.put(nursery)


class _Work:
    """What a reader does with its task: an Attachment, a Decoded, or the MediaError that says why not."""

    def __init__(self, processors: Mapping[str, Processor]) -> None:
        self.processors = processors

    def __call__(self, task: Task) -> Any:
        try:
            if task.modality is None:
                return attach(Path(str(task.ref)), self.processors)
            return decoded(self.processors[task.modality](task.ref, None))
        except MediaError as error:
            return MediaError(str(error))
        except MemoryError:
            return MediaError(f"{name_of(task.ref)}: there is not enough memory to read it")
        except Exception as error:  # must not raise: the file is at fault, or a processor of somebody's plugin
            return MediaError(f"{name_of(task.ref)}: cannot be read ({type(error).__name__}: {error})")


class _Nursery:
    """A forked process that forks a reader for each task."""

    def __init__(self, work: _Work, time_limit_s: float) -> None:
        self.work, self.time_limit_s = work, time_limit_s
        self.start()

    def start(self) -> None:
        self.pipe, theirs = Pipe()
        for stream in (sys.stdout, sys.stderr):  # or the child would write what waits in them a second time
            with suppress(Exception):
                stream.flush()
        with warnings.catch_warnings():
            # Python 3.12 warns of threads. The child is single-threaded and computes nothing itself.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            _run(self.work, self.time_limit_s, self.pipe, theirs)
        theirs.close()
        with suppress(OSError):  # the child does the same; whoever comes first
            os.setpgid(pid, pid)
        self._end = weakref.finalize(self, _end, pid, self.pipe, os.getpid())

    def stop(self) -> None:
        self._end()

    def answer(self, task: Task) -> Any:
        """What became of a task. A nursery that died itself is replaced."""
        if not self._end.alive:
            self.start()
        with suppress(OSError, EOFError):
            self.pipe.send(task)
            if self.pipe.poll(self.time_limit_s + GRACE_S):
                return self.pipe.recv()
        self.stop()
        return LostTask("the process that reads files ended", "perhaps for want of memory; send the file again")


def can_fork() -> bool:
    return hasattr(os, "fork")


def _run(work: _Work, time_limit_s: float, theirs: Connection, pipe: Connection) -> None:
    """The life of a nursery; it never returns."""
    try:
        with suppress(OSError):
            os.setpgid(0, 0)  # Ctrl-C is for the server, which then ends the whole group
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        theirs.close()
        torch.set_num_threads(1)
        for name in DECODERS:
            with suppress(Exception):
                import_module(name)
        server = os.getppid()
        while os.getppid() == server:
            if pipe.poll(LOOK_S):
                ((_, found),) = ProcessPool(work, 1, time_limit_s, ahead=1).results([pipe.recv()])
                pipe.send(found)
    except BaseException:  # the server is gone, or asks no more
        pass
    finally:
        os._exit(0)


def _end(pid: int, pipe: Connection, owner: int) -> None:
    """End a nursery with its reader, whatever it is doing. A fork of the server has a copy of it, which stays away."""
    if os.getpid() != owner:
        return
    pipe.close()
    with suppress(OSError):
        os.killpg(pid, signal.SIGKILL)
    with suppress(OSError):
        os.kill(pid, signal.SIGKILL)  # where it had no group of its own yet
    with suppress(OSError):
        os.waitpid(pid, 0)
