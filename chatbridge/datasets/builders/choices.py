"""Questions with options, asked with letters: public layouts of formats/choices.py, formats/audio_visual_choices.py
(an image or a video with audio) and formats/placed_choices.py (media between the words).

The options follow the question at `<OPTIONS>`, each as `option_form` writes it. `rotate` asks every question once per
option, with the options rotated (circular evaluation); `limit` counts questions, whose rotations are all asked or none.
The supervised answer is the letter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from string import ascii_uppercase
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from chatbridge.common.errors import MediaError, Problem, nearest
from chatbridge.config.schema import Length, missing_path
from chatbridge.conversation.messages import Conversation, Media
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.datasets.builders._annotated_media import folder_problems
from chatbridge.datasets.builders._annotation_file import AnnotationDataset, AnnotationFileConfig
from chatbridge.datasets.builders._placed_media import placed
from chatbridge.datasets.builders._prompt_form import asked, form_problems
from chatbridge.datasets.builders._prompts import QUESTION
from chatbridge.datasets.builders._turn_messages import answered
from chatbridge.datasets.builders.base import BUILDERS, Record
from chatbridge.datasets.formats.audio_visual_choices import AUDIO_VISUAL_FORMATS
from chatbridge.datasets.formats.choices import CHOICE_FORMATS
from chatbridge.datasets.formats.placed_choices import PLACED_FORMATS
from chatbridge.datasets.formats.records import ChoiceRecord
from chatbridge.datasets.media_paths import find_media, media_path

FormatName = Literal["aokvqa", "scienceqa", "omnibench", "worldsense", "daily_omni", "av_odyssey", "xmodbench"]
HINT, OPTIONS = "<HINT>", "<OPTIONS>"
LETTER, TEXT = "{letter}", "{text}"


@BUILDERS.register("choices")
class Choices(AnnotationDataset[ChoiceRecord]):
    """Details of a sample: `question` (alone), `hint`, `options` (letter -> text), `answer` (a letter, "" in a test
    split), `base` (id of the question) and `copy` (number of the rotation; 0: as in the file), and those of the
    annotation."""

    @dataclass(frozen=True, kw_only=True)
    class Config(AnnotationFileConfig):
        formats: ClassVar[Mapping[str, Any]] = {**CHOICE_FORMATS, **AUDIO_VISUAL_FORMATS, **PLACED_FORMATS}
        format: FormatName  # layout of the file
        media: Annotated[tuple[str, ...], Length(low=1)] = ("image",)  # modalities of the questions, in any order
        image_folder: Path | None = None  # where images are looked up
        video_folder: Path | None = None  # video files, or one folder of frames per id
        audio_folder: Path | None = None  # audio files; video files are accepted too
        split: str | tuple[str, ...] | None = None  # aokvqa, scienceqa: train, val, test; several are joined
        splits: Path | None = None  # scienceqa: pid_splits.json, with the lists of the splits
        images: bool = False  # scienceqa: only the questions with an image
        # the turn of the user: markers of its media, <QUESTION>, <OPTIONS>, and <HINT>, which is left out where a
        # question has none. Without <OPTIONS> they are not shown, for a comparison of their likelihood. av_odyssey,
        # xmodbench: without markers, as the questions have the places of their media
        prompt: str = f"<image> {HINT}\n{QUESTION}\n{OPTIONS}\nAnswer with the letter of the option."
        option_form: str = f"{LETTER}. {TEXT}"  # of one option
        option_separator: str = "\n"  # between two options
        rotate: bool = False  # ask each question once per option, with the options rotated (circular evaluation)

        @property
        def in_folders(self) -> tuple[str, ...]:
            """The modalities that have a folder among these settings."""
            names = (one.name for one in fields(self))
            return tuple(name.removesuffix("_folder") for name in names if name.endswith("_folder"))

        def problems(self) -> Iterator[Problem]:
            yield from super().problems()
            if self.splits is not None and (problem := missing_path(self.splits, "file")):
                yield replace(problem, path="splits")
            for name in self.media:
                if name not in self.in_folders:
                    message = f"has {name!r}, which is not looked up in a folder"
                    yield Problem("media", message, allowed=self.in_folders, nearest=nearest(name, self.in_folders))
            yield from self._folder_problems()
            own = () if self.format in PLACED_FORMATS else tuple(name for name in self.media if name in self.in_folders)
            markers = [MODALITIES.get(name).marker for name in own]
            yield from form_problems(self.prompt, (QUESTION,), (HINT, OPTIONS), markers)
            for marker in [MODALITIES.get(name).marker for name in self.in_folders if name not in own]:
                if marker not in self.prompt:
                    continue
                if self.format in PLACED_FORMATS:
                    message = f"has {marker}, but questions of the format {self.format!r} place their media themselves"
                    yield Problem("prompt", message, hint="remove it, for example: <QUESTION>\\n<OPTIONS>")
                else:
                    yield Problem("prompt", f"has {marker}, but `media` is {', '.join(self.media)}")
            if self.option_form.count(TEXT) != 1 or self.option_form.count(LETTER) > 1:
                message = f"needs {TEXT} once, and {LETTER} at most once"
                yield Problem("option_form", message, hint=f'for example "{LETTER}. {TEXT}"')

        def _folder_problems(self) -> Iterator[Problem]:
            unused = f"`media` is {', '.join(self.media)}"
            yield from folder_problems(
                self, self.in_folders, self.media, "the questions have {} files (`media`)", unused
            )

    config: Config
    record_type = ChoiceRecord

    def __init__(self, config: Config, name: str):
        super().__init__(config, name)
        self.modalities = frozenset(config.media)
        used = [self._stored(number) for number in range(len(self))]
        counts = [len(self._unpacked(one).options) if config.rotate else 1 for one in used]
        self._positions = np.repeat(np.array(used, np.int64), counts)
        self._copies = np.concatenate([np.arange(count) for count in counts])
        self._size = len(self._positions)

    def sample_id(self, index: int) -> str:
        record, copy = self._question(index)
        return f"{record.id}+{copy}" if copy else record.id

    def shared_id(self, index: int) -> str:
        return self._annotation(index).id

    def details(self, index: int) -> Mapping[str, Any]:
        record, copy = self._question(index)
        return {
            **record.details,
            "question": record.question,
            "hint": record.hint,
            "options": _lettered(record),
            "answer": _letter(record) or "",
            "base": record.id,
            "copy": copy,
        }

    def answers(self, record: ChoiceRecord) -> tuple[str, ...]:
        return () if (letter := _letter(record)) is None else (letter,)

    def record(self, index: int, rng: np.random.Generator) -> Record:
        messages, references = self.conversation(self._annotation(index), rng)
        return Record(self.sample_id(index), messages, references, self.details(index))

    def conversation(self, record: ChoiceRecord, rng: np.random.Generator) -> tuple[Conversation, tuple[str, ...]]:
        texts = {HINT: record.hint, QUESTION: record.question, OPTIONS: self._listed(record)}
        media = self._media(record)
        turn = asked(self.config.prompt, () if record.placed else media, texts)
        parts = placed(turn.parts, media) if record.placed else turn.parts
        return answered(_letter(record), *parts), self.answers(record)

    def fault(self, record: ChoiceRecord) -> str | None:
        return None if record.question.strip() else "'question' is empty"

    def _listed(self, record: ChoiceRecord) -> str:
        form = self.config.option_form
        shown = (form.replace(LETTER, letter).replace(TEXT, text) for letter, text in _lettered(record).items())
        return self.config.option_separator.join(shown)

    def _annotation(self, index: int) -> ChoiceRecord:
        return self._question(index)[0]

    def _question(self, index: int) -> tuple[ChoiceRecord, int]:
        """The index-th question with its options rotated, and the number of the rotation. raises IndexError"""
        if not 0 <= index < len(self):
            raise IndexError(f"question {index} of {len(self)} in source {self.name!r}")
        copy = int(self._copies[index])
        return self._unpacked(int(self._positions[index])).rotated(copy), copy

    def _media(self, record: ChoiceRecord) -> tuple[Media, ...]:
        """The files of a record. raises MediaError for a file that is missing"""
        if record.files is None:
            return tuple(self._found(kind, record.names) for kind in self.config.media)
        strange = [kind for kind in record.files if kind not in self.config.media]
        if strange:
            raise MediaError(f"the record has {strange[0]} files, `media` is {', '.join(self.config.media)}")
        return tuple(self._found(kind, (name,)) for kind in self.config.media for name in record.files.get(kind, ()))

    def _found(self, kind: str, names: tuple[str, ...]) -> Media:
        """The audio of a video may be missing: data.media.missing_sound decides what happens then."""
        folder = getattr(self.config, f"{kind}_folder")
        try:
            return Media(kind, find_media(folder, names, kind))
        except MediaError:
            if kind != "audio" or "video" not in self.config.media:
                raise
            return Media(kind, media_path(folder, names[0]))


def _lettered(record: ChoiceRecord) -> dict[str, str]:
    """letter -> text of its option"""
    return dict(zip(ascii_uppercase, record.options))


def _letter(record: ChoiceRecord) -> str | None:
    return None if record.answer is None else ascii_uppercase[record.answer]
