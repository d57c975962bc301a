"""The turns of a record as messages, its media at the markers (`<image>`, `<video>`, `<audio>`) in the text.

A marker counts with or without line breaks around it. Markers and files of a record are compared before anything is
laid out, so no marker is ever trained on as text, and no question is trained on without the file it asks about.

Only text of the user is searched. `<video>` in backticks or beside its closing tag is markup, hence text
(`conversation.text_cleaning.find_markers`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from chatbridge.common.errors import MediaError
from chatbridge.conversation.messages import Media, Message, Part, Text, assistant, user
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.conversation.text_cleaning import find_markers, without_markers
from chatbridge.datasets.formats.records import Turn

NO_QUESTION = "the record has a question without text, so its answer would be trained for nothing"


def to_messages(
    turns: Sequence[Turn],
    media: Sequence[Media] = (),
    limit: int | None = None,
    *,
    in_dialogue: bool,
    is_named_once: bool = False,
    is_open: bool = False,
    has_markers: bool = True,
    at_markers: bool = False,
) -> tuple[Message, ...]:
    """The used turns of a record; `place_media` decides where its media go.

    in_dialogue   a dialogue that could continue: templates end its answer like one inside a dialogue
    is_open       keep the last question: an evaluation asks for its answer
    has_markers   the layout has markers of media; otherwise "<image>" is a word
    at_markers    of `place_media`
    raises        MediaError when markers and files of the record do not agree
    """
    parts = place_media(turns, media, is_named_once, at_markers) if has_markers else {}
    messages: list[Message] = []
    for number in used_turns(turns, limit, bool(media), is_open):
        role, text = turns[number]
        if role == "user":
            messages.append(user(*parts.get(number, (text,))))
        elif role == "system":
            messages.append(Message("system", (Text(text),)))
        else:
            if number in parts:  # a dialogue that opens with an answer about its media
                messages.append(user(*parts[number]))
            messages.append(Message("assistant", (Text(text),), in_dialogue=in_dialogue))
    return tuple(messages)


def used_turns(turns: Sequence[Turn], limit: int | None, has_media: bool, is_open: bool = False) -> list[int]:
    """Numbers of the first `limit` turns, system ones not counted, from a question to an answer.

    A last question without an answer is never supervised; without media, neither is an answer without a question.
    """
    system = [number for number, (role, _) in enumerate(turns) if role == "system"][:1]
    used = [number for number, (role, _) in enumerate(turns) if role != "system"][:limit]
    while used and turns[used[-1]][0] == "user" and not is_open:
        used.pop()
    while used and turns[used[0]][0] == "assistant" and not has_media:
        used.pop(0)
    return system + used if used else []


def unanswered(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The conversation with a last answer that is empty and never supervised: the prompt of an evaluation."""
    asked = messages[:-1] if messages and messages[-1].role == "assistant" else messages
    return (*asked, Message("assistant", (Text(""),), supervised=False))


def answered(answer: str | None, *question: str | Part) -> tuple[Message, ...]:
    """One question and its answer; without an answer, the prompt of an evaluation."""
    return unanswered([user(*question)]) if answer is None else (user(*question), assistant(answer))


