"""Questions: MULTIS's lists (formats/multis.py), or a public layout of formats/.

Tags `ti-shortqa`, `ti-normalqa`, `tv-shortqa` ...: a prompt of the tag is drawn and its <QUESTION> replaced.
Tag `ti-whyqa`: the same with prompts that ask for the reason ("<QUESTION> Why?"). Tag `ti-qa`: the question is used as
it is. `prompt` is one text in place of the list, for all of these tags. Of the answers of several annotators training
draws one, so each comes as often as it was given, or takes the most frequent one (`answer: majority`); all of them are
references.

`options` is the share of the draws that list the different answers after the question, in random order: answers that
differ in case or outer blanks only are listed once, and the supervised answer is spelled as it is listed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np

from chatbridge.common.errors import MediaError, Problem
from chatbridge.config.schema import Range, missing_path
from chatbridge.conversation.messages import Conversation
from chatbridge.datasets.builders._annotated_media import AnnotatedMedia, AnnotatedMediaConfig
from chatbridge.datasets.builders._options import (
    OPTIONS_HEADER,
    distinct,
    is_drawn,
    majority,
    shuffled,
    with_listed,
)
from chatbridge.datasets.builders._prompts import QUESTION
from chatbridge.datasets.builders._turn_messages import NO_QUESTION, answered, place_one_turn
from chatbridge.datasets.builders.base import BUILDERS, draw
from chatbridge.datasets.formats import avhbench, multis
from chatbridge.datasets.formats.audio_questions import AUDIO_QUESTION_FORMATS
from chatbridge.datasets.formats.image_questions import IMAGE_QUESTION_FORMATS
from chatbridge.datasets.formats.records import QuestionRecord
from chatbridge.datasets.formats.sentiment import SENTIMENT_FORMATS
from chatbridge.datasets.formats.single_answer_vqa import SINGLE_ANSWER_FORMATS
from chatbridge.datasets.formats.video_questions import VIDEO_QUESTION_FORMATS
from chatbridge.datasets.formats.vqa import OCR, OCR_FORM, VQA_FORMATS

FormatName = Literal[
    "multis", "vqa", "vqav2", "okvqa", "aokvqa", "textvqa", "gqa", "vg", "ocrvqa", "ocrvqa_list", "clevr", "msrvttqa",
    "msvdqa", "avqa", "mosei", "vizwiz", "pope", "avhbench", "clotho_aqa",
]  # fmt: skip


@BUILDERS.register("questions")
class Questions(AnnotatedMedia[QuestionRecord]):
    @dataclass(frozen=True, kw_only=True)
    class Config(AnnotatedMediaConfig):
        tasks: ClassVar[tuple[str, ...]] = ("shortqa", "normalqa", "qa", "whyqa")
        prompted: ClassVar[tuple[str, ...]] = ("shortqa", "normalqa", "whyqa")
        promptable: ClassVar[tuple[str, ...]] = ("qa",)
        asks: ClassVar[bool] = True
        formats: ClassVar = {
            "multis": multis.QUESTIONS, **VQA_FORMATS, **SINGLE_ANSWER_FORMATS, **VIDEO_QUESTION_FORMATS,
            **IMAGE_QUESTION_FORMATS, **SENTIMENT_FORMATS, **AUDIO_QUESTION_FORMATS, "avhbench": avhbench.QUESTIONS,
        }  # fmt: skip
        format: FormatName = "multis"  # layout of the file
        questions: Path | None = None  # vqav2, okvqa: the file with the questions; `annotations` has the answers
        mapping: Path | None = None  # msvdqa: youtube_mapping.txt, with the names of the videos
        # aokvqa, ocrvqa, mosei: train, val, test; avhbench: the task, as the file writes it; several are joined
        split: str | tuple[str, ...] | None = None
        subtitles: bool = True  # mosei: what the speaker says precedes the question, where the file has it
        choices: bool = False  # aokvqa, avqa: ask with the choices; the correct one is the answer
        explain: bool = False  # aokvqa: answer with the correct choice and why: "The answer is X. Because ..."
        full_answers: bool = False  # gqa: answer in a sentence
        ocr: Path | None = None  # textvqa: TextVQA_Rosetta_OCR_v0.2_<split>.json, with the texts in the images
        ocr_form: str = OCR_FORM  # textvqa: how they follow the question; none for an image without texts
        # which of several answers is supervised: one at random, or the most frequent one (of these, the first)
        answer: Literal["drawn", "majority"] = "drawn"
        options: Annotated[float, Range(0, 1)] = 0.0  # share of the draws that list several answers as options
        input_header: str = OPTIONS_HEADER  # text between the question and the listed options

        def problems(self) -> Iterator[Problem]:
            yield from super().problems()
            if self.ocr is not None and (problem := missing_path(self.ocr, "file")):
                yield replace(problem, path="ocr")
            if OCR not in self.ocr_form:
                yield Problem("ocr_form", f"has no {OCR}, the place of the texts in the image")
            if self.ocr_form != OCR_FORM and self.ocr is None and self.format == "textvqa":
                yield Problem(
                    "ocr_form", "has no effect without ocr", hint="name the file of texts in ocr, or remove it"
                )
            if self.choices and self.explain:
                yield Problem("explain", "contradicts choices: true, which answers with the choice alone")
            if self.options and (self.choices or self.explain):
                key = "choices" if self.choices else "explain"
                yield Problem("options", f"has no effect: {key}: true leaves one answer", hint="remove one of both")

    config: Config
    record_type = QuestionRecord

    def conversation(self, record: QuestionRecord, rng: np.random.Generator) -> tuple[Conversation, tuple[str, ...]]:
        media = self.media(record)
        question, answers = draw(record.questions, rng)
        if not question.strip():
            raise MediaError(NO_QUESTION)
        choose = majority if self.config.answer == "majority" else lambda found: draw(found, rng)
        answer = choose(answers) if answers else None
        prompt = self.draw_prompt(rng)
        text = question if prompt is None else prompt.replace(QUESTION, question)
        options = distinct(answers) if self.config.options else ()
        if answer is not None and len(options) > 1 and is_drawn(self.config.options, rng):
            text = with_listed(text, shuffled(options, rng), self.config.input_header)
            answer = next(one for one in options if one.lower() == answer.strip().lower())
        return answered(answer, *place_one_turn(text, media)), answers

    def answers(self, record: QuestionRecord) -> tuple[str, ...]:
        return record.questions[0][1] if len(record.questions) == 1 else ()
