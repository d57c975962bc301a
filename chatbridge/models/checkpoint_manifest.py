"""The manifest of a checkpoint: written with checksums, read back with its types checked.

Its own sha256 is taken over its bytes with the 64 digits of that value as zeros, so that a changed byte anywhere in the
folder is detected without a further file. Checkpoints of earlier versions have no checksums.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from chatbridge.common.safe_files import errors_name_file, sync_to_disk
from chatbridge.config.interpolation import resolved_environment

MANIFEST, WEIGHTS, OPTIMIZER, STATE = "manifest.json", "model.safetensors", "optimizer.pt", "state.json"
FORMAT = "chatbridge-checkpoint-1"
MOST_BYTES = 64 << 20  # of a manifest or state.json; no real one comes near
_SEAL = re.compile(rb'"sha256": "([0-9a-f]{64})"\s*\}\s*$')  # the last entry of a manifest
_ZEROS = "0" * 64
_CHUNK = 1 << 20


class UnusableCheckpoint(ValueError):
    """A checkpoint that is damaged or incomplete; str() has the file and the reason."""


def write_manifest(folder: Path, manifest: Mapping[str, Any], known: Mapping[str, Any] | None = None) -> None:
    """Write the manifest with the checksums of all other files of the folder, which must be complete.

    known   name -> what `describe` returned for files that other ranks have read back
    """
    paths, known = sorted(folder.iterdir()), known or {}
    files = {path.name: known.get(path.name) or describe(path) for path in paths if path.name != MANIFEST}
    seal_manifest(folder / MANIFEST, {**manifest, "files": files})


def seal_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """Write a manifest with its own checksum as the last entry."""
    text = json.dumps({**{k: v for k, v in manifest.items() if k != "sha256"}, "sha256": _ZEROS}, indent=1)
    digest = hashlib.sha256(text.encode()).hexdigest()
    with errors_name_file(path):
        path.write_text(digest.join(text.rsplit(_ZEROS, 1)), encoding="utf-8")
        sync_to_disk(path)


def describe(path: Path) -> dict[str, Any]:
    """{"bytes", "sha256"} of a file, read back from the disk."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """The manifest of a checkpoint, with the types of its entries checked.

    raises  UnusableCheckpoint when it is missing, damaged, of a different version, or not a manifest
    """
    path = checkpoint / MANIFEST
    content = _read_bytes(path)
    manifest = parse_json(path, content)
    if not isinstance(manifest, dict):
        raise UnusableCheckpoint(f"{path}: is not a manifest, expected a JSON mapping")
    if "files" in manifest or "sha256" in manifest:
        _check_seal(path, content)
    if manifest.get("format") != FORMAT:
        found = str(manifest.get("format"))[:80]
        raise UnusableCheckpoint(
            f"{path}: of a different version: expected format {FORMAT!r}, found {found!r}; read it with the version "
            "of chatbridge that wrote it"
        )
    if wrong := list(_wrong_types(manifest)):
        raise UnusableCheckpoint(f"{path}: is not a chatbridge manifest: {'; '.join(wrong[:5])}")
    return resolved_environment(manifest)


def has_checksums(manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest has checksums of its files; those of earlier versions have none."""
    return "files" in manifest


def parse_json(path: Path, content: bytes) -> Any:
    """The value in JSON bytes. raises UnusableCheckpoint for bytes that are not JSON"""
    try:
        return json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        reason = f"byte {error.start} is not UTF-8 text"
    except RecursionError:
        reason = "nested too deeply"
    except ValueError as error:
        reason = str(error)
    what = "is empty" if not content else f"is damaged, it cannot be read as JSON ({reason[:200]})"
    raise UnusableCheckpoint(f"{path}: {what}")


def read_json(path: Path) -> Any:
    """The value in a JSON file. raises UnusableCheckpoint when the file is missing, too large or not JSON"""
    return parse_json(path, _read_bytes(path))


def _read_bytes(path: Path) -> bytes:
    try:
        if not path.exists():
            raise UnusableCheckpoint(f"{path}: is missing")
        if not path.is_file():
            raise UnusableCheckpoint(f"{path}: is not a file")
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise UnusableCheckpoint(f"{path}: has {size:,} bytes, at most {MOST_BYTES:,} are expected")
        return path.read_bytes()
    except OSError as error:
        raise UnusableCheckpoint(f"{path}: cannot be read: {error.strerror}") from None


def _check_seal(path: Path, content: bytes) -> None:
    found = _SEAL.search(content)
    if found is not None:
        start, end = found.span(1)
        if hashlib.sha256(content[:start] + _ZEROS.encode() + content[end:]).hexdigest().encode() == found[1]:
            return
    raise UnusableCheckpoint(f"{path}: is damaged or was edited: its sha256 does not match its content")


def _wrong_types(manifest: Mapping[str, Any]) -> Iterator[str]:
    if not is_count(manifest.get("step")):
        yield "step is not a number of steps"
    for key in ("model", "template", "tokenizer", "components", "preprocessing", "files", "versions"):
        if not isinstance(manifest.get(key, {}), dict):
            yield f"{key} is not a mapping"
    if not isinstance(_mapping(manifest, "template").get("name", ""), str):
        yield "template.name is not text"
    if not isinstance(_mapping(manifest, "tokenizer").get("fingerprint") or "", str):
        yield "tokenizer.fingerprint is not text"
    carried = manifest.get("carried", [])
    if not isinstance(carried, list) or not all(isinstance(name, str) for name in carried):
        yield "carried is not a list of names"
    for name, entry in _mapping(manifest, "components").items():
        if not _describes_component(entry):
            yield f"components.{name} does not describe a component"
    for name, entry in _mapping(manifest, "files").items():
        if not _describes_file(name, entry):
            yield f"files.{name[:80]} does not describe a file"
    for kind in ("encoders", "bridges"):
        parts = _mapping(manifest, "model").get(kind, {})
        if not isinstance(parts, dict) or not all(isinstance(part, dict) for part in parts.values()):
            yield f"model.{kind} is not a mapping of components"


def _describes_component(entry: Any) -> bool:
    if not isinstance(entry, dict):
        return False
    sides = [entry.get(side) for side in ("trained", "frozen")]
    return all(isinstance(side, dict) and is_count(side.get("tensors")) for side in sides) and isinstance(
        entry["frozen"].get("fingerprint") or "", str
    )


def _describes_file(name: str, entry: Any) -> bool:
    plain = name not in ("", ".", "..") and not re.search(r"[/\\\0]", name)
    return plain and isinstance(entry, dict) and is_count(entry.get("bytes")) and isinstance(entry.get("sha256"), str)


def _mapping(manifest: Mapping[str, Any], key: str) -> dict[str, Any]:
    node = manifest.get(key)
    return node if isinstance(node, dict) else {}


def is_count(value: Any) -> bool:
    """Whether a value is an integer of at least 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
