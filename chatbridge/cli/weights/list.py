"""`chatbridge weights list CFG`: the files that a YAML needs, and their sources."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chatbridge.cli.arguments import add_model_config
from chatbridge.cli.weights.published_files import published_file
from chatbridge.config.origins import MISSING, Unresolved
from chatbridge.experiment.open import open_model_file
from chatbridge.experiment.opened import Opened
from chatbridge.models.generators._pipeline_folder import INDEX, read_pipeline_folder
from chatbridge.models.hf_folder import cached_folder, names_hub_model, split_id
from chatbridge.models.tensor_headers import files_of, readable_size
from chatbridge.models.weight_files import FILE_SETTINGS

KEYS = (*FILE_SETTINGS, "init_from")


@dataclass(frozen=True)
class Needed:
    """One file or folder of a YAML."""

    key: str
    value: str
    present: bool
    bytes: int | None  # on disk, or as published
    licence: str
    source: str
    revision: str = ""  # of the hub: the commit that is in the cache, or what the YAML asks for
    gated: bool = False  # the terms must be accepted on its page


def main(arguments: Sequence[str] | None = None) -> int:
    """List the weight files of a YAML: key, file, size, licence, source. Returns 0 if all are present."""
    parser = argparse.ArgumentParser(prog="chatbridge weights list", description=main.__doc__)
    add_model_config(parser)
    parser.add_argument("--json", action="store_true", help="one line of JSON per file")
    given = parser.parse_args(arguments)
    needed = list(needed_files(open_model_file(given.config or given.cfg_path, given.options)))
    for one in needed:
        print(json.dumps(asdict(one)) if given.json else _lines(one))
    missing = sum(not one.present for one in needed)
    if not given.json:
        print(f"{len(needed)} files, {missing} missing" if needed else "this YAML names no weight files")
    return 1 if missing else 0


def needed_files(opened: Opened[Any]) -> Iterator[Needed]:
    """Yield every setting of the model and the run that names weights; for `???` its comment gives the source."""
    for path, value in _walk({"model": opened.node("model"), "run": opened.node("run")}, ""):
        if path.rpartition(".")[2] in KEYS and value is not None:
            origin = opened.origins.find(path)
            comment = (origin.comment if origin else None) or ""
            if isinstance(value, Unresolved):  # ${...} that refers to ???
                yield _needed(path, MISSING, comment or value.message)
            else:
                yield _needed(path, str(value), comment if value == MISSING else "")


def _needed(key: str, value: str, comment: str) -> Needed:
    published = published_file(value if value != MISSING else comment)
    path = cached_folder(Path(value)) or Path(value)
    present = value != MISSING and path.exists()
    return Needed(
        key=key,
        value=value,
        present=present,
        bytes=_size(path) if present else (published.bytes if published else None),
        licence=published.licence if published else "",
        source=comment or (published.source if published else ""),
        revision=_revision(path, value),
        gated=published is not None and published.is_gated,
    )


def _revision(path: Path, value: str) -> str:
    """The commit of a folder in the cache of the hub, or the revision after @; "" for other files."""
    if path.parent.name == "snapshots":
        return path.name
    return (split_id(value)[1] or "newest, none is pinned") if names_hub_model(Path(value)) else ""


def _size(path: Path) -> int | None:
    """Return the size in bytes, or None for an unreadable folder, which `check` reports."""
    try:
        if (path / INDEX).is_file():
            return read_pipeline_folder(path).size(half=False)
        return sum(file.stat().st_size for file in files_of(path))
    except (OSError, ValueError):
        return None


def _lines(one: Needed) -> str:
    value = "not set (???)" if one.value == MISSING else one.value
    size = readable_size(one.bytes) if one.bytes else "size unknown"
    head = f"{'ok' if one.present else 'NO':<3} {one.key}: {value} ({size})"
    terms = ", gated: accept its terms on the page" if one.gated and not one.present else ""
    more = [f"      licence: {one.licence}{terms}"] if one.licence else []
    more += [f"      revision: {one.revision}"] if one.revision else []
    return "\n".join([head, *more, *([f"      from: {one.source}"] if one.source and not one.present else [])])


def _walk(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _walk(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node
