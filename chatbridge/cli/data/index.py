"""`chatbridge data index CFG|TAR|FOLDER ...`: build the indexes of tar shards, and report incomplete samples.

A run builds missing indexes itself; this command builds them in advance, on a machine with more cores or with write
permission.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from chatbridge.common.errors import DataError
from chatbridge.common.file_names import is_hidden
from chatbridge.config.merge import display_path, load
from chatbridge.config.registry import add_plugins, plugin_names
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.datasets.remote_shards.addresses import is_remote
from chatbridge.datasets.tars.parallel_indexing import IndexResult, existing, index_tars
from chatbridge.datasets.tars.patterns import expand
from chatbridge.datasets.tars.sample_names import TEXTS, LeftOut, index_columns
from chatbridge.datasets.tars.scan import ABSENT, WHOLE

MOST_LINES = 40  # tars without faults that are listed individually
MOST_KEYS = 5  # samples named per fault of a tar


@dataclass(frozen=True)
class Target:
    """Tars with the same settings.

    media, texts   a sample needs one of each
    folder         another folder for their indexes
    faults         named files that do not exist
    """

    title: str
    tars: tuple[Path, ...]
    media: tuple[str, ...] = field(default_factory=lambda: _all_media())
    texts: tuple[str, ...] = TEXTS
    folder: Path | None = None
    faults: tuple[str, ...] = ()


@dataclass
class Totals:
    """Sums over all tars of a target."""

    samples: int = 0
    new: int = 0
    members: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    left: LeftOut = field(default_factory=LeftOut)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 if every tar is complete and indexed, 1 if an index, file or sample is missing or damaged."""
    asked = _parse(arguments)
    is_complete, faults = True, []
    for target in _targets(asked.what, asked.index_folder):
        try:
            is_complete = _index_target(target, asked) and is_complete
        except DataError as error:  # the other targets are indexed nevertheless
            faults.append(str(error))
    if faults:
        raise DataError("\n".join(faults))
    return 0 if is_complete else 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="chatbridge data index", description="Build the indexes of tar shards, and report incomplete samples."
    )
    parser.add_argument("what", nargs="+", metavar="CFG|TAR|FOLDER", help="YAML of a run, tars (quoted patterns too)")
    parser.add_argument("--workers", type=int, default=None, metavar="N", help="processes; default: the cores here")
    parser.add_argument("--check", action="store_true", help="write nothing; report tars without a current index")
    parser.add_argument("--all", action="store_true", help="print a line per tar, and name every incomplete sample")
    parser.add_argument(
        "--index-folder", type=Path, metavar="DIR", help="folder for indexes that cannot be written beside the tar"
    )
    asked = parser.parse_args(arguments)
    if asked.workers is not None and asked.workers < 1:
        parser.error(f"--workers is {asked.workers}, expected 1 or more")
    return asked


def _targets(what: Sequence[str], folder: Path | None) -> Iterator[Target]:
    """Yield the targets. Raises DataError for a YAML without tars, ConfigError for one that cannot be read."""
    for name in what:
        path = Path(name).expanduser()
        if path.suffix in (".yaml", ".yml"):
            yield from _of_config(path, folder)
        elif path.is_dir():
            yield Target(display_path(path), _tars_below(path), folder=folder)
        else:
            tars, faults = expand([name])
            yield Target(name, tuple(tars), folder=folder, faults=tuple(faults))


def _tars_below(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(tar for tar in folder.rglob("*.tar") if not is_hidden(str(tar.relative_to(folder)))))


def _of_config(path: Path, folder: Path | None) -> Iterator[Target]:
    mapping = load(path)[0]
    add_plugins((MODALITIES,), plugin_names(mapping))  # their modalities may be in tars
    found = list(_web_pairs(mapping, ""))
    if not found:
        raise DataError(f"{display_path(path)}: has no source of tar shards (name: web_pairs)")
    for place, node in found:
        shards = node.get("shards")
        patterns = [shards] if isinstance(shards, str) else shards
        if not isinstance(patterns, list) or not all(isinstance(one, str) and one != "???" for one in patterns):
            raise DataError(f"{display_path(path)}: {place}.shards names no tars, it is {shards!r}")
        if any(map(is_remote, patterns)):
            print(f"{place}: remote shards are indexed when they are downloaded")
            continue
        media = (node["modality"],) if node.get("modality") in _all_media() else _all_media()
        texts = (node["text"],) if node.get("text") in TEXTS else TEXTS
        own = node.get("index_folder")
        tars, faults = expand(patterns)
        index_folder = Path(own) if isinstance(own, str) else folder
        yield Target(place, tuple(tars), media, texts, index_folder, tuple(faults))


