"""Cleaning of annotation texts, as in the public data loaders."""

from __future__ import annotations

import re
from functools import cache

from chatbridge.conversation.modalities import MODALITIES

CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
MAX_WORDS = 50


def clean_caption(text: str) -> str:
    """A web caption for stage 1: lower case, punctuation before the first word gone, dashes and slashes to blanks.

    Runs of white space become one blank. A single line break or tab inside counts as such a run (the reference kept
    it): a line break would read as the end symbol of a caption.
    Source: golden chatbridge_text_preprocess.json, valor_caption.
    """
    text = text.lower().lstrip(",.!?*#:;~").replace("-", " ").replace("/", " ").replace("<person>", "person")
    return " ".join(text.split())


def clean_blip_caption(text: str) -> str:
    """LAVIS's caption cleaning: lower case, .!"()*#:;~ to blanks, at most 50 words. Source: golden, blip_caption."""
    text = re.sub(r"[.!\"()*#:;~]", " ", text.lower())
    text = re.sub(r"\s{2,}", " ", text).rstrip("\n").strip(" ")
    return " ".join(text.split(" ")[:MAX_WORDS])


CLEANERS = {"chatbridge": clean_caption, "minigpt4": clean_blip_caption}  # by the model whose first stage used it


def clean_blip_question(text: str) -> str:
    """LAVIS's question cleaning: lower case, .!"()*#:;~ removed, at most 50 words. Source: golden, blip_question."""
    text = re.sub(r"[.!\"()*#:;~]", "", text.lower()).rstrip(" ")
    return " ".join(text.split(" ")[:MAX_WORDS])


def find_markers(text: str) -> list[tuple[int, int, str]]:
    """(begin, end, modality) of every media marker; one line break on either side belongs to it.

    A tag in backticks, or one whose closing tag is in the same text, is markup, not a marker: "the `<video>` element".
    """
    if "<" not in text:
        return []
    tags = MODALITIES.tags()
    code = [found.span() for found in CODE.finditer(text)]
    return [
        (found.start(), found.end(), tags[found[1]])
        for found in _marker(tuple(tags)).finditer(text)
        if f"</{found[1]}>" not in text
        and not any(begin < found.start(1) and found.end(1) < end for begin, end in code)
    ]


@cache
def _marker(tags: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"\n?<({'|'.join(map(re.escape, tags))})>\n?")


def without_markers(text: str) -> str:
    """The text of a turn without its media markers, for a turn whose media are put elsewhere.

    A marker beside a line break is removed with that one line break and nothing else, as in the reference
    ("<image>\\n" or "\\n<image>"). A marker within a line is removed with the blanks around it. One blank is left
    between words that would be joined: "Explain<image>this" -> "Explain this".
    """
    while found := find_markers(text):
        begin, end, has_break = min((_extent(text, *marker) for marker in found), key=lambda one: not one[2])
        before, after = text[:begin], text[end:]
        if not has_break:
            is_outside = not before.strip() or not after.strip()
            before, after = before.rstrip(None if is_outside else " "), after.lstrip(None if is_outside else " ")
        text = before + (" " if before and after and _are_words(before, after) else "") + after
    return text


def _extent(text: str, begin: int, end: int, name: str) -> tuple[int, int, bool]:
    """Begin and end of a marker with one line break, the one after it if there is one, and whether there is any."""
    begin = text.index("<", begin)
    end = begin + len(MODALITIES.get(name).marker)
    if text[end : end + 1] == "\n":
        return begin, end + 1, True
    return (begin - 1, end, True) if text[:begin].endswith("\n") else (begin, end, False)


def _are_words(before: str, after: str) -> bool:
    """Whether a blank belongs between two pieces: not beside white space or another marker, nor before a mark that ends
    a phrase."""
    return not before[-1].isspace() and before[-1] != ">" and not after[0].isspace() and after[0] not in "<.,;:!?)"
