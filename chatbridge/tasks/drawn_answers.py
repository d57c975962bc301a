"""The generated answer to a question, with its images, and how they are stored beside a file of answers."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatbridge.common.errors import DataError, MediaError
from chatbridge.common.safe_files import replace_bytes
from chatbridge.conversation.layout import Layout
from chatbridge.conversation.messages import Drawing, Message, Part, Text
from chatbridge.models.drawing.answers import all_drawn
from chatbridge.models.drawing.artist import NO_GENERATOR, UNFINISHED, Artist, Drawn
from chatbridge.processors.image_file import read_image
from chatbridge.processors.png_file import png_of

SUFFIX = ".drawings"
OF_A_DRAWING = re.compile(r"\d+_\d+\.png")


@dataclass(frozen=True)
class GeneratedAnswer:
    """
    parts  text, and drawings with their images (uint8[3, H, W]) where they were drawn
    drawn  one for each drawing, in order
    """

    parts: tuple[Part, ...]
    drawn: tuple[Drawn, ...] = ()

    @property
    def text(self) -> str:
        """The text without its drawings."""
        return Message("assistant", self.parts).text


def answer_of(layout: Layout, ids: Sequence[int], drawn: Sequence[Drawn] = ()) -> GeneratedAnswer:
    """The answer of generated ids.

    drawn   of its complete captions; see `all_drawn`
    """
    if layout.template.drawing_ids is None:
        return GeneratedAnswer((Text(layout.finish(ids)),))
    found = all_drawn(layout, ids, drawn)
    left = iter(found)
    parts = [replace(part, ref=next(left).image) if isinstance(part, Drawing) else part for part in layout.parts(ids)]
    return GeneratedAnswer(tuple(parts), tuple(found))


class DrawingFolder:
    """The images of a file of answers: FILE.drawings/12_1.png is the first image of the answer to question 12.

    answers  the file of answers, FILE.jsonl; None: images are not stored
    """

    def __init__(self, answers: Path | None) -> None:
        self.folder = None if answers is None else answers.with_suffix(SUFFIX)

    def fields(self, index: int, answer: GeneratedAnswer) -> dict[str, Any]:
        """Store the images of an answer; what its line tells about them, {} without drawings.

        drawings  caption, image (path from the folder of the answers, or None), and `problem` without an image
        parts     the answer as the content of a turn of the `records` format
        raises    OSError when an image cannot be written
        """
        if not answer.drawn:
            return {}
        paths = [self._store(index, number, one.image) for number, one in enumerate(answer.drawn, 1)]
        drawings = [_drawing(one, path) for one, path in zip(answer.drawn, paths, strict=True)]
        left = iter(paths)
        parts: list[dict[str, Any]] = []
        for part in answer.parts:
            parts += _record_parts(part, next(left) if isinstance(part, Drawing) else None)
        return {"drawings": drawings, "parts": parts}

    def has_all(self, line: Mapping[str, Any]) -> bool:
        """Whether the images that a line of answers names are there."""
        names = [one["image"] for one in _drawings_of(line) if one.get("image")]
        return self.folder is None or all((self.folder.parent / name).is_file() for name in names)

    def clear(self, keep: Sequence[Mapping[str, Any]] = ()) -> None:
        """Remove the images of earlier answers, except those that these lines name. Other files stay."""
        if self.folder is None or not self.folder.is_dir():
            return
        named = {Path(one["image"]).name for line in keep for one in _drawings_of(line) if one.get("image")}
        for path in self.folder.iterdir():
            if OF_A_DRAWING.fullmatch(path.name) and path.name not in named:
                path.unlink()
        if not any(self.folder.iterdir()):
            shutil.rmtree(self.folder, ignore_errors=True)

    def _store(self, index: int, number: int, image: Tensor | None) -> str | None:
        if image is None or self.folder is None:
            return None
        path = self.folder / f"{index}_{number}.png"
        replace_bytes(path, png_of(image))
        return f"{self.folder.name}/{path.name}"


@dataclass(frozen=True)
class Drawings:
    """How the tasks of an evaluation draw, and where their images go."""

    artist: Artist = field(default_factory=lambda: Artist(None))
    folder: DrawingFolder = field(default_factory=lambda: DrawingFolder(None))


def num_undrawn(line: Mapping[str, Any]) -> int:
    """Complete captions of a line of answers whose image a generator could not draw."""
    fine = (None, UNFINISHED, NO_GENERATOR)
    return sum(one.get("problem") not in fine for one in _drawings_of(line))


def _drawings_of(line: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The drawings of a line; earlier versions wrote captions alone, as texts."""
    return [one for one in line.get("drawings", ()) if isinstance(one, dict)]


def image_of(folder: Path, part: Mapping[str, Any]) -> Tensor | None:
    """The image of a drawing in the `parts` of a line, uint8[3, H, W]; None where nothing was drawn.

    folder   of the file of answers, in which the images are
    raises   DataError if the image is not there any more, or is outside the folder
    """
    if not (name := part.get("path")):
        return None
    path = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts or not path.is_file():
        raise DataError(f"{path}: the image of an answer is not there; run the evaluation again")
    try:
        return torch.from_numpy(read_image(path)).permute(2, 0, 1)  # [3, H, W]
    except MediaError as error:
        raise DataError(f"the image of an answer cannot be read; run the evaluation again: {error}") from error


def _drawing(drawn: Drawn, path: str | None) -> dict[str, Any]:
    problem = {} if drawn.problem is None else {"problem": drawn.problem}
    return {"caption": drawn.caption, "image": path, **problem}


def _record_parts(part: Part, path: str | None) -> list[dict[str, Any]]:
    """A part of an answer in the form of `records`, where a drawing needs a caption; [] for one that has nothing."""
    if isinstance(part, Text):
        return [{"type": "text", "text": part.text}]
    image = {} if path is None else {"path": path}
    if isinstance(part, Drawing) and part.caption.strip():
        return [{"type": "drawing", "caption": part.caption, **image}]
    return [{"type": "image", **image}] if image else []


__all__ = ["DrawingFolder", "Drawings", "GeneratedAnswer", "answer_of", "image_of", "num_undrawn"]
