"""Cleaning of annotation texts, as the public data loaders did it."""

from __future__ import annotations

import re

MODALITY_MARKERS = ("image", "video", "audio")
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


def remove_markers(text: str) -> str:
    """The words of a human turn in LLaVA- and MULTIS-style JSON, without its media markers.

    Removed are "<image>\\n" and "\\n<image>", and the same for video and audio; a marker without a line break is text.
    """
    for name in MODALITY_MARKERS:
        text = text.replace(f"<{name}>\n", "").replace(f"\n<{name}>", "")
    return text
