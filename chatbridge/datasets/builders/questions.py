"""Questions in MULTIS's JSON: {"video_id" | "image_id": ..., "question": text or list, "answer": text or list}.

Tags `ti-shortqa`, `ti-normalqa`, `tv-shortqa` ...: a prompt of the tag is drawn and its <QUESTION> replaced.
Tag `ti-qa`: the question stands as it is. Lists are parallel: one index is drawn for both.

`format:` names a public layout instead (datasets/formats/): vqav2, okvqa, aokvqa, textvqa, gqa, vg, ocrvqa, msrvttqa,
msvdqa, avqa. Of several people's answers training draws one, so each comes as often as it was given; all of them are
references.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from chatbridge.conversation.messages import Media, Message
from chatbridge.datasets.annotations import check_fields
from chatbridge.datasets.builders._media_markers import place_one_turn
from chatbridge.datasets.builders._multis import MultisConfig, MultisDataset, strings, texts_fault
from chatbridge.datasets.builders._prompts import QUESTION
from chatbridge.datasets.builders._turns import answered
from chatbridge.datasets.builders.base import BUILDERS, draw
from chatbridge.datasets.formats.entries import answer_of
from chatbridge.datasets.formats.scenes import SCENE_FORMATS
from chatbridge.datasets.formats.video_questions import VIDEO_QUESTION_FORMATS
from chatbridge.datasets.formats.vqa import VQA_FORMATS

FormatName = Literal[
    "multis", "vqav2", "okvqa", "aokvqa", "textvqa", "gqa", "vg", "ocrvqa", "msrvttqa", "msvdqa", "avqa"
]


@BUILDERS.register("questions")
class Questions(MultisDataset):
    @dataclass(frozen=True, kw_only=True)
    class Config(MultisConfig):
        tasks: ClassVar[tuple[str, ...]] = ("shortqa", "normalqa", "qa")
        prompted: ClassVar[tuple[str, ...]] = ("shortqa", "normalqa")
        asks: ClassVar[bool] = True
        formats: ClassVar = {**VQA_FORMATS, **SCENE_FORMATS, **VIDEO_QUESTION_FORMATS}
        format: FormatName = "multis"  # layout of the file
        questions: Path | None = None  # vqav2, okvqa: the file with the questions; `annotations` has the answers
        mapping: Path | None = None  # msvdqa: youtube_mapping.txt, with the names of the videos
        split: str | tuple[str, ...] | None = None  # aokvqa, ocrvqa: train, val, test; several are joined
        choices: bool = False  # aokvqa, avqa: ask with the choices; the right one is the answer
        full_answers: bool = False  # gqa: answer in a sentence

    config: Config

    def check(self, record: dict[str, Any]) -> str | None:
        if "_answers" in record:
            return None
        fault = check_fields(record, ("question", "answer"))
        if fault is not None:
            return fault
        fault = texts_fault("'question'", record["question"]) or texts_fault("'answer'", record["answer"], answer_of)
        if fault is not None:
            return fault
        questions, answers = strings(record["question"]) or (), strings(record["answer"], answer_of) or ()
        if len(questions) != len(answers):
            return f"has {len(questions)} questions and {len(answers)} answers"
        return None

    def messages(
        self, record: dict[str, Any], media: tuple[Media, ...], rng: np.random.Generator
    ) -> tuple[tuple[Message, ...], tuple[str, ...]]:
        if "_answers" in record:
            references = tuple(record["_answers"])
            question, answer = record["question"], draw(references, rng) if references else None
        else:
            question, answer = draw(_pairs(record), rng)
            references = (answer,)
        prompt = self.draw_prompt(rng)
        words = question if prompt is None else prompt.replace(QUESTION, question)
        return answered(answer, *place_one_turn(words, media)), references


def _pairs(record: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(zip(strings(record["question"]) or (), strings(record["answer"], answer_of) or ()))
