"""Base of the builders with a `format:`: one annotation file, read into typed records and packed."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from chatbridge.common import seeds
from chatbridge.common.errors import DataError, MediaError, Problem
from chatbridge.config.schema import missing_path
from chatbridge.conversation.messages import Conversation
from chatbridge.datasets.builders.base import Dataset, DatasetConfig, Record
from chatbridge.datasets.formats.records import AnnotationRecord, Format, Parsed
from chatbridge.datasets.formats.selection import Selection, Unanswered
from chatbridge.datasets.packed_records import Packed, pack

FIRST = 3  # records that show which format a file has
R = TypeVar("R", bound=AnnotationRecord)
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AnnotationFileConfig(DatasetConfig):
    """One annotation file in one of several layouts."""

    annotations: Path  # the annotation file; `format` names its layout
    # records without an answer (test splits): refuse the file, skip them, or keep them as prompts of an evaluation
    unanswered: Unanswered = "refuse"

    formats: ClassVar[Mapping[str, Format[Any]]]
    if TYPE_CHECKING:
        format: str  # a field of every builder's Config, with its own names

    @property
    def layout(self) -> Format[Any]:
        return self.formats[self.format]

    def read(self, layout: Format[R]) -> Iterator[Parsed[R]]:
        """The records of the file in a layout."""
        return layout.read(self.annotations, **{key: getattr(self, key) for key in layout.settings})

    def problems(self) -> Iterator[Problem]:
        """Missing files, keys that the format does not take, keys that it needs."""
        for key in ("annotations", "questions", "mapping", "ids", "references"):
            path = getattr(self, key, None)
            if path is not None and (problem := missing_path(path, "file")):
                yield replace(problem, path=key)
        layout = self.layout
        others = {key for one in self.formats.values() for key in one.keys} - layout.keys
        for field in fields(self):
            if field.name in others and getattr(self, field.name) != field.default:
                users = ", ".join(key for key, one in self.formats.items() if field.name in one.keys)
                yield Problem(field.name, f"is not used by the format {self.format!r}; it belongs to: {users}")
        for key, meaning in layout.needs.items():
            if getattr(self, key) is None and self.unanswered != "keep":
                hint = "questions without answers: unanswered: keep, for an evaluation"
                yield Problem(key, f"is missing: the format {self.format!r} has two files; {meaning}", hint=hint)


class AnnotationDataset(Dataset, Generic[R]):
    """The records of one annotation file; each builder turns a record into a conversation."""

    config: AnnotationFileConfig
    record_type: ClassVar[type[Any]]  # R

    def __init__(self, config: AnnotationFileConfig, name: str):
        super().__init__(config, name)
        self._packed = self._read()
        self._kept = self._one_per_item() if getattr(config, "sample_image", False) else None
        self._settle(len(self._packed if self._kept is None else self._kept), str(config.annotations))

    @abstractmethod
    def conversation(self, record: R, rng: np.random.Generator) -> tuple[Conversation, tuple[str, ...]]:
        """The conversation of a record, and every correct answer. raises MediaError"""

    def fault(self, record: R) -> str | None:
        """What else is wrong with a record, or None. Called for every record when the source opens."""
        return None

    def usable(self, found: Iterable[Parsed[R]]) -> Iterable[Parsed[R]]:
        """The selected records and faults that are kept: all of them. Called once, when the source opens."""
        return found

    def note(self) -> str | None:
        return "; ".join(filter(None, (self._packed.note, self._kept_open))) or None

    def sample_id(self, index: int) -> str:
        return self._annotation(index).id

    def shared_id(self, index: int) -> str:
        record = self._annotation(index)
        return record.names[0] if self.config.layout.is_multis else record.id

    def details(self, index: int) -> Mapping[str, Any]:
        return self._annotation(index).details

    def references(self, index: int) -> tuple[str, ...]:
        return self.answers(self._annotation(index))

    def answers(self, record: R) -> tuple[str, ...]:
        """Every correct answer of a record, without its media; () where one of several questions is drawn."""
        return ()

    def record(self, index: int, rng: np.random.Generator) -> Record:
        record = self._annotation(index)
        messages, references = self.conversation(record, rng)
        is_prompt = self.config.unanswered == "keep"
        if not is_prompt and not any(message.role == "assistant" and message.has_content for message in messages):
            raise MediaError("the record has no answer with text, so nothing would be supervised")
        return Record(record.id, messages, references, record.details)

    def is_open(self, record: R) -> bool:
        """Whether a record without an answer is kept as the prompt of an evaluation."""
        return self.config.unanswered == "keep" and not record.is_answered

    def _annotation(self, index: int) -> R:
        stored = self._stored(index)
        return self._unpacked(stored if self._kept is None else int(self._kept[stored]))

    def _unpacked(self, position: int) -> R:
        return self.record_type.unpacked(self._packed[position])

    def _one_per_item(self) -> NDArray[np.int64]:
        """Position of one record of every media item, in the order of the file."""
        seed, by_item = self.config.limit_seed, dict[Any, list[int]]()
        for position in range(len(self._packed)):
            record = self._unpacked(position)
            key = (position,) if record.files == {} else (record.names, tuple((record.files or {}).items()))
            by_item.setdefault(key, []).append(position)
        chosen = (
            positions[0 if seed is None else seeds.number(seed, "one per item", number) % len(positions)]
            for number, positions in enumerate(by_item.values())
        )
        return np.sort(np.fromiter(chosen, np.int64, len(by_item)))

    def _read(self) -> Packed:
        """The selected records, packed; logs what was left out."""
        config, layout, split = self.config, self.config.layout, getattr(self.config, "split", None)
        splits = (split,) if isinstance(split, str) else split
        selection = Selection(config.annotations, splits, None if layout.is_multis else config.unanswered)
        found = self.usable(selection(config.read(layout)))
        with suggest_format(config):
            packed = pack(config.annotations, ((one.place, *self._checked(one)) for one in found))
        for note in [] if layout.is_multis else selection.notes():
            logger.warning("source %s: %s: %s", self.name, config.annotations, note)
        self._kept_open = selection.kept_open()
        return packed

    def _checked(self, one: Parsed[R]) -> tuple[Any, str | None]:
        return (None, one.fault) if one.record is None else (one.record.packed(), self.fault(one.record))


@contextmanager
def suggest_format(config: AnnotationFileConfig) -> Iterator[None]:
    """Add to a DataError the formats that the first records fit, when they do not fit their own: two files swapped."""
    try:
        yield
    except DataError as error:
        others = [key for key, one in config.formats.items() if not one.is_multis and _fits(config, one)]
        if not others or _fits(config, config.layout):
            raise
        raise DataError(f"{error}\n    its records fit format: {' or '.join(others)}; is it the right file?") from None


def _fits(config: AnnotationFileConfig, layout: Format[Any]) -> bool:
    """Whether the first records of the file can be read in a layout."""
    if any(getattr(config, key) is None for key in layout.needs):
        return False
    try:
        first = list(islice(config.read(layout), FIRST))
    except DataError:
        return False
    return bool(first) and all(one.fault is None for one in first)