def _all_media() -> tuple[str, ...]:
    """Return the modalities that tar shards may contain."""
    return tuple(name for name in index_columns().names if name not in TEXTS)


def _web_pairs(node: Any, place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every source of tar shards in a configuration, with its path."""
    if isinstance(node, dict):
        if node.get("name") == "web_pairs":
            yield place, node
        for key, value in node.items():
            yield from _web_pairs(value, f"{place}.{key}" if place else str(key))


def _index_target(target: Target, asked: argparse.Namespace) -> bool:
    """Index one target and print its summary; returns False if anything is missing or damaged.

    raises   DataError if there is nothing to index, or a named file does not exist
    """
    if target.faults:
        raise DataError(f"{target.title}: " + "\n    ".join(target.faults))
    if not target.tars:
        raise DataError(f"{target.title}: no tars found")
    if asked.check:
        found = existing(target.tars, target.folder)
    else:
        found = index_tars(target.tars, target.folder, asked.workers, target.title)
    totals = Totals()
    print(f"{target.title}: {len(found):,} tars")
    for one in found:
        line = _line(one, target, totals, asked.all)
        if one.index is not None and one.index.left_out:
            left = one.index.left()
            totals.left.update(left.kinds)
            if asked.all or 1 < len(found) <= MOST_LINES:
                print(f"{line}\n      {left}")
                continue
        if asked.all or len(found) <= MOST_LINES or "\n" in line or one.index is None:
            print(line)
    made = "" if asked.check else f", {totals.new:,} new indexes"
    print(f"  total: {totals.samples:,} samples ({_members(totals.members)}){made}")
    for fault, count in totals.faults.items():
        print(f"  {fault}: {count:,}")
    if totals.left.count:
        print(f"  {totals.left}")
    return not totals.faults


def _line(one: IndexResult, target: Target, totals: Totals, is_long: bool) -> str:
    """Return a line with the counts of a tar, and one per fault."""
    index = one.index
    if index is None:
        totals.faults["tars that cannot be read" if one.reason else "tars without a current index"] += 1
        return f"  {one.reason}" if one.reason else f"  {display_path(one.tar)}: has no current index"
    rows = index.rows()
    members = Counter({kind: int((rows["at"][:, slot] != ABSENT).sum()) for slot, kind in enumerate(index.slots)})
    totals.samples += index.count
    totals.new += one.is_new
    totals.members += members
    lines = [f"  {display_path(one.tar)}: {index.count:,} samples ({_members(members)}){', new index' * one.is_new}"]
    if index.damage != WHOLE or not index.count:
        totals.faults["damaged or empty tars"] += 1
        lines.append(f"{index.fault}")
    for fault, keys in _lacking(rows, target, index.slots):
        totals.faults[f"samples {fault}"] += len(keys)
        named = keys if is_long else keys[:MOST_KEYS]
        more = f" and {len(keys) - len(named):,} more" if len(keys) > len(named) else ""
        lines.append(f"{len(keys):,} {fault}: {', '.join(key.decode('utf-8', 'replace') for key in named)}{more}")
    return "\n      ".join(lines)


def _lacking(rows: np.ndarray, target: Target, columns: tuple[str, ...]) -> Iterator[tuple[str, list[bytes]]]:
    """Yield each fault with the keys of its samples."""
    for name, kinds in ((" or ".join(target.media), target.media), ("text", target.texts)):
        slots = [columns.index(kind) for kind in kinds]
        lacks = (rows["at"][:, slots] == ABSENT).all(axis=1)
        cannot = ~lacks & ((rows["at"][:, slots] < 0) & (rows["at"][:, slots] != ABSENT)).any(axis=1)
        empty = ~lacks & ~cannot & (rows["size"][:, slots].max(axis=1) == 0)
        for fault, which in (
            ("without", lacks),
            ("with a sparse, dangling or cut off", cannot),
            ("with an empty", empty),
        ):
            if which.any():
                yield f"{fault} {name}", [bytes(key) for key in rows["key"][which]]


def _members(counts: Counter[str]) -> str:
    return ", ".join(f"{kind} {count:,}" for kind, count in counts.items() if count) or "no readable members"
