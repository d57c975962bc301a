"""A prompt with places for an image and for fields of a question: "<image> <HINT> <QUESTION>"."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from chatbridge.common.errors import Problem, nearest
from chatbridge.conversation.messages import Media, Message, Part, Text

IMAGE = "<image>"
PLACE = re.compile(r"<[A-Z]+>")


def form_problems(form: str, needed: Sequence[str], optional: Sequence[str] = ()) -> Iterator[Problem]:
    """Problems of `prompt`: `<image>` and the needed places exactly once, optional ones at most once, no others."""
    for place in (IMAGE, *needed):
        if (count := form.count(place)) != 1:
            yield Problem(
                "prompt", f"has {count or 'no'} {place}, expected it once", allowed=(IMAGE, *needed, *optional)
            )
    for place in dict.fromkeys(PLACE.findall(form)):
        if place not in (*needed, *optional):
            known = (*needed, *optional)
            yield Problem("prompt", f"has no field {place}", allowed=known, nearest=nearest(place, known))
    for place in optional:
        if form.count(place) > 1:
            yield Problem("prompt", f"has {form.count(place)} {place}, expected at most one")


def asked(form: str, image: Media, fields: Mapping[str, str]) -> Message:
    """The turn of the user. fields: place -> its text; an empty one is left out with the blank after it.

    A place inside the text of a field is text. What is between an image and its text is the chat template's choice, so
    blanks beside `<image>` do not count; line breaks do.
    """
    before, after = (piece.strip(" ") for piece in form.split(IMAGE))
    parts: list[Part] = [image]
    if text := _filled(before, fields):
        parts.insert(0, Text(text))
    if text := _filled(after, fields):
        parts.append(Text(text))
    return Message("user", tuple(parts))


def _filled(text: str, fields: Mapping[str, str]) -> str:
    for place in [place for place, value in fields.items() if not value]:
        text = re.sub(f"{place} ?", "", text)
    return PLACE.sub(lambda found: fields[found[0]], text)
