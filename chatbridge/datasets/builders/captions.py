"""Captions in MULTIS's JSON: {"video_id" | "image_id": ..., "desc" | "caption": text or list of texts}.

Tag `ti-cap`: a prompt of the tag asks, the caption answers. Tag `ti` alone: the caption follows the media without a
word, as in the first training stage (`pretrain_txt_mapper.json`). Tag `ti-ocr`: {"text": text or list}, the texts of a
list are joined with ", ".

`format:` names a public layout instead (datasets/formats/coco.py): coco, nocaps, karpathy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from chatbridge.common.errors import Problem
from chatbridge.conversation.messages import Media, Message
from chatbridge.conversation.text_cleaning import clean_caption
from chatbridge.datasets.annotations import check_fields
from chatbridge.datasets.builders._media_markers import place_one_turn
from chatbridge.datasets.builders._multis import MultisConfig, MultisDataset, strings, texts_fault
from chatbridge.datasets.builders._turns import answered
from chatbridge.datasets.builders.base import BUILDERS, draw
from chatbridge.datasets.formats.coco import CAPTION_FORMATS
from chatbridge.datasets.formats.entries import Wrong, spelling

FIELDS = {"": ("desc", "caption"), "cap": ("desc", "caption"), "ocr": ("text",)}


@BUILDERS.register("captions")
class Captions(MultisDataset):
    """One of several captions is drawn for training; all of them are references."""

    @dataclass(frozen=True, kw_only=True)
    class Config(MultisConfig):
        tasks: ClassVar[tuple[str, ...]] = ("", "cap", "ocr")
        prompted: ClassVar[tuple[str, ...]] = ("cap", "ocr")
        formats: ClassVar = CAPTION_FORMATS
        format: Literal["multis", "pretrain_txt_mapper", "coco", "nocaps", "karpathy"] = "multis"  # layout of the file
        split: str | tuple[str, ...] | None = None  # karpathy: train, restval, val, test; several are joined
        clean: bool | None = None  # lower case and strip as stage 1 did; null: only for tags without a task

        def problems(self) -> Iterator[Problem]:
            yield from super().problems()
            if self.layout is not None and self.task == "ocr":
                yield Problem(
                    "tag", f"cannot be {self.tag!r}: the format {self.format!r} has captions, no written text"
                )

    config: Config

    def check(self, record: dict[str, Any]) -> str | None:
        names = FIELDS[self.config.task]
        if "_answers" in record:
            return None
        fault = check_fields(record, (names,))
        if fault is not None:
            return fault
        try:
            return texts_fault(" or ".join(map(repr, names)), _payload(record, names))
        except Wrong as error:
            return str(error)

    def messages(
        self, record: dict[str, Any], media: tuple[Media, ...], rng: np.random.Generator
    ) -> tuple[tuple[Message, ...], tuple[str, ...]]:
        texts = (
            strings(record["_answers"] if "_answers" in record else _payload(record, FIELDS[self.config.task])) or ()
        )
        if self.config.task == "ocr":
            texts = (", ".join(texts),)
        if self.config.clean or (self.config.clean is None and not self.config.task):
            texts = tuple(clean_caption(text) for text in texts)
        prompt = self.draw_prompt(rng)
        question = media if prompt is None else place_one_turn(prompt, media)
        return answered(draw(texts, rng) if texts else None, *question), texts


def _payload(record: dict[str, Any], names: tuple[str, ...]) -> Any:
    name = spelling(record, names)
    return None if name is None else record[name]
