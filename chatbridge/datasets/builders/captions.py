"""Captions: MULTIS's lists (formats/multis.py), or a public layout of formats/coco.py, video_captions.py and
audio_captions.py.

Tag `ti-cap`: a prompt of the tag asks, the caption answers. Tag `ti` alone: the caption follows the media without any
text, as in the first training stage. Tag `ti-ocr`: the texts that are written in the image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from chatbridge.common.errors import Problem
from chatbridge.conversation.messages import Conversation
from chatbridge.conversation.text_cleaning import clean_caption
from chatbridge.datasets.builders._annotated_media import AnnotatedMedia, AnnotatedMediaConfig
from chatbridge.datasets.builders._turn_messages import answered, place_one_turn
from chatbridge.datasets.builders.base import BUILDERS, draw
from chatbridge.datasets.formats import avhbench, multis
from chatbridge.datasets.formats.audio_captions import AUDIO_CAPTION_FORMATS
from chatbridge.datasets.formats.coco import COCO_FORMATS
from chatbridge.datasets.formats.records import CaptionRecord
from chatbridge.datasets.formats.video_captions import VIDEO_CAPTION_FORMATS

FormatName = Literal[
    "multis", "pretrain_txt_mapper", "coco", "coco_gt", "nocaps", "karpathy", "coco_caption", "msrvtt", "msvd", "vatex",
    "caption_list", "clotho", "audiocaps", "avhbench",
]  # fmt: skip


@BUILDERS.register("captions")
class Captions(AnnotatedMedia[CaptionRecord]):
    """One of several captions is drawn for training; all of them are references."""

    @dataclass(frozen=True, kw_only=True)
    class Config(AnnotatedMediaConfig):
        tasks: ClassVar[tuple[str, ...]] = ("", "cap", "ocr")
        prompted: ClassVar[tuple[str, ...]] = ("cap", "ocr")
        formats: ClassVar = {
            "multis": multis.CAPTIONS, "pretrain_txt_mapper": multis.CAPTIONS, **COCO_FORMATS, **VIDEO_CAPTION_FORMATS,
            **AUDIO_CAPTION_FORMATS, "avhbench": avhbench.CAPTIONS,
        }  # fmt: skip
        format: FormatName = "multis"  # layout of the file
        # karpathy: train, restval, val, test; msrvtt: train, validate, test; several are joined
        split: str | tuple[str, ...] | None = None
        # msrvtt, msvd, vatex, caption_list, clotho, audiocaps: a .txt, .csv or .json that lists the items to use, as
        # test_list.txt of MSVD and MSRVTT_JSFUSION_test.csv do; null: all of the file
        ids: Path | None = None
        clean: bool | None = None  # lower case and strip as stage 1 did; null: only for tags without a task

        def problems(self) -> Iterator[Problem]:
            yield from super().problems()
            if self.task == "ocr" and not self.layout.is_multis:
                message = f"cannot be {self.tag!r}: the format {self.format!r} has captions, not the text in an image"
                yield Problem("tag", message)

        @property
        def is_cleaned(self) -> bool:
            return self.clean or (self.clean is None and not self.task)

    config: Config
    record_type = CaptionRecord

    def conversation(self, record: CaptionRecord, rng: np.random.Generator) -> tuple[Conversation, tuple[str, ...]]:
        media, captions = self.media(record), self.answers(record)
        prompt = self.draw_prompt(rng)
        question = media if prompt is None else place_one_turn(prompt, media)
        return answered(draw(captions, rng) if captions else None, *question), captions

    def answers(self, record: CaptionRecord) -> tuple[str, ...]:
        return tuple(map(clean_caption, record.captions)) if self.config.is_cleaned else record.captions
