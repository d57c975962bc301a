"""Base of the builders of annotated media: a tag names the modalities and the task, folders hold the media.

A tag is `<media>` or `<media>-<task>`: ti image, tv video, ta audio, tva video with its audio. Both parts are compared
as a whole; the reference looked for substrings and took "tv-station" for audio.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from chatbridge.common.errors import MediaError, Problem, nearest
from chatbridge.config.schema import missing_path
from chatbridge.conversation.messages import Media
from chatbridge.datasets.builders._annotation_file import AnnotationDataset, AnnotationFileConfig, R
from chatbridge.datasets.builders._prompt_form import unknown_places
from chatbridge.datasets.builders._prompts import QUESTION, prompt_problem, published_prompts, read_prompts
from chatbridge.datasets.builders.base import draw
from chatbridge.datasets.formats.records import AnnotationRecord
from chatbridge.datasets.media_paths import find_media, media_path

MEDIA_OF_TAG = {"ti": ("image",), "tv": ("video",), "ta": ("audio",), "tva": ("video", "audio")}


@dataclass(frozen=True, kw_only=True)
class AnnotatedMediaConfig(AnnotationFileConfig):
    """One annotation file and its media."""

    tag: str  # media and task: ti-shortqa, tv-cap, ta-cap, tva-conv ...
    image_folder: Path | None = None  # where image ids are looked up
    video_folder: Path | None = None  # video files, or one folder of frames per id
    audio_folder: Path | None = None  # audio files; video files are accepted too
    sample_image: bool = False  # use one annotation per image (video, audio): one of its records, chosen by limit_seed
    prompts: Path | None = None  # JSON: tag -> prompts; null means the published MULTIS prompts
    # the same prompt for every record, in place of a list, as an evaluation needs it: "Describe the video." With
    # <QUESTION> where the builder asks one; tags whose text is the question alone take it too
    prompt: str | None = None

    tasks: ClassVar[tuple[str, ...]]  # second parts of a tag that the builder accepts, "" for none
    prompted: ClassVar[tuple[str, ...]] = ()  # those that draw a prompt
    promptable: ClassVar[tuple[str, ...]] = ()  # those without a list of prompts that take `prompt`
    asks: ClassVar[bool] = False  # True when the prompts must have room for a question
    media: ClassVar[tuple[str, ...]] = tuple(MEDIA_OF_TAG)  # first parts of a tag that the builder accepts

    @property
    def modalities(self) -> tuple[str, ...]:
        return MEDIA_OF_TAG[self.tag.split("-")[0]]

    @property
    def task(self) -> str:
        return self.tag.partition("-")[2]

    @property
    def prompt_list(self) -> tuple[str, ...]:
        if self.prompt is not None:
            return (self.prompt,)
        return read_prompts(self._prompt_file)[self.tag] if self.task in self.prompted else ()

    def folder(self, modality: str) -> Path:
        return getattr(self, f"{modality}_folder")

    def problems(self) -> Iterator[Problem]:
        """Missing files, folders that do not fit the tag, missing prompts."""
        yield from super().problems()
        tags = [f"{media}-{task}" if task else media for media in self.media for task in self.tasks]
        if self.tag not in tags:
            yield Problem("tag", f"cannot be {self.tag!r}", allowed=tuple(tags), nearest=nearest(self.tag, tags))
            return
        yield from self._folder_problems()
        if self.prompt is not None:
            yield from self._one_prompt_problems(self.prompt)
        elif self.task in self.prompted:
            problem = prompt_problem(self._prompt_file, self.tag, self.asks)
            if problem:
                yield problem
        elif self.prompts is not None:
            yield Problem("prompts", f"is not used: the tag {self.tag!r} takes its text from the annotations")

    def _one_prompt_problems(self, prompt: str) -> Iterator[Problem]:
        """Problems of `prompt`."""
        if self.task not in (*self.prompted, *self.promptable):
            yield Problem("prompt", f"is not used: the tag {self.tag!r} takes its text from the annotations")
        elif (QUESTION in prompt) != self.asks:
            rule = f"has no {QUESTION}, the place of the question" if self.asks else f"has {QUESTION}; nothing is asked"
            yield Problem("prompt", f"{rule}: {prompt!r}")
        elif not prompt.strip():
            yield Problem("prompt", "is empty", hint="remove it, or write the text of the request")
        else:
            yield from unknown_places(prompt, (QUESTION,) if self.asks else (), self.modalities)
        if self.prompts is not None:
            yield Problem("prompts", "is not used beside `prompt`", hint="remove one of both")

    @property
    def _prompt_file(self) -> Path:
        return self.prompts or published_prompts()

    def _folder_problems(self) -> Iterator[Problem]:
        every = dict.fromkeys(chain(*MEDIA_OF_TAG.values()))
        yield from folder_problems(
            self, every, self.modalities, f"the tag {self.tag!r} needs {{}} files", f"the tag {self.tag!r} has no {{}}"
        )


def folder_problems(
    config: Any, every: Iterable[str], used: Collection[str], needed: str, unused: str
) -> Iterator[Problem]:
    """A folder that is missing, or that is given for a modality that is not used.

    config   has a field `<modality>_folder` for every modality
    needed   why a folder must be there, with {} for the modality; unused: why it must not
    """
    for modality in every:
        key, folder = f"{modality}_folder", getattr(config, f"{modality}_folder")
        if modality in used and folder is None:
            yield Problem(key, f"is missing; {needed.replace('{}', modality)}")
        elif modality in used and (problem := missing_path(folder, "folder")):
            yield replace(problem, path=key)
        elif modality not in used and folder is not None:
            yield Problem(key, f"is not used: {unused.replace('{}', modality)}")


class AnnotatedMedia(AnnotationDataset[R]):
    """Records of one annotation file with the media that its tag names."""

    config: AnnotatedMediaConfig

    def __init__(self, config: AnnotatedMediaConfig, name: str):
        super().__init__(config, name)
        self.modalities = frozenset(config.modalities)
        self._prompts = config.prompt_list

    def media(self, record: AnnotationRecord) -> tuple[Media, ...]:
        """The files of a record, in the order of the tag's modalities. raises MediaError for a file that is missing"""
        if record.files is None:
            return tuple(self._found(kind, record.names) for kind in self.config.modalities)
        strange = [kind for kind in record.files if kind not in self.config.modalities]
        if strange:
            raise MediaError(f"the record has {strange[0]} files, which the tag {self.config.tag!r} does not")
        return tuple(
            self._found(kind, (name,)) for kind in self.config.modalities for name in record.files.get(kind, ())
        )

    def draw_prompt(self, rng: np.random.Generator) -> str | None:
        """One prompt of the tag, or None when the tag has none."""
        return draw(self._prompts, rng) if self._prompts else None

    def _found(self, kind: str, names: Sequence[str]) -> Media:
        """The audio of a video may be missing: data.media.missing_sound decides what happens then."""
        folder = self.config.folder(kind)
        try:
            return Media(kind, find_media(folder, names, kind))
        except MediaError:
            if kind != "audio" or "video" not in self.config.modalities:
                raise
            return Media(kind, media_path(folder, names[0]))
