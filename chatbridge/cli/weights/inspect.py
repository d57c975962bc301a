"""`chatbridge weights inspect FILE`"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from chatbridge.cli.weights.headers import Entry, files_of, read_header, readable_size
from chatbridge.models.weight_files import prefixes_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Names, shapes and types of the tensors in a file, a sharded index or a model folder. Reads no tensor, runs no
    code."""
    parser = argparse.ArgumentParser(prog="chatbridge weights inspect", description=main.__doc__)
    parser.add_argument("file", type=Path, help=".safetensors, .pth, .pt, .bin, an index of shards, or a folder")
    parser.add_argument("--match", default="", metavar="TEXT", help="only tensors whose name has this in it")
    parser.add_argument("--json", action="store_true", help="one line of JSON per tensor")
    given = parser.parse_args(arguments)
    entries = read_header(given.file)
    shown = {name: entry for name, entry in entries.items() if given.match in name}
    for name, entry in shown.items():
        print(_as_json(name, entry) if given.json else f"{_shape(entry):>18}  {_type(entry):<9} {name}")
    if not given.json:
        print(summary(given.file, shown))
        if prefixes := prefixes_of(entries):
            print(f"all names begin with {prefixes[-1]!r}: a wrapper's prefix is removed where weights are loaded")
    return 0


def summary(path: Path, entries: dict[str, Entry]) -> str:
    types = sorted({_type(entry) for entry in entries.values()})
    values = sum(entry.num_values for entry in entries.values())
    held = sum(entry.num_bytes for entry in entries.values())
    files = files_of(path)
    size = sum(file.stat().st_size for file in files)
    where = f"{len(files)} files" if len(files) > 1 else "1 file"
    tensors = (
        f"{len(entries)} tensors, {values / 1e6:.1f} M values, {readable_size(held)} ({', '.join(types) or 'none'})"
    )
    return f"{tensors} in {where} of {readable_size(size)}"


def _as_json(name: str, entry: Entry) -> str:
    about = {
        "name": name,
        "shape": entry.shape,
        "dtype": _type(entry),
        "bytes": entry.num_bytes,
        "file": entry.file.name,
    }
    return json.dumps(about)


def _shape(entry: Entry) -> str:
    return "x".join(map(str, entry.shape)) or "scalar"


def _type(entry: Entry) -> str:
    return str(entry.dtype).removeprefix("torch.")
