"""Conversations as the language model writes them: `Human:` and `Assistant:` turns, `<img0> caption </img0>` tags."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

HUMAN, ASSISTANT = "Human:", "Assistant:"
PAIR = re.compile(r"<img(\d+)>(.*?)</img\1>")  # on one line
OPENING = re.compile(r"<img(\d+)>")
CLOSING = re.compile(r"</img(\d+)>")
GIVEN = re.compile(r"\s*<img(\d+)>(.*)</img\1>\s*")


@dataclass(frozen=True)
class RawRecord:
    """One answer of the language model, and the images that it was given.

    captions     of the given images, in their order
    image_idx    number of each image in the pool; its file is `<number>.png`
    """

    response: str
    captions: tuple[str, ...]
    image_idx: tuple[int | str, ...]
    urls: tuple[str, ...]

    @classmethod
    def of(cls, record: dict[str, object]) -> RawRecord:
        """raises ValueError with the fault of a record that cannot be used"""
        response = record.get("response")
        if not isinstance(response, str):
            raise ValueError("its response is not text")
        image, numbers, urls = (_list(record, key) for key in ("image", "image_idx", "url"))
        if not len(image) == len(numbers) == len(urls):
            raise ValueError(f"has {len(image)} images, {len(numbers)} image_idx and {len(urls)} url")
        found = [GIVEN.fullmatch(entry) if isinstance(entry, str) else None for entry in image]
        captions = tuple(match[2].strip() for match in found if match)
        wrong = next((k for k, match in enumerate(found) if match is None or int(match[1]) != k), None)
        if wrong is not None:
            raise ValueError(f"its image {wrong} is not written `<img{wrong}> caption </img{wrong}>`: {image[wrong]!r}")
        if not all(captions):
            raise ValueError(f"its image {captions.index('')} has no caption")
        if strange := [number for number in numbers if type(number) is not int and not _is_name(number)]:
            raise ValueError(f"its image_idx has {strange[0]!r}, which is neither a number nor the name of a file")
        return cls(response, captions, tuple(numbers), tuple("" if url is None else str(url) for url in urls))


def _is_name(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"\w[\w.-]*", value) is not None


def _list(record: dict[str, object], key: str) -> list:
    value = record.get(key)
    if not isinstance(value, list):
        raise ValueError(f"its {key} is not a list")
    return value


def tagged(captions: Sequence[str]) -> list[str]:
    """The given images as the language model reads them: ["<img0> a dog </img0>", ...]."""
    return [f"<img{number}> {' '.join(caption.split())} </img{number}>" for number, caption in enumerate(captions)]


def pairs(text: str) -> list[tuple[int, str]]:
    """(index, text inside) of every complete tag, in the order of the opening ones; tags may be nested."""
    return [(int(match[1]), match[2].strip()) for match in _complete(text)]


def _complete(text: str) -> Iterator[re.Match[str]]:
    for opening in OPENING.finditer(text):
        if match := PAIR.match(text, opening.start()):
            yield match


def turns(text: str) -> list[str]:
    """The turns from the first `Human:` on, each with its role; empty without one.

    A line that begins with a role opens a turn; other lines belong to the current one, blank lines are dropped.
    """
    start = text.find(HUMAN)
    found: list[str] = []
    for line in text[start:].split("\n") if start >= 0 else ():
        if line.startswith((HUMAN, ASSISTANT)):
            found.append(line)
        elif line.strip():
            found[-1] += f"\n{line}"
    return found


def without_unpaired(text: str) -> str:
    """The text without opening tags that have no closing one on their line, and without the white space before them."""
    starts = {match.start() for match in _complete(text)}
    return re.sub(rf"\s*({OPENING.pattern})", lambda tag: tag[0] if tag.start(1) in starts else "", text)


def without_unpaired_closing(text: str) -> str:
    """The text without closing tags that have no opening one on their line, and without the white space before them."""
    ends = {match.end() for match in _complete(text)}
    return re.sub(rf"\s*{CLOSING.pattern}", lambda tag: tag[0] if tag.end() in ends else "", text)
