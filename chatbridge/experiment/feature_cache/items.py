"""The media items of the sources of a run: which ones the feature cache must hold, and which of them it lacks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chatbridge.common.errors import MediaError
from chatbridge.common.safe_files import replace_text
from chatbridge.config.schema import plain
from chatbridge.conversation.messages import Media
from chatbridge.datasets.builders import Dataset
from chatbridge.datasets.feature_cache.store import FeatureSet
from chatbridge.datasets.quarantine import Quarantine
from chatbridge.datasets.sample_reader import processors_for, sample_name

COVERED = "covered.json"
ALL_CHECKED = 5000  # samples of a source that are all looked up at the start of a run
SPREAD = 500  # of a larger source whose build was complete
# Settings of a source that do not decide which media it has
_ASIDE = (
    "weight",
    "cap",
    "max_passes",
    "batch",
    "failure_budget",
    "pieces",
    "frames",
    "clips",
    "stream",
    "answer",
    "options",
    "input_header",
    "explain",
    "line_breaks",
    "pairing",
    "labels",
    "cache_folder",
    "cache_gb",
)
_ADDED = {"sample_image": False}  # settings of later versions, with the value that changes nothing
_ADDED_TO = {"WebPairs": {"prompts": None}}  # the same of one builder, where others had the setting before


def items_of(dataset: Dataset, index: int, modalities: Sequence[str]) -> list[Media]:
    """The media that draws of a sample may have, of these modalities. raises MediaError"""
    return [item for item in dataset.every_media(index) if item.modality in modalities]


def count_of(dataset: Dataset, modality: str, decoder: Any) -> int:
    """Pieces per item of this source."""
    return getattr(processors_for(dataset, {modality: decoder})[modality], "count", 1)


def source_digest(dataset: Dataset, count: int) -> str:
    """A hash of what decides the items of a source: its settings, its number of samples, the state of named files."""
    added = _ADDED | _ADDED_TO.get(type(dataset).__name__, {})
    settings = {
        key: value
        for key, value in plain(dataset.config).items()
        if key not in _ASIDE and not (key in added and value == added[key])
    }
    paths = [Path(value) for value in settings.values() if isinstance(value, str)]
    states = [(str(path), (found := path.stat()).st_size, found.st_mtime_ns) for path in paths if _is_file(path)]
    text = json.dumps([type(dataset).__name__, settings, len(dataset), count, states], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def covered(folder: Path) -> dict[str, Any]:
    """digest of a source -> its name and samples, of those that were built completely"""
    try:
        found = json.loads((folder / COVERED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def add_covered(folder: Path, entries: Mapping[str, Any]) -> None:
    """Record sources that were built completely."""
    replace_text(folder / COVERED, json.dumps({**covered(folder), **entries}, indent=1) + "\n")


@dataclass(frozen=True)
class Lack:
    """Items of a source that a set of features does not have.

    checked   samples that were looked up
    examples  ids of samples
    """

    source: str
    checked: int
    total: int
    missing: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        of = f"{self.missing:,} of {self.checked:,} samples" + (" looked up" if self.checked < self.total else "")
        return f"{self.source}: {of} have media that are not in the cache (for example {', '.join(self.examples)})"


def lacks(store: FeatureSet, decoder: Any, sources: Mapping[str, Dataset], quarantine: Quarantine) -> Iterator[Lack]:
    """What a set lacks of the sources of a run.

    Every sample of a small source is looked up. A larger one was built completely, as the set records for its settings
    and files; then some are looked up, none of a remote source, whose shards would be downloaded. Where it was not, all
    are.
    """
    modality, complete = store.record.modality, covered(store.folder)
    for name, dataset in sources.items():
        if modality not in dataset.modalities or not dataset.config.weight:
            continue
        count = count_of(dataset, modality, decoder)
        indexes: Sequence[int] = range(len(dataset))
        if len(dataset) > ALL_CHECKED and source_digest(dataset, count) in complete:
            is_remote = getattr(dataset.config, "is_remote", False)
            indexes = [] if is_remote else np.linspace(0, len(dataset) - 1, SPREAD).astype(int).tolist()
        found = [index for index in indexes if not _is_held(store, dataset, index, count, quarantine)]
        if found:
            examples = tuple(sample_name(dataset, index) for index in found[:3])
            yield Lack(name, len(indexes), len(dataset), len(found), examples)


def _is_held(store: FeatureSet, dataset: Dataset, index: int, count: int, quarantine: Quarantine) -> bool:
    """Whether all items of a sample are there. One that cannot be read is the failure log's, not the cache's."""
    if quarantine.find(dataset, index) is not None:
        return True
    try:
        items = items_of(dataset, index, (store.record.modality,))
        return all(store.holds(store.content(item.ref), count) for item in items)
    except MediaError:
        return True


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False
