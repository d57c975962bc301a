"""Questions: MULTIS's lists (formats/multis.py), or a public layout of formats/.

Tags `ti-shortqa`, `ti-normalqa`, `tv-shortqa` ...: a prompt of the tag is drawn and its <QUESTION> replaced.
Tag `ti-qa`: the question is used as it is. Of the answers of several annotators training draws one, so each comes as
often as it was given; all of them are references.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from chatbridge.conversation.messages import Conversation
from chatbridge.datasets.builders._annotated_media import AnnotatedMedia, AnnotatedMediaConfig
from chatbridge.datasets.builders._prompts import QUESTION
from chatbridge.datasets.builders._turn_messages import answered, place_one_turn
from chatbridge.datasets.builders.base import BUILDERS, draw
from chatbridge.datasets.formats import multis
from chatbridge.datasets.formats.records import QuestionRecord
from chatbridge.datasets.formats.single_answer_vqa import SINGLE_ANSWER_FORMATS
from chatbridge.datasets.formats.video_questions import VIDEO_QUESTION_FORMATS
from chatbridge.datasets.formats.vqa import VQA_FORMATS

FormatName = Literal[
    "multis", "vqav2", "okvqa", "aokvqa", "textvqa", "gqa", "vg", "ocrvqa", "msrvttqa", "msvdqa", "avqa"
]


@BUILDERS.register("questions")
class Questions(AnnotatedMedia[QuestionRecord]):
    @dataclass(frozen=True, kw_only=True)
    class Config(AnnotatedMediaConfig):
        tasks: ClassVar[tuple[str, ...]] = ("shortqa", "normalqa", "qa")
        prompted: ClassVar[tuple[str, ...]] = ("shortqa", "normalqa")
        asks: ClassVar[bool] = True
        formats: ClassVar = {
            "multis": multis.QUESTIONS, **VQA_FORMATS, **SINGLE_ANSWER_FORMATS, **VIDEO_QUESTION_FORMATS
        }  # fmt: skip
        format: FormatName = "multis"  # layout of the file
        questions: Path | None = None  # vqav2, okvqa: the file with the questions; `annotations` has the answers
        mapping: Path | None = None  # msvdqa: youtube_mapping.txt, with the names of the videos
        split: str | tuple[str, ...] | None = None  # aokvqa, ocrvqa: train, val, test; several are joined
        choices: bool = False  # aokvqa, avqa: ask with the choices; the correct one is the answer
        full_answers: bool = False  # gqa: answer in a sentence

    config: Config
    record_type = QuestionRecord

    def conversation(self, record: QuestionRecord, rng: np.random.Generator) -> tuple[Conversation, tuple[str, ...]]:
        media = self.media(record)
        question, answers = draw(record.questions, rng)
        answer = draw(answers, rng) if answers else None
        prompt = self.draw_prompt(rng)
        text = question if prompt is None else prompt.replace(QUESTION, question)
        return answered(answer, *place_one_turn(text, media)), answers
