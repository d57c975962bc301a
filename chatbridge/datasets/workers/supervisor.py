"""Loader workers that may crash or hang: the sample that caused it is named, and nothing else is lost. The death of a
worker is raised only where the next step is awaited, as `WorkersDied` with the sample it was reading."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.util import Finalize
from typing import Any

from torch.utils.data import DataLoader

from chatbridge.common.errors import DataError
from chatbridge.common.log import get_logger
from chatbridge.common.threads import one_thread
from chatbridge.datasets.workers.progress_notes import ProgressNote, ProgressNotes, Stopwatch
from chatbridge.datasets.workers.time_limit import keep_alarm
from chatbridge.datasets.workers.torch_workers import WorkerPool, start_workers

CHECK_INTERVAL_S = 0.5  # between two checks of what the workers read
LONGEST_GAP_S = 2.0  # most time that counts between two checks, which may be late
EXIT_TIMEOUT_S = 5.0  # from the end of a worker's connections to the end of its process
SHUTDOWN_TIMEOUT_S = 30.0  # for torch to end its workers and its thread
DELIBERATE = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # the worker was ended on purpose
MAX_RESTARTS = 32
MOST_WITHOUT_SAMPLE = 4  # deaths of workers that were reading no sample: starting again does not help
MOST_SHOWN = 10
logger = get_logger(__name__)


@dataclass(frozen=True)
class WorkerDeath:
    """A worker that has died.

    note    the sample it was reading; None if it was reading none, or was ended on purpose
    reason  why, for the log
    """

    note: ProgressNote | None
    reason: str


class WorkersDied(Exception):
    """Workers have died; the steps they had ready have to be made again."""

    def __init__(self, deaths: Sequence[WorkerDeath]):
        super().__init__("; ".join(death.reason for death in deaths))
        self.deaths = tuple(deaths)


def supervised_results(
    steps: range,
    start: Callable[[range], SupervisedWorkers],
    exclude: Callable[[ProgressNote, str], str],
    max_restarts: int,
) -> Generator[Any, None, None]:
    """The result of each step, in order; workers that die are replaced, from the step that is due.

    start     starts workers for the remaining steps
    exclude   excludes a sample that killed its worker from being opened; returns its name and the reason as a text
    raises    DataError when workers die more often than `max_restarts`
    """
    step, deaths, without_sample = steps.start, [], 0
    while step < steps.stop:
        workers = start(range(step, steps.stop))
        try:
            for item in workers:
                step += 1
                yield item
        except WorkersDied as crash:
            for death in crash.deaths:
                deaths.append(death.reason if death.note is None else exclude(death.note, death.reason))
                logger.warning("%s; the loader's workers start again", deaths[-1])
            without_sample += sum(death.note is None for death in crash.deaths)
            if len(deaths) > max_restarts or without_sample > MOST_WITHOUT_SAMPLE:
                raise DataError(_too_many(deaths)) from None
        finally:
            workers.close()


class SupervisedWorkers:
    """One pass over a DataLoader, watched. Iterate once; `close` ends the worker processes.

    notes    written by the workers
    limit_s  a worker that reads one sample for longer is killed; the soft limit inside the worker comes first
    """

    def __init__(self, torch_loader: DataLoader[Any], notes: ProgressNotes, limit_s: float):
        try:
            self._pool: WorkerPool | None = _started(torch_loader)
        except BaseException:
            notes.remove()
            raise
        self._processes = self._pool.processes
        self._notes, self._limit_s = notes, limit_s
        self._hung: dict[int, tuple[ProgressNote, float]] = {}  # worker -> sample, seconds spent on it
        self._closed = threading.Event()
        if self._processes:
            self._pool.report_deaths(False)
            threading.Thread(target=self._watch, name="loader supervision", daemon=True).start()

    def __iter__(self) -> Iterator[Any]:
        pool = self._pool
        assert pool is not None, "iterate once, before close"
        while True:
            try:
                with self._deaths_reported(pool):
                    item = next(pool)
            except StopIteration:
                return
            except Exception as error:  # torch's error about a dead worker, or an incomplete message of one
                is_torn = isinstance(error, (OSError, EOFError))  # a connection to a worker
                if deaths := self._awaited_deaths() if is_torn else self._deaths():
                    raise WorkersDied(deaths) from error
                raise
            yield item

    def close(self) -> None:
        """End the workers now."""
        if self._processes and self._pool is not None:
            ending = threading.Thread(target=self._pool.shutdown, daemon=True)
            ending.start()  # for a few seconds, the workers may finish what they read
            ending.join(SHUTDOWN_TIMEOUT_S)  # it may block: a worker that died during a message leaves it incomplete
            for process in self._processes:
                process.kill()
        self._closed.set()
        self._pool = None
        self._notes.remove()

    @contextmanager
    def _deaths_reported(self, pool: WorkerPool) -> Iterator[None]:
        """Inside this block, and only there, torch's SIGCHLD handler may raise that a worker has died."""
        if deaths := self._deaths():  # since the last step
            raise WorkersDied(deaths)
        pool.report_deaths(True)
        try:
            yield
        finally:
            pool.report_deaths(False)

    def _watch(self) -> None:
        """Kill workers that read one sample for too long: an alarm does not end a decoder that never returns."""
        watches = [Stopwatch(LONGEST_GAP_S) for _ in self._processes]
        while not self._closed.wait(CHECK_INTERVAL_S):
            for worker, (process, watch) in enumerate(zip(self._processes, watches)):
                if worker in self._hung:
                    continue
                seen_s = watch.update(self._notes.read(worker), time.monotonic())
                if watch.note is not None and seen_s > self._limit_s and _is_running(process):
                    self._hung[worker] = watch.note, seen_s
                    with suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGKILL)

    def _deaths(self) -> list[WorkerDeath]:
        gone = [worker for worker, process in enumerate(self._processes) if not process.is_alive()]
        return [self._death(worker) for worker in gone]

    def _awaited_deaths(self) -> list[WorkerDeath]:
        """As `_deaths`, but wait for a worker that is dying: its connections end before its process."""
        until = time.monotonic() + EXIT_TIMEOUT_S
        while not (deaths := self._deaths()) and self._processes and time.monotonic() < until:
            time.sleep(0.05)
        return deaths

    def _death(self, worker: int) -> WorkerDeath:
        code = self._processes[worker].exitcode
        if worker in self._hung:
            note, seen_s = self._hung[worker]
            return WorkerDeath(note, f"reading it hung inside a decoder; its process was killed after {seen_s:.0f} s")
        if -code in DELIBERATE or code - 128 in DELIBERATE:
            return WorkerDeath(None, f"a worker was ended by {signal.Signals(abs(code) % 128).name}")
        return WorkerDeath(self._notes.read(worker), _how_it_ended(code))


