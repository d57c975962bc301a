"""What the builders of annotated media share: a JSON list, a task tag, folders of media found by id.

A tag is `<media>` or `<media>-<task>`: ti image, tv video, ta audio, tva video with its sound. Both parts are compared
as a whole; the reference looked for substrings and took "tv-station" for audio.
"""

from __future__ import annotations

from abc import abstractmethod
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path, PurePath
from typing import Any, ClassVar

import numpy as np

from chatbridge.common.errors import MediaError, Problem, nearest
from chatbridge.common.text_repair import repaired
from chatbridge.config.schema import missing_path
from chatbridge.conversation.messages import Media, Message
from chatbridge.datasets.annotations import check_fields, kind_of, load_annotations
from chatbridge.datasets.builders._formats import FormatConfig, read_layout, suggesting
from chatbridge.datasets.builders._lookup import find_media
from chatbridge.datasets.builders._prompts import prompt_problem, published_prompts, read_prompts
from chatbridge.datasets.builders.base import Dataset, Record, draw
from chatbridge.datasets.formats.entries import Wrong, is_empty, spelling
from chatbridge.datasets.media_paths import media_path
from chatbridge.datasets.unique_names import UniqueNames, numbered

MEDIA_OF_TAG = {"ti": ("image",), "tv": ("video",), "ta": ("audio",), "tva": ("video", "audio")}
ID_FIELDS = ("video_id", "image_id", "image")  # in this order; the first two name media of any kind, LLaVA has the last


@dataclass(frozen=True, kw_only=True)
class MultisConfig(FormatConfig):
    """One annotation file and its media."""

    tag: str  # media and task: ti-shortqa, tv-cap, ta-cap, tva-conv ...
    image_folder: Path | None = None  # where image ids are looked up
    video_folder: Path | None = None  # video files, or one folder of frames per id
    audio_folder: Path | None = None  # sound files; video files will do too
    prompts: Path | None = None  # JSON: tag -> prompts; null means the published MULTIS prompts

    tasks: ClassVar[tuple[str, ...]]  # second parts of a tag that the builder understands, "" for none
    prompted: ClassVar[tuple[str, ...]] = ()  # those that draw a prompt
    asks: ClassVar[bool] = False  # True when the prompts must have room for a question

    @property
    def modalities(self) -> tuple[str, ...]:
        return MEDIA_OF_TAG[self.tag.split("-")[0]]

    @property
    def task(self) -> str:
        return self.tag.partition("-")[2]

    @property
    def prompt_file(self) -> Path:
        return self.prompts or published_prompts()

    @property
    def prompt_list(self) -> tuple[str, ...]:
        return read_prompts(self.prompt_file)[self.tag] if self.task in self.prompted else ()

    def folder(self, modality: str) -> Path:
        return getattr(self, f"{modality}_folder")

    def problems(self) -> Iterator[Problem]:
        """Missing files, folders that do not fit the tag, prompts that are not there."""
        yield from super().problems()
        tags = [f"{media}-{task}" if task else media for media in MEDIA_OF_TAG for task in self.tasks]
        if self.tag not in tags:
            yield Problem("tag", f"cannot be {self.tag!r}", allowed=tuple(tags), nearest=nearest(self.tag, tags))
            return
        yield from self._folder_problems()
        if self.task in self.prompted:
            problem = prompt_problem(self.prompt_file, self.tag, self.asks)
            if problem:
                yield problem
        elif self.prompts is not None:
            yield Problem("prompts", f"is not used: the tag {self.tag!r} takes its words from the annotations")

    def _folder_problems(self) -> Iterator[Problem]:
        for modality in dict.fromkeys(chain(*MEDIA_OF_TAG.values())):
            key, folder = f"{modality}_folder", getattr(self, f"{modality}_folder")
            if modality in self.modalities and folder is None:
                yield Problem(key, f"is missing; the tag {self.tag!r} needs {modality} files")
            elif modality in self.modalities and (problem := missing_path(folder, "folder")):
                yield replace(problem, path=key)
            elif modality not in self.modalities and folder is not None:
                yield Problem(key, f"is not used: the tag {self.tag!r} has no {modality}")


def text_alone(value: Any) -> str | None:
    return value if isinstance(value, str) else None


