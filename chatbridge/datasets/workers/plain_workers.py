"""Loader workers with multiprocessing only: whole items through one pipe per worker, no shared memory, no signals."""

from __future__ import annotations

import faulthandler
import os
import pickle
import traceback
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.context import BaseContext
from typing import Any

import torch
from torch.utils.data import DataLoader

from chatbridge.common.threads import one_thread
from chatbridge.datasets.workers.progress_notes import become_worker

EXIT_TIMEOUT_S = 5.0  # for a worker to exit by itself
PARENT_CHECK_S = 5.0  # between two checks of an idle worker that its parent is alive


class PlainWorkers:
    """The items of a map-style DataLoader, in the order of its sampler, each made by the next worker.

    raises  EOFError or another OSError instead of an item if the worker that makes it has died
    """

    def __init__(self, loader: DataLoader[Any]):
        self._is_pinned = loader.pin_memory and torch.cuda.is_available()
        self._todo: Iterator[Any] = iter(loader.sampler if loader.batch_sampler is None else loader.batch_sampler)
        self._pipes: list[Any] = []
        self.processes: list[Any] = []
        context = _context(loader.multiprocessing_context)
        for number in range(loader.num_workers):
            self._start(context, loader, number)
        self._due: list[int] = []  # the worker of each requested item, in order
        for _ in range(loader.prefetch_factor or 1):
            for number in range(loader.num_workers):
                self._ask(number)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if not self._due:
            self.shutdown()
            raise StopIteration
        number = self._due[0]
        is_made, item = pickle.loads(self._pipes[number].recv_bytes())
        self._due.pop(0)
        self._ask(number)
        if not is_made:
            raise item
        return _pinned(item) if self._is_pinned else item

    def report_deaths(self, is_wanted: bool) -> None:
        """Nothing to do: a death is noticed only as the end of a pipe."""

    def shutdown(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self.processes:
            process.join(EXIT_TIMEOUT_S)

    def _start(self, context: Any, loader: DataLoader[Any], number: int) -> None:
        ours, theirs = context.Pipe()
        inherited = [*self._pipes, ours] if context.get_start_method() == "fork" else []
        job = (loader.dataset, loader.collate_fn, loader.batch_sampler is not None)
        arguments = (theirs, inherited, number, job, loader.worker_init_fn, os.getpid())
        process = context.Process(target=_work, args=arguments, daemon=True)
        process.start()
        theirs.close()
        self._pipes.append(ours)
        self.processes.append(process)

    def _ask(self, number: int) -> None:
        for key in self._todo:
            with suppress(BrokenPipeError):  # the worker died; noticed when its item is due
                self._pipes[number].send(key)
            self._due.append(number)
            return


def _context(given: Any) -> BaseContext:
    return given if isinstance(given, BaseContext) else get_context(given)


def _work(pipe: Any, inherited: list[Any], number: int, job: Any, start: Any, parent: int) -> None:
    faulthandler.disable()  # a crash is expected, and reported by the main process
    for other in inherited:  # left open here, they would outlive the main process
        other.close()
    one_thread()
    become_worker(number)
    if start is not None:
        start(number)
    dataset, collate, is_batched = job
    with suppress(EOFError, OSError):  # the main process is gone
        while os.getppid() == parent:
            if pipe.poll(PARENT_CHECK_S):
                key = pipe.recv()
                pipe.send_bytes(_made(dataset, collate, is_batched, key))


def _made(dataset: Any, collate: Any, is_batched: bool, key: Any) -> bytes:
    """The pickled pair (True, item) or (False, error)."""
    try:
        return pickle.dumps((True, collate([dataset[one] for one in key] if is_batched else dataset[key])))
    except Exception as error:
        text = traceback.format_exc()
        error.add_note(text)
        try:
            found = pickle.dumps((False, error))
            pickle.loads(found)
            return found
        except Exception:  # its class cannot be rebuilt from its arguments
            return pickle.dumps((False, RuntimeError(text)))


def _pinned(item: Any) -> Any:
    if type(item) in (list, tuple):
        return type(item)(map(_pinned, item))
    return item.pin_memory() if hasattr(item, "pin_memory") else item
