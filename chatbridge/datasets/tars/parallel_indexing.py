"""Indexes of many tars at once: existing ones are used again, missing ones are made by several processes."""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.context
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from chatbridge.common.errors import DataError
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.datasets.tars.index import TarIndex, find_index, open_index

logger = logging.getLogger(__name__)

MOST_WORKERS = 32
WORTH_PROCESSES = 64 << 20  # bytes of tars; for fewer, starting processes costs more than it saves
LOOKUP_THREADS = 16  # looking for an index waits for the disk, most of all for a network disk


@dataclass(frozen=True)
class IndexResult:
    """One tar with its index, or the reason why it has none."""

    tar: Path
    index: TarIndex | None
    reason: str | None = None
    is_new: bool = False


def index_tars(
    tars: Sequence[Path], cache_folder: Path | None = None, workers: int | None = None, progress: str | None = None
) -> list[IndexResult]:
    """The indexes of all tars, in their order; missing ones are made in `workers` processes.

    workers    default: the cores of this machine, shared among its ranks
    progress   title of a progress bar, shown on a terminal while indexes are made; None: no bar
    Ranks that index at once start with different tars, so they share the work. A worker has one tar at a time.
    """
    from tqdm import tqdm

    found = dict(zip(tars, existing(tars, cache_folder)))
    missing = [tar for tar, one in found.items() if one.index is None and one.reason is None]
    first = os.getpid() % max(len(missing), 1)
    made = _make(missing[first:] + missing[:first], cache_folder, workers or default_workers())
    is_shown = bool(progress and missing and os.environ.get("LOCAL_RANK", "0") == "0")
    if is_shown:
        logger.info("%s: %d of %d tars have no current index", progress, len(missing), len(tars))
    bar = tqdm(made, progress, len(missing), unit="tar", leave=False, delay=1, disable=None if is_shown else True)
    for one in bar:
        found[one.tar] = one
    return [found[tar] for tar in tars]


def existing(tars: Sequence[Path], cache_folder: Path | None = None) -> list[IndexResult]:
    """The indexes that exist and are up to date; the other results have neither index nor reason."""

    def look_up(tar: Path) -> IndexResult:
        try:
            return IndexResult(tar, find_index(tar, cache_folder))
        except DataError as error:
            return IndexResult(tar, None, str(error))

    if len(tars) < LOOKUP_THREADS:
        return [look_up(tar) for tar in tars]
    with ThreadPoolExecutor(LOOKUP_THREADS) as pool:
        return list(pool.map(look_up, tars))


def default_workers() -> int:
    """Processes of this rank: the cores it may use, shared with the other ranks of the machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MOST_WORKERS, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def _make(tars: list[Path], cache_folder: Path | None, workers: int) -> Iterator[IndexResult]:
    workers = min(workers, len(tars))
    if workers < 2 or multiprocessing.current_process().daemon or _total_bytes(tars) < WORTH_PROCESSES:
        yield from (_index(tar, cache_folder) for tar in tars)
        return
    with ProcessPoolExecutor(workers, _context(), MODALITIES.adopt, (tuple(MODALITIES),)) as pool:
        try:
            for done in as_completed([pool.submit(_index, tar, cache_folder) for tar in tars]):
                yield done.result()
        except BrokenProcessPool:
            raise DataError("a process that indexed tars was killed; the memory may be full") from None
        finally:
            pool.shutdown(cancel_futures=True)


def _index(tar: Path, cache_folder: Path | None) -> IndexResult:
    try:
        return IndexResult(tar, open_index(tar, cache_folder), is_new=True)
    except DataError as error:
        return IndexResult(tar, None, str(error), is_new=True)


def _context() -> multiprocessing.context.BaseContext:
    """fork if available: the other start methods import the caller's script, and torch with it, in every process."""
    names = multiprocessing.get_all_start_methods()
    return multiprocessing.get_context("fork" if "fork" in names else None)


def _total_bytes(tars: list[Path]) -> int:
    total = 0
    for tar in tars:
        with suppress(OSError):
            total += tar.stat().st_size
    return total