def place_media(
    turns: Sequence[Turn], media: Sequence[Media], is_named_once: bool = False, at_markers: bool = False
) -> dict[int, list[Part]]:
    """number of a turn -> its parts, for every turn of the user; media before an opening answer are under its number.

    Without markers all media precede the first text. One file precedes the text of the turn that has its marker, as in
    LLaVA's own training; several files are put at their markers.

    is_named_once   the record names one file of each modality by its id (MULTIS, avsd, videochat): a marker means the
                    subject of the record. It may be repeated in later turns, MULTIS writes <video> or <image> for
                    either, and the audio of a video needs none
    at_markers      a single file is put at its marker too, as in LLaVA's first release and ChatBind
    raises   MediaError with both numbers when markers and files do not agree
    """
    found = {number: [kind for _, _, kind in find_markers(text)] for number, (role, text) in enumerate(turns)
             if role == "user"}  # fmt: skip
    _compare(found, media, is_named_once)
    marked = Counter(kind for kinds in found.values() for kind in kinds)
    files = Counter(item.modality for item in media)
    inside = set() if is_named_once or (len(media) < 2 and not at_markers) else {
        kind for kind in marked if at_markers or files[kind] > 1 or marked.keys() == files.keys()
    }  # fmt: skip
    front = [item for item in media if item.modality not in inside]
    target = _front_turn(turns, found, front, is_named_once)
    left = [item for item in media if item.modality in inside]
    parts = {number: list(_parts(turns[number][1], left, inside)) for number in found}
    if front:
        parts[target] = [*front, *parts.get(target, ())]
    return parts


def place_one_turn(text: str, media: Sequence[Media]) -> list[Part]:
    """The parts of a single question whose record names one file of each modality. raises MediaError"""
    return place_media([("user", text)], media, is_named_once=True)[0]


def check_typed(parts: Sequence[Part], number: int) -> None:
    """Check that typed parts have no marker in their text: their media keep the position of their part.

    raises   MediaError with both numbers
    """
    kinds = Counter(kind for part in parts if isinstance(part, Text) for _, _, kind in find_markers(part.text))
    files = Counter(part.modality for part in parts if isinstance(part, Media))
    for kind, count in kinds.items():
        hint = "remove the marker" if files[kind] else f'add a part {{"type": "{kind}", "path": ...}}'
        raise MediaError(
            f"message {number}: its text has {_counted(count, kind)} and its parts {_files(files[kind], kind)}; "
            f"media of typed parts need no marker: {hint}, or put the tag in backticks if the text is about markup"
        )


def _compare(found: Mapping[int, Sequence[str]], media: Sequence[Media], is_named_once: bool) -> None:
    """raises   MediaError when a marker has no file, or files are more or fewer than their markers"""
    files = Counter(item.modality for item in media)
    totals = Counter(kind for kinds in found.values() for kind in kinds)
    if is_named_once and media:
        turns = [(kind, count) for kinds in found.values() for kind, count in Counter(kinds).items()]
        wrong = [(kind, count) for kind, count in turns if count > max(files[kind], 1)]
    else:
        wrong = [(kind, count) for kind, count in totals.items() if count != files[kind]]
    for kind, count in wrong[:1]:
        hint = "" if files[kind] else "; put the tag in backticks if the text is about markup"
        raise MediaError(f"the record has {_counted(count, kind)} and {_files(files[kind], kind)}{hint}")


def _front_turn(
    turns: Sequence[Turn], found: Mapping[int, Sequence[str]], front: Sequence[Media], is_named_once: bool
) -> int:
    """The turn that begins with the media: the one with a marker of theirs, else the first after the system's."""
    kinds = {item.modality for item in front}
    marked = (number for number, there in found.items() if not is_named_once and kinds.intersection(there))
    first = (number for number, (role, _) in enumerate(turns) if role != "system")
    return next(marked, next(first, 0))


def _parts(text: str, left: list[Media], inside: set[str]) -> Iterator[Part]:
    """The text of a turn with the next media of `left` at their markers; markers of other media are removed."""
    start = 0
    for begin, end, kind in find_markers(text):
        if kind not in inside:
            continue
        if (piece := without_markers(text[start:begin])).strip():
            yield Text(piece)
        item = next(item for item in left if item.modality == kind)
        left.remove(item)
        yield item
        start = end
    piece = without_markers(text[start:])
    if piece.strip() or not start:
        yield Text(piece)


def _counted(count: int, kind: str) -> str:
    return f"{count} {MODALITIES.get(kind).marker} marker{'s' * (count != 1)}"


def _files(count: int, kind: str) -> str:
    return f"{count} {kind} file{'s' * (count != 1)}"