class MultisDataset(Dataset):
    """Records of one annotation file as conversations; the builders say what the words are."""

    config: MultisConfig

    def __init__(self, config: MultisConfig, name: str):
        super().__init__(config, name)
        self.modalities = frozenset(config.modalities)
        self._prompts = config.prompt_list
        self._numbers = array("I")  # of ids that are there again; public layouts have told theirs apart
        if config.layout is None:
            unique = UniqueNames()

            def check(record: Any) -> str | None:
                fault = _check(self.check, record)
                self._numbers.append(1 if fault else unique.number(repaired(_identity(record))))
                return fault

            with suggesting(config):
                self._records = load_annotations(config.annotations, check)
        else:
            self._records = read_layout(config, config.layout, name, self.check)
        self._settle(len(self._records), str(config.annotations))

    def note(self) -> str | None:
        return self._records.note

    def sample_id(self, index: int) -> str:
        stored = self._stored(index)
        return self._name(stored, self._records[stored])

    def _name(self, stored: int, record: dict[str, Any]) -> str:
        return numbered(_identity(record), self._numbers[stored]) if self._numbers else _identity(record)

    def shared_id(self, index: int) -> str:
        return _identity(self._records[self._stored(index)])

    def record(self, index: int, rng: np.random.Generator) -> Record:
        stored = self._stored(index)
        record = self._records[stored]
        messages, references = self.messages(record, self._media(record), rng)
        is_prompt = self.config.unanswered == "keep"
        if not is_prompt and not any(message.role == "assistant" and message.text.strip() for message in messages):
            raise MediaError("the record has no words of the assistant to learn from")
        details = {key: value for key, value in record.items() if not key.startswith("_")}
        return Record(self._name(stored, record), messages, references, details)

    def _media(self, record: dict[str, Any]) -> tuple[Media, ...]:
        """The files of a record, in the order of the tag's modalities."""
        if "_files" not in record:
            names = record.get("_media") or _identity(record)
            return tuple(self._found(kind, names) for kind in self.config.modalities)
        files = record["_files"]
        strange = [kind for kind in files if kind not in self.config.modalities]
        if strange:
            raise MediaError(f"the record has {strange[0]} files, which the tag {self.config.tag!r} does not")
        return tuple(self._found(kind, name) for kind in self.config.modalities for name in files.get(kind, ()))

    def _found(self, kind: str, names: str | Sequence[str]) -> Media:
        """The sound of a video may be absent: what happens then is the run's to say (data.media.missing_sound)."""
        folder = self.config.folder(kind)
        try:
            return Media(kind, find_media(folder, names, kind))
        except MediaError:
            if kind != "audio" or "video" not in self.config.modalities:
                raise
            return Media(kind, media_path(folder, names if isinstance(names, str) else names[0]))

    @abstractmethod
    def check(self, record: dict[str, Any]) -> str | None:
        """What is wrong with a record that has an id, or None. Called for every record when the source opens."""

    @abstractmethod
    def messages(
        self, record: dict[str, Any], media: tuple[Media, ...], rng: np.random.Generator
    ) -> tuple[tuple[Message, ...], tuple[str, ...]]:
        """The conversation, and every answer that counts as right."""

    def draw_prompt(self, rng: np.random.Generator) -> str | None:
        """One prompt of the tag, or None when the tag has none."""
        return draw(self._prompts, rng) if self._prompts else None


def strings(value: Any, read: Callable[[Any], str | None] = text_alone) -> tuple[str, ...] | None:
    """A text, or a list of them that is not empty, as a tuple of texts; None for anything else.

    read   a text of a JSON value: `answer_of` where numbers are answers
    """
    texts = [read(item) for item in (value if isinstance(value, list) else [value])]
    return None if not texts or None in texts else tuple(text for text in texts if text is not None)


def texts_fault(field: str, value: Any, read: Callable[[Any], str | None] = text_alone) -> str | None:
    """What is wrong with a field of texts: its name, and the type of what is there; None when nothing is."""
    if strings(value, read) is not None:
        return None
    found = kind_of(value)
    if isinstance(value, list):
        wrong = [kind_of(item) for item in value if read(item) is None]
        found = f"a list that holds {wrong[0]}" if wrong else "an empty list"
    return f"{field} is neither text nor a list of texts: {found}"


def _check(check: Any, record: Any) -> str | None:
    fault = check_fields(record, (ID_FIELDS,)) or _id_fault(record)
    if fault is None:
        name, value = _id_field(record), record[_id_field(record)]
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            fault = f"{name!r} is neither text nor a number but {kind_of(value)}"
        elif not str(value).strip():
            fault = f"{name!r} is empty"
    return fault or check(record)


def _id_fault(record: dict[str, Any]) -> str | None:
    """Two ids that name different files; "7" and "coco/7.jpg" name the same one."""
    try:
        spelling({name: _stem(record[name]) for name in ID_FIELDS if name in record}, ID_FIELDS)
    except Wrong as error:
        return str(error)
    return None


def _stem(value: Any) -> Any:
    return PurePath(str(value)).stem if isinstance(value, (str, int)) and not isinstance(value, bool) else value


def _id_field(record: dict[str, Any]) -> str:
    """The first id that is not empty."""
    there = [name for name in ID_FIELDS if name in record]
    return next((name for name in there if not is_empty(record[name])), there[0])


def _identity(record: dict[str, Any]) -> str:
    return str(record["_id"] if "_id" in record else record[_id_field(record)])
