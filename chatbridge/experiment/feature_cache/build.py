"""Build the feature cache of a run: every media item of its sources, by several ranks and worker processes."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from chatbridge.common.dist import Dist
from chatbridge.common.errors import ConfigError, DataError, MediaError, Problem
from chatbridge.common.log import get_logger
from chatbridge.common.process_pool import LostTask, ProcessPool
from chatbridge.common.safe_files import append_lines, read_json_lines
from chatbridge.datasets.builders import Dataset
from chatbridge.datasets.feature_cache.content import digest, entry_key
from chatbridge.datasets.feature_cache.index import write_index
from chatbridge.datasets.feature_cache.record import FeatureRecord
from chatbridge.datasets.feature_cache.shards import Failed, clean
from chatbridge.datasets.feature_cache.store import FeatureSet
from chatbridge.datasets.feature_cache.values import RowLayout
from chatbridge.datasets.quarantine import Quarantine
from chatbridge.datasets.workers.supervisor import hard_limit
from chatbridge.experiment.feature_cache.encode import FeatureWriter
from chatbridge.experiment.feature_cache.item_reader import ItemReader, ReadItem
from chatbridge.experiment.feature_cache.items import add_covered, count_of, items_of, source_digest
from chatbridge.processors.limits import Limits

log = get_logger(__name__)
FAILURES = "failures.jsonl"
REPORT_S = 10.0  # between two lines of progress
FULL = 0.98  # share of the free space that a build may need
Task = tuple[int, int]


@dataclass
class Build:
    """One build on one rank.

    records   modality -> the set to fill
    decoders  modality -> the processor of training
    encoders  modality -> the encoder with its weights
    sources   of the run
    limit     samples per source; None: all
    workers   processes that decode; 0: this one
    """

    folder: Path
    records: Mapping[str, FeatureRecord]
    decoders: Mapping[str, Any]
    encoders: Mapping[str, Any]
    sources: Mapping[str, Dataset]
    quarantine: Quarantine
    limits: Limits
    dist: Dist
    dtype: torch.dtype
    batch: int = 32
    workers: int = 1
    limit: int | None = None
    failures: list[ReadItem] = field(default_factory=list)

    def run(self) -> None:
        """Fill the sets. raises ConfigError, DataError, OSError that names the file"""
        self._on_main(self._prepare)
        stores = {name: FeatureSet(self.folder / record.name, record) for name, record in self.records.items()}
        tasks = list(self._tasks())
        self._on_main(lambda: self._check_space(tasks, stores))
        self._encode(tasks[self.dist.rank :: self.dist.world_size], stores)
        self._list_failures()
        self.dist.barrier()
        self._on_main(self._complete)

    def _on_main(self, act: Callable[[], object]) -> None:
        """Do something on rank 0 while the others wait; an error of the user is raised on all of them."""
        error: Exception | None = None
        try:
            if self.dist.is_main:
                act()
        except (ConfigError, DataError, OSError) as raised:
            error = raised
        for one in self.dist.gather(error):
            if one is not None:
                raise one

    def _list_failures(self) -> None:
        """Add what cannot be decoded to a file in the form of a quarantine list, each sample once."""
        path = self.folder / FAILURES
        for rank in range(self.dist.world_size):
            if rank == self.dist.rank and self.failures:
                found = read_json_lines(path).records if path.is_file() else ()
                listed = {(one.get("source"), one.get("id")) for one in found}
                lines = {(one.source, one.name): json.dumps(one.failure, ensure_ascii=False) for one in self.failures}
                append_lines(path, [line for key, line in lines.items() if key not in listed])
            self.dist.barrier()

    def _prepare(self) -> None:
        """The folders of the sets, without what an interrupted build left, and their present index."""
        for record in self.records.values():
            folder = self.folder / record.name
            folder.mkdir(parents=True, exist_ok=True)
            record.write(folder)
            for line in clean(folder):
                log.warning("removed a damaged shard: %s", line)
            write_index(folder)

    def _complete(self) -> None:
        for modality, record in self.records.items():
            folder = self.folder / record.name
            write_index(folder)
            if self.limit is None:
                add_covered(folder, dict(self._covered(modality)))

    def _covered(self, modality: str) -> Iterator[tuple[str, Any]]:
        for name, dataset in self.sources.items():
            if modality in dataset.modalities:
                count = count_of(dataset, modality, self.decoders[modality])
                yield source_digest(dataset, count), {"source": name, "samples": len(dataset)}

    def _tasks(self) -> Iterator[Task]:
        """Samples with media that no sample before them has; media in memory (of tars) are compared later."""
        seen: set[bytes] = set()
        for number, dataset in enumerate(self.sources.values()):
            wanted = tuple(name for name in self.records if name in dataset.modalities)
            if not wanted:
                continue
            names_files: bool | None = None  # known from the first sample that can be read
            for index in range(min(len(dataset), self.limit or len(dataset))):
                if self.quarantine.find(dataset, index) is not None:
                    continue
                if names_files is False:
                    yield number, index
                    continue
                try:
                    items = items_of(dataset, index, wanted)
                except (MediaError, DataError):
                    continue  # the run replaces it without reading media
                names_files = all(isinstance(item.ref, (str, Path)) for item in items)
                keys = {
                    _reference(item, count_of(dataset, item.modality, self.decoders[item.modality])) for item in items
                }
                if not names_files or not keys <= seen:
                    seen |= keys
                    yield number, index

    def _check_space(self, tasks: Sequence[Task], stores: Mapping[str, FeatureSet]) -> None:
        """Report what the build needs at most; raises ConfigError when the disk does not have it."""
        datasets, needed = list(self.sources.values()), 0
        for modality, record in self.records.items():
            row = RowLayout(record.tokens, record.width, record.values).row_bytes
            samples = [number for number, _ in tasks if modality in datasets[number].modalities]
            counts = {number: count_of(datasets[number], modality, self.decoders[modality]) for number in set(samples)}
            pieces, there = sum(counts[number] for number in samples), len(stores[modality].index)
            log.info("%s: about %s samples, %s pieces of %s; %s pieces are there", modality, f"{len(samples):,}",
                     f"{pieces:,}", size_text(row), f"{there:,}")  # fmt: skip
            needed += max(0, pieces - there) * row
        free = shutil.disk_usage(self.folder).free
        log.info("needs about %s, %s are free in %s", size_text(needed), size_text(free), self.folder)
        if needed > free * FULL:
            message = f"{self.folder} has {size_text(free)} free, the features need about {size_text(needed)}"
            hint = "choose another folder, or store less: values: int8 (a quarter of fp32), fewer modalities or samples"
            raise ConfigError([Problem("data.feature_cache.folder", message, hint=hint)])

    def _encode(self, tasks: Sequence[Task], stores: Mapping[str, FeatureSet]) -> None:
        writers = {
            name: FeatureWriter(
                self.folder / record.name, record, self.encoders[name], self.dist.device, self.dtype, self.batch
            )
            for name, record in self.records.items()
        }
        reader = ItemReader(list(self.sources.values()), self.decoders, stores, self.limits.time_limit_s)
        progress = _Progress(len(tasks))
        try:
            for task, found in self._results(reader, tasks):
                for item in self._lost(reader, task, found) if isinstance(found, LostTask) else found:
                    self._add(item, writers)
                if self.dist.is_main:
                    progress.update(writers)
            for writer in writers.values():
                writer.finish()
        except KeyboardInterrupt:
            for writer in writers.values():  # what is encoded stays
                writer.finish()
            raise
        except BaseException:
            for writer in writers.values():
                writer.discard()
            raise
        if self.dist.is_main:
            progress.end(writers)

    def _results(self, reader: ItemReader, tasks: Sequence[Task]) -> Iterator[tuple[Task, Any]]:
        if not self.workers:
            yield from ((task, reader(task)) for task in tasks)
            return
        pool = ProcessPool(reader, self.workers, hard_limit(self.limits.time_limit_s), ahead=4)
        yield from pool.results(tasks)

    def _add(self, item: ReadItem, writers: Mapping[str, FeatureWriter]) -> None:
        if item.error is not None:
            raise DataError(f"source {item.source!r}, sample {item.name!r}: {item.error}")
        if item.draws:
            message = (
                f"the processor of {item.modality} draws at random (sample {item.name!r} of source {item.source!r})"
            )
            hint = "leave this modality out of data.feature_cache.modalities"
            raise ConfigError([Problem("data.feature_cache", message, hint=hint)])
        if item.failed is not None:
            self.failures.append(item)
        if item.modality:
            writers[item.modality].add(item)

    def _lost(self, reader: ItemReader, task: Task, lost: LostTask) -> list[ReadItem]:
        """The items of a sample that crashed or hung its worker, as failed ones."""
        dataset = reader.sources[task[0]]
        name = dataset.sample_id(task[1])
        return [
            ReadItem(modality, dataset.name, name, content, count,
                     failed=Failed(entry_key(content, 0, count), MediaError.__name__, f"{name}: {lost}"))
            for modality, content, count in reader.content(task)
        ]  # fmt: skip


class _Progress:
    """A line now and then: share of the samples, pieces per second, time left."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self.start = self.last = time.monotonic()

    def update(self, writers: Mapping[str, FeatureWriter]) -> None:
        self.done += 1
        now = time.monotonic()
        if now - self.last < REPORT_S:
            return
        self.last = now
        left_s = (now - self.start) / self.done * (self.total - self.done)
        pieces = sum(writer.written for writer in writers.values())
        log.info("%s of %s samples (%.0f %%), %s pieces, %.1f pieces/s, %s left", f"{self.done:,}", f"{self.total:,}",
                 100 * self.done / self.total, f"{pieces:,}", pieces / (now - self.start), _time(left_s))  # fmt: skip

    def end(self, writers: Mapping[str, FeatureWriter]) -> None:
        took = max(time.monotonic() - self.start, 1e-9)
        pieces = sum(writer.written for writer in writers.values())
        failed = sum(writer.failed for writer in writers.values())
        log.info("%s pieces in %s (%.1f/s), %s items cannot be decoded", f"{pieces:,}", _time(took), pieces / took,
                 f"{failed:,}")  # fmt: skip


def _reference(item: Any, count: int) -> bytes:
    """A key of a media item by its reference."""
    name = str(item.ref) if isinstance(item.ref, (str, Path)) else ""
    return digest(f"{item.modality} {count} {name}".encode(errors="surrogateescape"))


def size_text(num_bytes: float) -> str:
    """Bytes in words: 724.0 kB, 1.2 GB"""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= size:
            return f"{num_bytes / size:,.1f} {unit}"
    return f"{num_bytes:,.0f} bytes"


def _time(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )
