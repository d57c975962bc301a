"""Cleaning of annotation texts, as the public data loaders did it."""

from __future__ import annotations

import re

MODALITY_MARKERS = ("image", "video", "audio")
MARKER = re.compile(rf"\n?<({'|'.join(MODALITY_MARKERS)})>\n?")
CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
MAX_WORDS = 50


def clean_caption(text: str) -> str:
    """A web caption for stage 1: lower case, punctuation before the first word gone, dashes and slashes to blanks.

    Runs of white space become one blank. A single line break or tab inside counts as such a run (the reference kept
    it): a line break would read as the end symbol of a caption.
    Source: golden chatbridge_text_preprocess.json, valor_caption.
    """
    text = text.lower().lstrip(",.!?*#:;~").replace("-", " ").replace("/", " ").replace("<person>", "person")
    return re.sub(r"\s+", " ", text).strip()


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
    """(begin, end, modality) of every marker of a medium; one line break on either side belongs to it.

    A tag in backticks, or one whose closing tag is in the same text, is markup and no marker: "the `<video>` element".
    """
    code = [found.span() for found in CODE.finditer(text)]
    return [
        (found.start(), found.end(), found[1])
        for found in MARKER.finditer(text)
        if f"</{found[1]}>" not in text
        and not any(begin < found.start(1) and found.end(1) < end for begin, end in code)
    ]


def without_markers(text: str) -> str:
    """The words of a turn whose media stand elsewhere.

    One line break on either side goes with a marker, and so do blanks where a marker was the first or the last thing.
    Between words one blank is left: "Explain<image>this" -> "Explain this".
    """
    found = find_markers(text)
    for begin, end, _ in reversed(found):
        before, after = text[:begin], text[end:]
        if not before.strip() or not after.strip():
            text = before.rstrip() + after.lstrip()
        else:
            text = before.rstrip(" ") + (" " if _are_words(before, after) else "") + after.lstrip(" ")
    return text


def _are_words(before: str, after: str) -> bool:
    """Whether a blank belongs between two pieces: not beside white space, nor before a mark that ends a phrase."""
    return not before.rstrip(" ")[-1:].isspace() and after.lstrip(" ")[:1] not in (*"\n\t.,;:!?)", "")
