"""Where the files of a question are placed in a chat."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from chatbridge.conversation.messages import Media, Message, Part, Text

NUMBER = re.compile(r"\[([1-9]\d{0,3})\]")


@dataclass(frozen=True, kw_only=True)
class QuestionForm:
    """How the files and the text of a question form one turn. Models answer best in the form that they were trained on.

    Conversations of data files, and the parts given to `ChatEngine.reply`, keep the order in which they are written.
    """

    media: Literal["before_text", "after_text"] = "before_text"  # where the files of a question are placed
    separator: str = ""  # text between the files and the text, for example "\n"
    # [1], [2] ... in the text are the places of the first, the second ... file of the question; files without a number
    # are placed as `media` says. For models trained on text with images in between, such as TextBind
    numbered: bool = False

    def message(self, media: Sequence[Media], text: str) -> Message:
        """A turn of the user. Without files it is the text alone."""
        inner, rest = _placed(media, text) if self.numbered else ((Text(text),), media)
        if not rest:
            return Message("user", inner)
        separator = (Text(self.separator),) if self.separator else ()
        if inner == (Text(text),):  # no file within it
            before = self.media == "before_text"
            inner, separator = (Text(self.separator + text if before else text + self.separator),), ()
        if self.media == "before_text":
            return Message("user", (*rest, *separator, *inner))
        return Message("user", (*inner, *separator, *rest))


def _placed(media: Sequence[Media], text: str) -> tuple[tuple[Part, ...], Sequence[Media]]:
    """The text with each file at its number, and the files without one. A number counts once; others stay text."""
    parts: list[Part] = []
    left, begin = dict(enumerate(media, start=1)), 0
    for found in NUMBER.finditer(text):
        if (item := left.pop(int(found[1]), None)) is not None:
            parts += [Text(text[begin : found.start()]), item]
            begin = found.end()
    parts.append(Text(text[begin:]))
    kept = tuple(part for part in parts if not isinstance(part, Text) or part.text)
    return kept or (Text(text),), tuple(left.values())
