"""Find checkpoint folders and verify their files.

step_000400/model.safetensors    trainable tensors by name
            shard-*.safetensors    rows of sharded ones and of their moments, see checkpoint_tensors
            optimizer.pt, state.json    read only by a resume
            manifest.json    ..., "files": {name: {"bytes", "sha256"}}, "sha256": of the manifest itself
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from chatbridge.models.checkpoint_manifest import (
    MANIFEST,
    OPTIMIZER,
    STATE,
    WEIGHTS,
    UnusableCheckpoint,
    describe,
    has_checksums,
    read_manifest,
)
from chatbridge.models.checkpoint_tensors import is_shard
from chatbridge.models.tensor_headers import deepspeed_hint, weights_in_folder

CHECKPOINTS, BEST = (
    "checkpoints",
    "best",
)  # in a run folder: the folder of checkpoints; the file that names the best one
REMEDY = "copy the checkpoint again from an intact source, or use another one"


def checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints of a folder, oldest first; an unfinished one has no manifest and is left out."""
    return [path for path in step_folders(folder) if (path / MANIFEST).is_file()]


def step_folders(folder: Path) -> list[Path]:
    """All folders named like a checkpoint, by step, complete or not."""
    found = [path for path in folder.glob("step_*") if is_step(path)]
    return sorted(found, key=step_of)


def is_step(path: Path) -> bool:
    """Whether a path is named like a checkpoint: step_ and a number."""
    return path.name.startswith("step_") and path.name[5:].isascii() and path.name[5:].isdigit()


def step_of(path: Path) -> int:
    """The step in the name of a checkpoint folder."""
    return int(path.name[5:])


def has_files(checkpoint: Path) -> bool:
    """Whether a folder contains any file of a checkpoint."""
    return any((checkpoint / name).exists() for name in (MANIFEST, WEIGHTS, OPTIMIZER, STATE))


def best_checkpoint(run: Path) -> Path | None:
    """The checkpoint that the file `best` of a run folder names; None without one, or when it is gone."""
    try:
        return _named_by(run / BEST)
    except ValueError:
        return None


def is_run_or_checkpoint(path: Path) -> bool:
    """Whether a path is a folder of ours, or the file `best` of a run folder; other files and model folders are
    released weights."""
    return (path.is_dir() and not is_released_folder(path)) or (path.name == BEST and path.is_file())


def is_released_folder(path: Path) -> bool:
    """Whether a folder holds released weights: a model folder of transformers, or nothing but one weights file."""
    if is_step(path) or (path / MANIFEST).exists() or (path / CHECKPOINTS).exists():
        return False
    try:
        return weights_in_folder(path).name != WEIGHTS or (path / "config.json").is_file()
    except (OSError, ValueError):
        return False


def _named_by(pointer: Path) -> Path:
    """raises ValueError when the file is not there or cannot be read, or the checkpoint is gone"""
    run = pointer.parent
    if not run.is_dir():
        raise ValueError(f"there is no run folder {run}")
    if not pointer.exists():
        raise ValueError(
            f"{run} has no file {BEST}, so it has no best checkpoint (run.best or run.patience choose one, with "
            f"run.validate_every or evaluation.every); name {run} for its newest checkpoint, or a step_* folder"
        )
    try:
        name = str(json.loads(pointer.read_text(encoding="utf-8"))["checkpoint"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{pointer} does not name a checkpoint ({error}); name a step_* folder instead") from None
    found = pointer.parent / CHECKPOINTS / Path(name).name
    if not (found / MANIFEST).is_file():
        raise ValueError(f"{pointer} names {found}, which is not there; name another step_* folder, or the run folder")
    return found


def find_checkpoint(path: Path | str) -> Path:
    """The checkpoint that `path` denotes: the folder itself, the newest one of a run folder, or the one that its file
    `best` names.

    raises  ValueError when there is none
    """
    path = Path(path)
    if path.name == BEST and not path.is_dir():
        return _named_by(path)
    if (path / MANIFEST).is_file() or (is_step(path) and path.is_dir() and has_files(path)):
        return path
    for folder in (path / CHECKPOINTS, path):
        if found := [step for step in step_folders(folder) if has_files(step)]:
            return found[-1]
    what = "has no checkpoints in it" if path.is_dir() else "is a file" if path.is_file() else "does not exist"
    expected = f"expected a run folder (with checkpoints/) or a step_* folder (with {MANIFEST})"
    raise ValueError(f"{path} {what}; {expected}{deepspeed_hint(path)}")


def damaged_files(checkpoint: Path, manifest: Mapping[str, Any], needed: Collection[str]) -> dict[str, str]:
    """File -> the fault found by its size and sha256. A missing file is a fault only if it is needed."""
    faults = {name: f"{checkpoint / name}: is missing" for name in needed if not (checkpoint / name).is_file()}
    for name, entry in manifest.get("files", {}).items():
        path = checkpoint / name
        if path.is_file() and (fault := _fault(path, entry)):
            faults[name] = fault
    for name in needed:
        if has_checksums(manifest) and name not in manifest["files"]:
            faults.setdefault(name, f"{checkpoint / name}: has no checksum in {MANIFEST}")
    return faults


def _fault(path: Path, entry: Mapping[str, Any]) -> str | None:
    size = path.stat().st_size
    if size != entry["bytes"]:
        how = "is empty" if not size else "is truncated" if size < entry["bytes"] else "is damaged"
        return f"{path}: {how}: {size:,} bytes, {entry['bytes']:,} were written"
    try:
        if describe(path)["sha256"] != entry["sha256"]:
            return f"{path}: is damaged: its sha256 is not the one that was written"
    except OSError as error:
        return f"{path}: cannot be read: {error.strerror}"
    return None


def read_checked(checkpoint: Path, needed: Collection[str] = (WEIGHTS,)) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The manifest of a checkpoint whose files are intact, and notes for the log.

    needed   files that will be read; damage of the others is a note. With the weights, those with rows are needed too
    raises   UnusableCheckpoint with every needed file that is damaged
    """
    manifest = read_manifest(checkpoint)
    if WEIGHTS in needed:
        needed = (*needed, *(name for name in manifest.get("files", {}) if is_shard(name)))
    if is_step(checkpoint) and manifest["step"] != step_of(checkpoint):
        raise UnusableCheckpoint(f"{checkpoint / MANIFEST}: is of step {manifest['step']}, not of this folder's step")
    faults = damaged_files(checkpoint, manifest, needed)
    if serious := [fault for name, fault in faults.items() if name in needed]:
        raise UnusableCheckpoint("\n".join(serious))
    notes = [f"{fault} (not read here)" for fault in faults.values()]
    if not has_checksums(manifest):
        notes.append(f"{checkpoint} has no checksums (an earlier version wrote it): damage cannot be detected")
    return manifest, tuple(notes)


def refused(checkpoint: Path, error: UnusableCheckpoint) -> UnusableCheckpoint:
    """The same error with the next step, and the newest intact older checkpoint of the folder if there is one."""
    for other in reversed(checkpoints(checkpoint.parent) if is_step(checkpoint) else []):
        try:
            if other != checkpoint and step_of(other) < step_of(checkpoint):
                read_checked(other)
                return UnusableCheckpoint(f"{error}\n{REMEDY}; the newest intact one is {other}")
        except UnusableCheckpoint:
            continue
    return UnusableCheckpoint(f"{error}\n{REMEDY}")
