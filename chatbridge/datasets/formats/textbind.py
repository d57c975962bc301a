"""TextBind's conversations (train.json), in which both sides show images.

    [{"image_dir": "data/mim_images",
      "conversation": [
        {"role": "user", "content": "What is <image>?", "image_list": ["123.png"], "caption_list": ["a kite"]},
        {"role": "assistant", "content": "A kite, like <image>", "image_list": ["456.png"],
         "caption_list": ["a red kite"], "url_list": ["https://..."]}, ...]}]

Turns of the system come first, then user and assistant take turns. The k-th `<image>` of a turn is the k-th file of its
`image_list`, in the folder `image_dir` of the record. An image of the assistant has a caption, the k-th of the turn's
`caption_list`: the text it is drawn from. Captions of the user and `url_list` are not read here.

The reference's loader compares no counts: a marker without a file shifts all later images of its turn. Here the record
is at fault.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from chatbridge.common.errors import nearest
from chatbridge.conversation.messages import Conversation, Drawing, Media, Message, Part, Role, Text
from chatbridge.datasets.formats.json_fields import BadRecord, Fields, file_name_of, kind_of
from chatbridge.datasets.formats.records import AnnotationRecord, Format, each
from chatbridge.datasets.media_paths import media_path

IMAGE = "<image>"
ROLES: tuple[Role, ...] = ("system", "user", "assistant")
TURN_KEYS = ("role", "content", "image_list", "caption_list", "url_list")


class ImageTurn(NamedTuple):
    """One turn. `captions` are those of drawn images, one for each, () where a prompt has images without them."""

    role: Role
    content: str
    images: tuple[str, ...]
    captions: tuple[str, ...]

    @property
    def has_content(self) -> bool:
        return bool(self.content.strip())

    def message(self, folder: Path | None) -> Message:
        """The turn with its images at their markers; `folder` is that of relative names. raises MediaError"""
        texts = self.content.split(IMAGE)
        parts: list[Part] = [Text(texts[0])] if texts[0] else []
        for number, (name, text) in enumerate(zip(self.images, texts[1:], strict=True)):
            file = media_path(folder or Path(), name)
            parts.append(Drawing(self.captions[number], file) if self.captions else Media("image", file))
            parts += [Text(text)] if text else []
        return Message(self.role, tuple(parts or [Text("")]), in_dialogue=self.role == "assistant")


@dataclass(frozen=True, kw_only=True)
class ImageDialogue(AnnotationRecord):
    """Turns with images on both sides, and the folder of their files, "" where the record names none."""

    image_dir: str
    turns: tuple[ImageTurn, ...]

    @classmethod
    def unpacked(cls, values: Sequence[Any]) -> ImageDialogue:
        record = super().unpacked(values)
        return cls(**{**vars(record), "turns": tuple(ImageTurn(*turn) for turn in record.turns)})

    @property
    def is_answered(self) -> bool:
        """Whether some turn of the assistant has content: what follows it is left out."""
        return any(turn.role == "assistant" and turn.has_content for turn in self.turns)

    @property
    def ends_with_question(self) -> bool:
        return bool(self.turns) and self.turns[-1].role == "user"

    @property
    def has_images(self) -> bool:
        return any(turn.images for turn in self.turns)

    def conversation(self, folder: Path | None, with_question: bool = False) -> Conversation:
        """The messages; without `with_question` a last turn of the user is left out. raises MediaError"""
        turns = self.turns[:-1] if self.ends_with_question and not with_question else self.turns
        return tuple(turn.message(folder) for turn in turns)


def read_record(fields: Fields, captions: bool = True) -> ImageDialogue:
    """A record of train.json.

    captions   require those of drawn images; False: a last question is answered, and earlier images are shown as
               those of the user where the record has no captions
    raises     BadRecord that names the turn
    """
    turns = tuple(_turn(value, number, captions) for number, value in enumerate(fields.items("conversation")))
    if not turns:
        raise BadRecord("'conversation' has no turns")
    _check_order(turns)
    return ImageDialogue(
        id=fields.name("id") if "id" in fields.record else "",
        image_dir=fields.text("image_dir").strip() if fields.record.get("image_dir") is not None else "",
        turns=turns,
        details=fields.others("id", "conversation", "image_dir"),
    )


def _turn(value: Any, number: int, captions: bool) -> ImageTurn:
    try:
        return _checked_turn(Fields(value), captions)
    except BadRecord as error:
        raise BadRecord(f"turn {number}: {error}") from None


def _checked_turn(fields: Fields, needs_captions: bool) -> ImageTurn:
    role, content = fields.text("role"), fields.text("content")
    if role not in ROLES:
        guess = nearest(role, ROLES)
        raise BadRecord(
            f"'role' is {role[:40]!r}, expected {', '.join(ROLES)}" + (f"; is it {guess!r}?" if guess else "")
        )
    images = _names(fields, "image_list")
    if content.count(IMAGE) != len(images):
        raise BadRecord(
            f"its text has {_counted(content.count(IMAGE), IMAGE)} and 'image_list' {_counted(len(images), 'name')}"
        )
    captions = _captions(fields, len(images), needs_captions) if role == "assistant" and images else ()
    return ImageTurn(role, content, images, captions)


def _captions(fields: Fields, num_images: int, is_needed: bool) -> tuple[str, ...]:
    """One caption for each image of the assistant; () for a prompt without them."""
    captions = _list(fields, "caption_list")
    if not captions and not is_needed:
        return ()
    if len(captions) != num_images:
        raise BadRecord(
            f"its {_counted(num_images, 'image')} and {_counted(len(captions), 'caption')} in 'caption_list' differ in "
            "number; every image of the assistant has the caption it is drawn from"
        )
    for number, caption in enumerate(captions):
        if not isinstance(caption, str) or not caption.strip():
            what = "is empty" if isinstance(caption, str) else f"is {kind_of(caption)}, expected text"
            raise BadRecord(f"caption {number} {what}; give the text that the image is drawn from")
    return tuple(captions)


def _names(fields: Fields, key: str) -> tuple[str, ...]:
    names = [(value, file_name_of(value)) for value in _list(fields, key)]
    for number, (value, name) in enumerate(names):
        if name is None or not name.strip():
            raise BadRecord(f"{key!r} has {kind_of(value)} at {number}, expected the name of a file")
    return tuple(name for _, name in names if name is not None)


def _list(fields: Fields, key: str) -> list[Any]:
    """A list that may be absent or null; an absent one under a misspelled name is a BadRecord."""
    if key not in fields.record:
        others = [name for name in fields.record if name not in TURN_KEYS]
        if (guess := nearest(key, others)) is not None:
            raise BadRecord(f"has no {key!r}; found {guess!r}, is it misspelled?")
    return [] if fields.record.get(key) is None else fields.items(key)


def _check_order(turns: Sequence[ImageTurn]) -> None:
    """raises BadRecord unless the turns are system ones, then user and assistant by turns"""
    first = next((number for number, turn in enumerate(turns) if turn.role != "system"), len(turns))
    for number, turn in enumerate(turns[first:]):
        expected = "user" if number % 2 == 0 else "assistant"
        if turn.role != expected:
            raise BadRecord(
                f"turn {first + number} is the {turn.role}'s, expected the {expected}'s: user and assistant take turns"
            )
    if first == len(turns):
        raise BadRecord("all turns are the system's")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1 and what != IMAGE)}"


TEXTBIND_FORMATS = {"textbind": Format(each(read_record, ""), ("captions",))}