def _is_running(process: Any) -> bool:
    """Without collecting its exit status: two threads that call `is_alive` at once can each miss that it ended."""
    return not connection.wait([process.sentinel], 0)


def _started(torch_loader: DataLoader[Any]) -> WorkerPool:
    """A pool with its worker processes. Garbage of the main process is collected before the fork or never: a decoder
    with threads waits for them when it is freed, and after a fork they do not exist. What the program froze itself
    stays frozen: the next collection passes over it."""
    if not torch_loader.num_workers:  # no fork
        return start_workers(torch_loader)
    with _sigint_deferred():
        gc.collect()
    frozen_before = gc.get_freeze_count()
    gc.freeze()
    try:
        return start_workers(torch_loader)
    finally:
        if not frozen_before:
            gc.unfreeze()


@contextmanager
def _sigint_deferred() -> Iterator[None]:
    """Raise KeyboardInterrupt at the end of the block only: Python drops exceptions inside finalizers."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: received.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if received:
            signal.raise_signal(signal.SIGINT)


def _how_it_ended(code: int) -> str:
    if -code == signal.SIGKILL:
        return "the process that read it was killed (SIGKILL), most often because memory ran out"
    if code < 0:
        return f"the decoder crashed with {signal.Signals(-code).name}"
    return f"the decoder ended its process with exit code {code}"


def _too_many(deaths: list[str]) -> str:
    advice = (
        "check these files, or list all files like them with `chatbridge data check CFG --full --quarantine FILE`; if "
        "workers die at random, provide more memory or /dev/shm, or lower num_workers"
    )
    return "\n    ".join([f"the loader's workers died {len(deaths)} times", *deaths[-MOST_SHOWN:], advice])


def init_worker(number: int) -> None:
    """Prepare a loader worker. It ignores Ctrl-C: the main process saves a checkpoint and still needs its batches.
    SIGTERM ends it even inside a decoder, where a Python handler would not run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    keep_alarm()
    one_thread()
    Finalize(None, _leave_if_orphaned, (os.getppid(),), exitpriority=0)  # before the queue waits for its reader


def _leave_if_orphaned(parent: int) -> None:
    """Exit if the main process was killed: Python would wait for ever to deliver the batches that are ready."""
    if os.getppid() != parent:
        os._exit(1)


def hard_limit(limit_s: float) -> float:
    """Seconds after which a worker is killed whose own limit is `limit_s` seconds."""
    return 1.5 * limit_s + 1.0
