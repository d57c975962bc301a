"""Tar shards in the webdataset layout, with the same bytes on every machine and at any time."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from webdataset.writer import TarWriter

from chatbridge.common.text_repair import repaired
from dataset_prep.common.preparation import Preparation
from dataset_prep.common.workers import Done, spread

Record = TypeVar("Record")
Identified = TypeVar("Identified", bound="HasId")
Sample = tuple[str, Mapping[str, bytes | str]]  # key, and ending -> content: ("00012", {"jpg": ..., "txt": "a dog"})
MAX_KEY = 90  # bytes; the tar header has 100 for a name, a longer one needs two more blocks


def write_shard(path: Path, samples: Iterable[Sample]) -> int:
    """Write samples in their order and return their number; without any, no file is written.

    raises   ValueError for a key that occurs twice, because readers would merge the two samples
    """
    seen: set[str] = set()
    with path.open("wb") as stream, TarWriter(stream, encoder=False, compress=False, mtime=0) as tar:
        for key, content in samples:
            if key in seen:
                raise ValueError(f"{path.name}: the key {key!r} occurs twice")
            seen.add(key)
            members = {
                ending: repaired(text).encode() if isinstance(text, str) else text for ending, text in content.items()
            }
            tar.write({"__key__": key, **members})
    if not seen:
        path.unlink()
    return len(seen)


def shard_parts(records: Sequence[Record], per_shard: int, name: str = "{:05d}.tar") -> list[tuple[str, list[Record]]]:
    """(file, records) of each shard.

    The records of a shard do not depend on skipped ones, so shards can be written in any order and repeated.
    """
    starts = range(0, len(records), per_shard)
    return [(name.format(number), list(records[at : at + per_shard])) for number, at in enumerate(starts)]


def safe_key(text: str) -> str:
    """A key with safe characters: in tar files a dot ends the key, and a slash creates a folder."""
    key = re.sub(r"[^\w-]+", "_", text, flags=re.ASCII) or "_"
    return key[:MAX_KEY]


# ---------------------------------------------------------------- shards from a process pool


class HasId(Protocol):
    """A record that becomes a sample."""

    @property
    def id(self) -> str: ...


def fill_shards(
    made: Preparation,
    parts: Collection[tuple[str, list[Identified]]],
    sample: Callable[[Identified], Sample],
    workers: int,
    limit_s: float = 300,
) -> None:
    """Write the shards that do not exist; records become samples in worker processes, in the order of the list.

    parts    of `shard_parts`: (file, records) of each shard
    sample   converts a record; an exception is the reason to skip the record. A decoder that crashes or hangs only
             affects its record
    workers  processes; 0 uses this one
    limit_s  longest time for a record, in seconds
    """
    for path, records in made.open_work(parts, unit="shard"):
        with made.writing(path) as part:
            results = in_order(spread(partial(_numbered, sample), list(enumerate(records)), workers, limit_s))
            count = _write(made, part, records, results)
        made.add(path, count)


def in_order(results: Iterable[Done[Any, Any]]) -> Iterator[Done[Any, Any]]:
    """Results of numbered items in the order of their numbers."""
    early: dict[int, Done[Any, Any]] = {}
    expected = 0
    for done in results:
        early[done.item[0]] = done
        while expected in early:
            yield early.pop(expected)
            expected += 1


def _numbered(sample: Callable[[Identified], Sample], item: tuple[int, Record]) -> Sample:
    return sample(item[1])


def _write(made: Preparation, part: Path, records: list[Identified], results: Iterable[Done[Any, Any]]) -> int:
    seen: set[str] = set()

    def good() -> Iterator[Sample]:
        for record, done in zip(records, results, strict=True):
            if done.reason is not None or done.result is None:
                made.skip(record.id, done.reason or "has no result", done.detail)
            elif done.result[0] in seen:
                made.skip(record.id, "another record has the same id")
            else:
                seen.add(done.result[0])
                yield done.result

    return write_shard(part, good())
