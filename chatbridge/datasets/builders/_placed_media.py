"""Media at the marks of a text: "<image 1>", "<audio 2>" (formats/placed_choices.py)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from chatbridge.conversation.messages import Media, Part, Text
from chatbridge.datasets.formats.placed_choices import MARK


def placed(parts: Iterable[Part], media: Sequence[Media]) -> tuple[Part, ...]:
    """The parts with the k-th item of a modality at its mark. A mark that names no item stays text.

    The blanks between a mark and the text beside it are left out, as templates write their own; line breaks are kept.
    """
    by_kind: dict[str, list[Media]] = {}
    for item in media:
        by_kind.setdefault(item.modality, []).append(item)
    return tuple(new for part in parts for new in (_split(part.text, by_kind) if isinstance(part, Text) else [part]))


def _split(text: str, by_kind: dict[str, list[Media]]) -> Iterator[Part]:
    start = 0
    for one in MARK.finditer(text):
        items, number = by_kind.get(one[1], []), int(one[2])
        if 1 <= number <= len(items):
            if before := text[start : one.start()].strip(" "):
                yield Text(before)
            yield items[number - 1]
            start = one.end()
    if rest := text[start:].strip(" ") if start else text:
        yield Text(rest)
