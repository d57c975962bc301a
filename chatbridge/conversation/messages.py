"""A conversation keeps its types from the data file to the loss.

One schema serves data, model, command line, demo and evaluation: any number of typed parts in any turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Text:
    """Text, exactly as it was written."""

    text: str


@dataclass(frozen=True)
class Media:
    """An image, video or audio item. `ref` is a path, encoded bytes or a ready tensor; nothing is decoded here."""

    modality: str
    ref: str | Path | bytes | Any


@dataclass(frozen=True)
class Drawing:
    """An image the assistant makes: the caption it is drawn from, and the image itself, which is read like any other.

    `ref` is as in Media. It is None where nothing was drawn: in answers of a model without a generator, and in the
    references of an evaluation. Training data have it, as the rest of a conversation refers to the image.
    """

    caption: str
    ref: str | Path | bytes | Any | None = None

    @property
    def image(self) -> Media | None:
        """The image as a media item."""
        return None if self.ref is None else Media("image", self.ref)


Part = Text | Media | Drawing


@dataclass(frozen=True)
class Message:
    """One turn. `supervised=None` means: turns of the assistant are supervised, others are not.

    A turn without content is never supervised: it would train the model to answer nothing.

    in_dialogue   an answer of a dialogue that could continue, even when it is the only one: templates that end a single
                  answer differently end this one like those of longer dialogues
    """

    role: Role
    parts: tuple[Part, ...]
    supervised: bool | None = None
    in_dialogue: bool = False

    @property
    def text(self) -> str:
        """The text of this turn without its media; texts on both sides of a media item keep a blank between them."""
        runs = [
            "".join(part.text for part in run if isinstance(part, Text))
            for is_text, run in groupby(self.parts, key=lambda part: isinstance(part, Text))
            if is_text
        ]
        return runs[0] if len(runs) == 1 else " ".join(filter(None, (run.strip() for run in runs)))

    @property
    def media(self) -> tuple[Media, ...]:
        """Media items in reading order, images of drawings among them."""
        return tuple(item for part in self.parts if (item := media_of(part)) is not None)

    @property
    def drawings_without_image(self) -> tuple[Drawing, ...]:
        """Drawings without an image, in order."""
        return tuple(part for part in self.parts if isinstance(part, Drawing) and part.ref is None)

    @property
    def is_supervised(self) -> bool:
        is_wanted = self.role == "assistant" if self.supervised is None else self.supervised
        return is_wanted and self.has_content

    @property
    def has_content(self) -> bool:
        """Whether there is text other than blanks, or a drawing."""
        return any(part.text.strip() if isinstance(part, Text) else isinstance(part, Drawing) for part in self.parts)

    @property
    def is_empty_answer(self) -> bool:
        """Whether this is an answer that would be supervised if it had content; the layout counts these."""
        return self.role == "assistant" and self.supervised is not False and not self.has_content


Conversation = tuple[Message, ...]


def media_of(part: Part) -> Media | None:
    """The media item of a part: itself, or the image of a drawing; None for text and where nothing was drawn."""
    return part.image if isinstance(part, Drawing) else part if isinstance(part, Media) else None


def media_parts(conversation: Conversation) -> Iterator[Media]:
    """All media in reading order; media slot k of a layout is the k-th of these. Images of drawings count."""
    for message in conversation:
        yield from message.media


def user(*parts: str | Part) -> Message:
    """A turn of the user; strings become Text."""
    return Message("user", tuple(Text(part) if isinstance(part, str) else part for part in parts))


def assistant(*parts: str | Part) -> Message:
    """A turn of the assistant; strings become Text."""
    return Message("assistant", tuple(Text(part) if isinstance(part, str) else part for part in parts))
