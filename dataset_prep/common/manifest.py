"""manifest.json of a prepared set: its files with samples and checksums, its inputs and settings.

    {"name": "cc3m", "made_by": "dataset_prep.web_images", "made_with": {"image_size": 256, ...},
     "files": [{"path": "00000.tar", "samples": 9876, "bytes": 123, "sha256": "..."}, ...],
     "samples": 2812345, "skipped": {"cannot be downloaded": 512345}}

Paths are relative to the folder of the manifest and sorted. The content does not depend on the time or the machine, so
the manifests of two copies of a set can be compared with `diff`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from chatbridge.common.errors import DataError
from chatbridge.common.file_names import is_hidden
from chatbridge.common.safe_files import replace_text

NAME = "manifest.json"


@dataclass(frozen=True)
class MadeFile:
    """One file of a prepared set; `path` is relative to the set's folder, with forward slashes.

    A folder of many small files (the frames of a video) counts as one: its bytes are those of all files in it.
    """

    path: str
    samples: int
    bytes: int
    sha256: str

    @classmethod
    def of(cls, folder: Path, path: str, samples: int) -> MadeFile:
        return cls(path, samples, num_bytes(folder / path), sha256(folder / path))

    def is_at(self, folder: Path) -> bool:
        """Whether the file exists with this size; `faults` also compares the content."""
        try:
            return num_bytes(folder / self.path) == self.bytes
        except OSError:
            return False


@dataclass
class Manifest:
    """The content of manifest.json."""

    name: str  # of the set, as in its YAML
    made_by: str  # module of the script
    made_with: dict[str, Any]  # the arguments that the content of the files depends on
    files: dict[str, MadeFile] = field(default_factory=dict)  # by path
    skipped: dict[str, int] = field(default_factory=dict)  # reason -> number of records

    @property
    def samples(self) -> int:
        return sum(file.samples for file in self.files.values())

    def write(self, folder: Path) -> Path:
        files = [asdict(self.files[path]) for path in sorted(self.files)]
        head = {"name": self.name, "made_by": self.made_by, "made_with": self.made_with}
        skipped = dict(sorted(self.skipped.items()))
        return write_json(folder / NAME, {**head, "files": files, "samples": self.samples, "skipped": skipped})

    @classmethod
    def read(cls, folder: Path, name: str = NAME) -> Manifest | None:
        """The manifest of a folder, None without one. raises DataError for a file that is not a manifest

        name   of the file: the lists of MULTIS are in one folder, each with <list>.manifest.json
        """
        path = folder / name
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            files = {file["path"]: MadeFile(**file) for file in content["files"]}
            if not all(isinstance(value, str) for value in (content["name"], *files)):
                raise ValueError("its name, or the path of a file, is not text")
            return cls(content["name"], content["made_by"], dict(content["made_with"]), files, dict(content["skipped"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}: is not a manifest of dataset_prep ({type(error).__name__}: {error}); move it away"
            ) from None

    def faults(self, folder: Path) -> list[str]:
        """The differences between the manifest and the files, one line each; reads every byte."""
        found = []
        for file in self.files.values():
            if not (folder / file.path).exists():
                found.append(f"{file.path}: is missing")
            elif not file.is_at(folder):
                found.append(f"{file.path}: has {num_bytes(folder / file.path)} bytes, expected {file.bytes}")
            elif sha256(folder / file.path) != file.sha256:
                found.append(f"{file.path}: its content has changed (sha256)")
        return found


def num_bytes(path: Path) -> int:
    """The size of a file, or of all files directly in a folder except hidden ones. raises OSError without a file"""
    return sum(file.stat().st_size for file in _inside(path)) if path.is_dir() else path.stat().st_size


def sha256(path: Path) -> str:
    """The checksum of a file, or of the names and contents of a folder's files, sorted by name.

    Hidden files do not count, because operating systems add them on their own.
    """
    if path.is_dir():
        lines = [f"{file.name} {sha256(file)}\n" for file in sorted(_inside(path))]
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _inside(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not is_hidden(path.name)]


def write_json(path: Path, value: Mapping[str, Any] | list[Any]) -> Path:
    """Write JSON atomically; returns the path."""
    return write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> Path:
    """Write UTF-8 text atomically; returns the path."""
    replace_text(path, text)
    return path


def part_of(path: Path) -> Path:
    """The temporary path of a file that is being written; one left by a killed process is overwritten."""
    return path.with_name(f".{path.name}.part")
