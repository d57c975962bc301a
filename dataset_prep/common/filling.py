"""Records to shards: every record becomes a sample in a worker process, the shards are written in the list's order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from dataset_prep.common.preparation import Preparation
from dataset_prep.common.shards import Sample, write_shard
from dataset_prep.common.workers import Done, spread


class Named(Protocol):
    @property
    def id(self) -> str: ...


Record = TypeVar("Record", bound=Named)


def fill_shards(
    made: Preparation,
    parts: Collection[tuple[str, list[Record]]],
    sample: Callable[[Record], Sample],
    workers: int,
    limit_s: float = 300,
) -> None:
    """Write the shards that are not there yet.

    parts    of `shard_parts`: the file of each shard and its records
    sample   what a record becomes; raises Unusable (or anything else) for one that cannot be used, which is noted. A
             decoder that crashes or hangs costs its record alone
    workers  processes; 0 works in this one
    limit_s  seconds a record may take
    """
    for path, records in made.open_work(parts, unit="shard"):
        with made.writing(path) as part:
            results = in_order(spread(partial(_numbered, sample), list(enumerate(records)), workers, limit_s))
            count = _write(made, part, records, results)
        made.add(path, count)


def in_order(results: Iterable[Done[Any, Any]]) -> Iterator[Done[Any, Any]]:
    """Results of numbered items in the order of their numbers; those that come early wait."""
    early: dict[int, Done[Any, Any]] = {}
    expected = 0
    for done in results:
        early[done.item[0]] = done
        while expected in early:
            yield early.pop(expected)
            expected += 1


def _numbered(sample: Callable[[Record], Sample], item: tuple[int, Record]) -> Sample:
    return sample(item[1])


def _write(made: Preparation, part: Path, records: list[Record], results: Iterable[Done[Any, Any]]) -> int:
    seen: set[str] = set()

    def good() -> Iterator[Sample]:
        for record, done in zip(records, results, strict=True):
            if done.reason is not None or done.result is None:
                made.skip(record.id, done.reason or "gave nothing", done.detail)
            elif done.result[0] in seen:
                made.skip(record.id, "another record has the same id")
            else:
                seen.add(done.result[0])
                yield done.result

    return write_shard(part, good())
