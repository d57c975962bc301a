"""Generated answers as turns of TextBind's records, as its batch inference writes them (inference_results.json)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chatbridge.conversation.messages import Drawing, Part, Text
from chatbridge.datasets.formats.textbind import IMAGE

OPENING, CLOSING = "<start>", "<end>"


def answered(
    record: Mapping[str, Any], line: Mapping[str, Any], answers: Path, image_folder: Path, unfinished: str
) -> dict[str, Any]:
    """A record with the generated answer in place of its last answer. Images are named from the folder of the record.

    line          of the file `answers`
    image_folder  from which the record names its images
    unfinished    the problem of a caption at which the answer ended
    """
    turns = list(record["conversation"])
    if turns[-1].get("role") == "assistant":
        turns.pop()
    drawings = line.get("drawings", [])
    shown = [one for one in drawings if one["image"]]
    parts = [_part(one) for one in line.get("parts", [{"type": "text", "text": line["answer"]}])]
    turn = {
        "role": "assistant",
        "content": content_of(parts, bool(drawings) and drawings[-1].get("problem") == unfinished),
        "image_list": [_relative(answers.parent / one["image"], image_folder) for one in shown],
        "caption_list": [one["caption"] for one in shown],
        "tags": "generation",
    }
    return {**record, "conversation": [*turns, turn]}


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def _part(part: Mapping[str, Any]) -> Part:
    """A part in the form of `records`; an image without a caption is one that the assistant drew."""
    return Text(part["text"]) if part["type"] == "text" else Drawing(part.get("caption", ""), part.get("path"))


def content_of(parts: Sequence[Part], ends_in_caption: bool = False) -> str:
    """The text of a turn: `<image>` for each drawing with an image, a caption without one between its marks.

    ends_in_caption  whether the last part is a caption that is not complete
    """
    texts = []
    for number, part in enumerate(parts, 1):
        if isinstance(part, Text):
            texts.append(part.text.strip())
        elif isinstance(part, Drawing) and part.ref is not None:
            texts.append(IMAGE)
        elif isinstance(part, Drawing):
            is_open = ends_in_caption and number == len(parts)
            texts += [OPENING, part.caption, *([] if is_open else [CLOSING])]
    return " ".join(filter(None, texts)).replace("  ", " ")


__all__ = ["answered", "content_of"]
