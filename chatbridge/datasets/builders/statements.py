"""Statements about images, judged true or false, or as following from the image or not (formats/statements.py).

Tags `ti-verify` and `ti-entail`: a prompt of the tag is drawn and its <QUESTION> replaced by the statement, for example
"<QUESTION> Is that true?". Tag `ti`: the statement as it is. `options` is the share of the draws that list the labels.

nlvr1  one of the six images of a record is drawn: they differ in the order of their boxes only, and the label holds
       for each of them.
nlvr2  two images. `pair: joined` (as Multimodal-GPT) makes one image of them: each is brought to the encoder's size,
       then they are put side by side and squeezed to the width of one (processors/media_source.SideBySide), so images
       of different sizes make a pair like any other. `pair: apart` gives the model two images. In `flips` of the draws
       the images change places, and so do the words left and right of the statement.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np

from chatbridge.config.schema import Range
from chatbridge.conversation.messages import Conversation, Media
from chatbridge.datasets.builders._annotated_media import AnnotatedMedia, AnnotatedMediaConfig
from chatbridge.datasets.builders._options import OPTIONS_HEADER, is_drawn, with_listed
from chatbridge.datasets.builders._prompts import QUESTION
from chatbridge.datasets.builders._turn_messages import answered, place_one_turn
from chatbridge.datasets.builders.base import BUILDERS, draw
from chatbridge.datasets.formats.records import StatementRecord
from chatbridge.datasets.formats.selection import Unanswered
from chatbridge.datasets.formats.statements import STATEMENT_FORMATS
from chatbridge.datasets.media_paths import find_media
from chatbridge.processors.media_source import SideBySide

SIDE = re.compile(r"\b(left|right)\b", re.IGNORECASE)


@BUILDERS.register("statements")
class Statements(AnnotatedMedia[StatementRecord]):
    @dataclass(frozen=True, kw_only=True)
    class Config(AnnotatedMediaConfig):
        tasks: ClassVar[tuple[str, ...]] = ("", "verify", "entail")
        prompted: ClassVar[tuple[str, ...]] = ("verify", "entail")
        asks: ClassVar[bool] = True
        media: ClassVar[tuple[str, ...]] = ("ti",)
        formats: ClassVar = STATEMENT_FORMATS
        format: Literal["nlvr1", "nlvr2", "snli_ve"]  # layout of the file
        options: Annotated[float, Range(0, 1)] = 0.5  # share of the draws that list the labels after the statement
        input_header: str = OPTIONS_HEADER  # text between the statement and the listed labels
        # nlvr1, nlvr2: how the answer is written: like the options, or as in the file (NLVR2 has "True", and
        # Multimodal-GPT trained on that beside the options "true, false")
        labels: Literal["options", "file"] = "options"
        pair: Literal["joined", "apart"] = "joined"  # nlvr2: one image that shows both, or two images
        flips: Annotated[float, Range(0, 1)] = 0.25  # nlvr2: share of the draws in which the images change places
        unanswered: Unanswered = "skip"

    config: Config
    record_type = StatementRecord

    def conversation(self, record: StatementRecord, rng: np.random.Generator) -> tuple[Conversation, tuple[str, ...]]:
        config, statement = self.config, record.sentence.strip()
        names = (record.files or {}).get("image", ())
        if config.format == "nlvr1":
            media = (Media("image", self._image(draw(names, rng))),)
        elif config.format == "nlvr2":
            media, statement = self._pair(names, statement, rng)
        else:
            media = (self._found("image", record.names),)
        prompt = self.draw_prompt(rng)
        text = statement if prompt is None else prompt.replace(QUESTION, statement)
        if is_drawn(config.options, rng):
            text = with_listed(text, record.labels, config.input_header)
        answers = self.answers(record)
        return answered(answers[0] if answers else None, *place_one_turn(text, media)), answers

    def answers(self, record: StatementRecord) -> tuple[str, ...]:
        answer = record.written if self.config.labels == "file" else record.label
        return (answer,) if answer else ()

    def every_media(self, index: int) -> tuple[Media, ...]:
        record = self._annotation(index)
        files = [self._image(name) for name in (record.files or {}).get("image", ())]
        if not files:
            return (self._found("image", record.names),)
        if self.config.format == "nlvr2" and self.config.pair == "joined":
            orders = [files] * (self.config.flips < 1) + [files[::-1]] * (self.config.flips > 0)
            return tuple(Media("image", SideBySide(*order)) for order in orders)
        return tuple(Media("image", file) for file in files)

    def _pair(self, names: Sequence[str], statement: str, rng: np.random.Generator) -> tuple[tuple[Media, ...], str]:
        """The two images, and the statement about them as they lie."""
        left, right = (self._image(name) for name in names)
        if is_drawn(self.config.flips, rng):
            left, right, statement = right, left, with_sides_swapped(statement)
        if self.config.pair == "apart":
            return (Media("image", left), Media("image", right)), statement
        return (Media("image", SideBySide(left, right)),), statement

    def _image(self, name: str) -> Path:
        """By its name, or in the folders of NLVR2: dev/, images/train/."""
        split = Path(name).name.partition("-")[0]
        return find_media(self.config.folder("image"), (name, f"{split}/{name}", f"images/{split}/{name}"), "image")


def with_sides_swapped(text: str) -> str:
    """The words left and right exchanged, each with the other's capital letters; parts of longer words stay."""
    return SIDE.sub(lambda found: _other_side(found[0]), text)


def _other_side(word: str) -> str:
    other = "right" if word.lower() == "left" else "left"
    return other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other
