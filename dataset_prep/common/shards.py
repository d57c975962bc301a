"""Tar shards in the webdataset layout, the same bytes whenever and wherever they are made."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from webdataset.writer import TarWriter

from chatbridge.common.text_repair import repaired

Record = TypeVar("Record")
Sample = tuple[str, Mapping[str, bytes | str]]  # key, and ending -> content: ("00012", {"jpg": ..., "txt": "a dog"})
MAX_KEY = 90  # bytes; an old tar holds names of 100, and longer ones cost two more blocks


def write_shard(path: Path, samples: Iterable[Sample]) -> int:
    """Write samples in their order and return how many; without any, no file is left.

    raises   ValueError for a key that occurs twice: readers would take both for one sample
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
    """Cut records into shards: the file of each, and what goes into it.

    A shard is made of a fixed piece of the list, whatever is skipped, so shards can be made in any order and again.
    """
    starts = range(0, len(records), per_shard)
    return [(name.format(number), list(records[at : at + per_shard])) for number, at in enumerate(starts)]


def safe_key(text: str) -> str:
    """A key that survives a tar and a shell: for other tools a dot ends the key, and a slash would make a folder."""
    key = re.sub(r"[^\w-]+", "_", text, flags=re.ASCII) or "_"
    return key[:MAX_KEY]
