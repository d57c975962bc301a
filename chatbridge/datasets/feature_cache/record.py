"""What the features of a set were made from; a hash of it names the set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from chatbridge.common.errors import DataError
from chatbridge.common.safe_files import replace_text
from chatbridge.datasets.feature_cache.config import Stored

FORMAT = 1  # of the files, and of this project's own preprocessing: raised when either changes what is stored
SET = "set.json"


@dataclass(frozen=True)
class FeatureRecord:
    """One set of features.

    encoder        class, settings, and the hash of all weights ("fingerprint"), with the dtype they compute in
    preprocessing  the processor as plain values, with the limits that decide what is read
    tokens, width  N and W of one piece
    values         how they are stored
    notes          not part of the identity: versions of libraries, prints of the weight files
    """

    modality: str
    encoder: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    tokens: int
    width: int
    values: Stored
    notes: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def identity(self) -> dict[str, Any]:
        """Everything but the notes, as JSON values."""
        return json.loads(json.dumps({key: value for key, value in asdict(self).items() if key != "notes"}))

    @property
    def name(self) -> str:
        """The folder of the set within the cache."""
        text = json.dumps(self.identity, sort_keys=True)
        return f"{self.modality}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def write(self, folder: Path) -> None:
        """raises   OSError that names the file"""
        replace_text(folder / SET, json.dumps({**self.identity, "notes": dict(self.notes)}, indent=1) + "\n")


def read_record(folder: Path) -> FeatureRecord:
    """The record of a set. raises DataError when it is missing, damaged, or written by a newer version"""
    path = folder / SET
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        version = int(found["format"])
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path}: is damaged: not the JSON object that describes a set of features") from None
    if version > FORMAT:
        raise DataError(f"{path}: was written by a newer version (format {version}, this version reads {FORMAT})")
    try:
        return FeatureRecord(**found)
    except TypeError:
        raise DataError(f"{path}: is damaged: it lacks settings of a set of features") from None


def records(folder: Path) -> dict[Path, FeatureRecord]:
    """The sets of a cache. raises DataError for one that cannot be read"""
    if not folder.is_dir():
        return {}
    return {path.parent: read_record(path.parent) for path in sorted(folder.glob(f"*/{SET}"))}


def changes(now: Mapping[str, Any], then: Mapping[str, Any], at: str = "") -> Iterator[str]:
    """A line per difference between two identities: `encoder.fingerprint: 12ab in the cache, 34cd now`."""
    for key in sorted({*now, *then}):
        path, one, other = f"{at}{key}", now.get(key), then.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from changes(one, other, f"{path}.")
        elif one != other:
            yield f"{path}: {_shown(other)} in the cache, {_shown(one)} now"


def _shown(value: Any) -> str:
    text = "(not set)" if value is None else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
