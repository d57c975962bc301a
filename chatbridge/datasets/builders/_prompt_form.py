"""A prompt with places for media and for fields of a question: "<image> <HINT> <QUESTION>"."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from chatbridge.common.errors import Problem, nearest
from chatbridge.conversation.messages import Media, Message, Part, Text
from chatbridge.conversation.modalities import MODALITIES

IMAGE = "<image>"
PLACE = re.compile(r"<[A-Z]+>")
ANY_PLACE = re.compile(r"<[A-Za-z][\w-]*>")


def form_problems(
    form: str, needed: Sequence[str], optional: Sequence[str] = (), media: Sequence[str] = (IMAGE,)
) -> Iterator[Problem]:
    """Problems of `prompt`: the markers of media and the needed places exactly once, optional ones at most once."""
    for place in (*media, *needed):
        if (count := form.count(place)) != 1:
            yield Problem(
                "prompt", f"has {count or 'no'} {place}, expected it once", allowed=(*media, *needed, *optional)
            )
    for place in dict.fromkeys(PLACE.findall(form)):
        if place not in (*needed, *optional):
            known = (*needed, *optional)
            yield Problem("prompt", f"has no field {place}", allowed=known, nearest=nearest(place, known))
    for place in optional:
        if form.count(place) > 1:
            yield Problem("prompt", f"has {form.count(place)} {place}, expected at most one")


def unknown_places(prompt: str, fields: Sequence[str], modalities: Sequence[str]) -> Iterator[Problem]:
    """Problems of a prompt with a place that no question fills, and that the model would read as text.

    fields       its places for text
    modalities   of the media of a question, which may have a marker
    """
    own = [MODALITIES.get(name).marker for name in modalities]
    markers = {one.marker for one in MODALITIES} - {*own}
    known = (*fields, *own)
    for place in dict.fromkeys(ANY_PLACE.findall(prompt)):
        if place in markers:
            yield Problem("prompt", f"has {place}, but the questions have {' and '.join(modalities)}", allowed=known)
        elif place not in known and (PLACE.fullmatch(place) or nearest(place, known)):
            yield Problem("prompt", f"has no field {place}", allowed=known, nearest=nearest(place, known))


def asked(form: str, media: Media | Sequence[Media], fields: Mapping[str, str]) -> Message:
    """The turn of the user. fields: place -> its text; an empty one is left out with the blank or line break after it.

    Media are put at the marker of their modality, several of one modality one after another; a marker without media is
    left out like an empty field. A place inside the text of a field is text. What is between media and their text is
    the chat template's choice, so blanks beside a marker do not count; line breaks do.
    """
    items = (media,) if isinstance(media, Media) else tuple(media)
    given = {MODALITIES.get(item.modality).marker for item in items}
    markers = {MODALITIES.get(name).marker: name for name in MODALITIES.names()}
    form = _without(form, [marker for marker in markers if marker not in given])
    parts: list[Part] = []
    for piece in re.split(f"({'|'.join(map(re.escape, markers))})", form):
        if piece in markers:
            parts += [item for item in items if item.modality == markers[piece]]
        elif text := _filled(piece.strip(" "), fields):
            parts.append(Text(text))
    return Message("user", tuple(parts))


def _filled(text: str, fields: Mapping[str, str]) -> str:
    text = _without(text, [place for place, value in fields.items() if not value])
    return PLACE.sub(lambda found: fields[found[0]], text)


def _without(text: str, places: Sequence[str]) -> str:
    for place in places:
        text = re.sub(f"{re.escape(place)}[ \\n]?", "", text)
    return text
