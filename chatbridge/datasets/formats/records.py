"""The typed records that annotation formats yield, and what a format declares.

A builder turns a record into a conversation in one step; nothing in between is untyped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from chatbridge.datasets.formats.json_fields import BadRecord, Fields
from chatbridge.datasets.formats.json_stream import JsonValue, rows, section

R = TypeVar("R")
Turn = tuple[str, str]  # (role, text); the role is "system", "user" or "assistant"


@dataclass(frozen=True, kw_only=True)
class AnnotationRecord:
    """What every annotation has.

    id       the annotation's own id; "": the builder names the record after its place in the file
    names    names under which its media file may be found, the most likely first; the builder's tag has the modality
    files    instead of names: modality -> exactly these files; {} for a text-only record
    details  other fields of the annotation: evaluation can group its results by them
    """

    id: str = ""
    names: tuple[str, ...] = ()
    files: Mapping[str, tuple[str, ...]] | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_answered(self) -> bool:
        """False for a record of a test split that keeps its answers."""
        return True

    def packed(self) -> list[Any]:
        """Its fields as JSON, without their names."""
        return list(vars(self).values())

    @classmethod
    def unpacked(cls, values: Sequence[Any]) -> Self:
        """The record of `packed` values."""
        named = zip((one.name for one in fields(cls)), values, strict=True)
        return cls(**{name: value if name == "details" else _with_tuples(value) for name, value in named})


@dataclass(frozen=True, kw_only=True)
class CaptionRecord(AnnotationRecord):
    """One media item and its captions."""

    captions: tuple[str, ...]

    @property
    def is_answered(self) -> bool:
        return bool(self.captions)


@dataclass(frozen=True, kw_only=True)
class QuestionRecord(AnnotationRecord):
    """Questions about one media item, of which one is asked: (question, every correct answer)."""

    questions: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def is_answered(self) -> bool:
        return any(answers for _, answers in self.questions)


@dataclass(frozen=True, kw_only=True)
class ChoiceRecord(AnnotationRecord):
    """A question with options, of which one is correct.

    hint     text that belongs to the question, "" if there is none
    answer   number of the correct option, None in a test split
    placed   its texts have marks such as <audio 2> where its `files` belong (the second audio file here)
    """

    question: str
    options: tuple[str, ...]
    answer: int | None
    hint: str = ""
    placed: bool = False

    @property
    def is_answered(self) -> bool:
        return self.answer is not None

    def rotated(self, by: int) -> ChoiceRecord:
        """The same with every option `by` places earlier in the list."""
        count = len(self.options)
        options = self.options[by:] + self.options[:by]
        return replace(self, options=options, answer=None if self.answer is None else (self.answer - by) % count)


@dataclass(frozen=True, kw_only=True)
class StatementRecord(AnnotationRecord):
    """A sentence about an image and what it is judged as: one of `labels`, "" where no one agreed.

    written   the label as the file spells it
    """

    sentence: str
    label: str
    written: str
    labels: tuple[str, ...]

    @property
    def is_answered(self) -> bool:
        return bool(self.label)


@dataclass(frozen=True, kw_only=True)
class DialogueRecord(AnnotationRecord):
    """Turns, with any number of media or none.

    references   every correct last answer; empty: the one of the turns
    """

    turns: tuple[Turn, ...]
    references: tuple[str, ...] = ()

    @property
    def is_answered(self) -> bool:
        """Whether the last answer has text."""
        answers = [text for role, text in self.turns if role == "assistant"]
        return bool(answers) and bool(answers[-1].strip())


def rounds(pairs: Iterable[tuple[str, str]]) -> tuple[Turn, ...]:
    """The turns of (question, answer) pairs."""
    return tuple(turn for question, answer in pairs for turn in (("user", question), ("assistant", answer)))


@dataclass(frozen=True)
class Parsed(Generic[R]):
    """A record and its place in the file ("questions, record 7"), or why it cannot be used."""

    place: str
    record: R | None
    fault: str | None = None


def parsed(value: JsonValue, read: Callable[..., R], *given: Any, **settings: Any) -> Parsed[R]:
    """The record that `read` makes of the fields of a value; what it refuses with BadRecord becomes a fault."""
    if value.fault is not None:
        return Parsed(value.place, None, value.fault)
    try:
        return Parsed(value.place, read(Fields(value.value), *given, **settings))
    except BadRecord as error:
        return Parsed(value.place, None, str(error))


def each(read: Callable[..., R], *sections: str) -> Callable[..., Iterator[Parsed[R]]]:
    """A reader of files with one record per value: `read` gets the Fields of a value, and the settings by name."""

    def records(annotations: Path, **settings: Any) -> Iterator[Parsed[R]]:
        return (parsed(value, read, **settings) for value in section(annotations, *sections))

    return records


def each_row(read: Callable[..., R]) -> Callable[..., Iterator[Parsed[R]]]:
    """The same for a list, or lines whatever the file is called."""

    def records(annotations: Path, **settings: Any) -> Iterator[Parsed[R]]:
        return (parsed(value, read, **settings) for value in rows(annotations))

    return records


@dataclass(frozen=True)
class Format(Generic[R]):
    """A layout of annotation files.

    read        called with the annotation file, and `settings` by name
    settings    attributes of the builder's Config that `read` takes
    needs       those that must be given, with what belongs there
    has_splits  its records have their split in details["split"]
    is_multis   the layout of MULTIS: an id names a media file, which several records may share, and every record has
                its answers
    options     attributes of the builder's Config that the builder itself uses, for this layout only
    """

    read: Callable[..., Iterator[Parsed[R]]]
    settings: tuple[str, ...] = ()
    needs: Mapping[str, str] = field(default_factory=dict)
    has_splits: bool = False
    is_multis: bool = False
    options: tuple[str, ...] = ()

    @property
    def keys(self) -> frozenset[str]:
        """Keys of the builder's Config that only some formats take, this one among them."""
        if self.is_multis:
            return frozenset()
        return frozenset((*self.settings, *self.options, "unanswered", *(("split",) if self.has_splits else ())))


def _with_tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_with_tuples, value))
    if isinstance(value, dict):
        return {key: _with_tuples(item) for key, item in value.items()}
    return value
