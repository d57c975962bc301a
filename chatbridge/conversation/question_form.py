"""Where the files of a question are placed in a chat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from chatbridge.conversation.messages import Media, Message, Part, Text


@dataclass(frozen=True, kw_only=True)
class QuestionForm:
    """How the files and the text of a question form one turn. Models answer best in the form that they were trained on.

    Conversations of data files, and the parts given to `ChatEngine.reply`, keep the order in which they are written.
    """

    media: Literal["before_text", "after_text"] = "before_text"  # where the files of a question are placed
    separator: str = ""  # text between the files and the text, for example "\n"

    def message(self, media: Sequence[Media], text: str) -> Message:
        """A turn of the user. Without files it is the text alone."""
        parts: tuple[Part, ...] = (Text(text),)
        if media and self.media == "before_text":
            parts = (*media, Text(self.separator + text))
        elif media:
            parts = (Text(text + self.separator), *media)
        return Message("user", parts)
