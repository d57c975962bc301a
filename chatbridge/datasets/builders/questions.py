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
from chatbridge.datasets.builders._multis import MultisConfig, MultisDataset, strings
from chatbridge.datasets.builders._prompts import QUESTION
from chatbridge.datasets.builders._turns import answered
from chatbridge.datasets.builders.base import BUILDERS, draw
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
        questions, answers = strings(record["question"]), strings(record["answer"])
        if questions is None or answers is None:
            return f"{'question' if questions is None else 'answer'!r} is neither text nor a list of texts"
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
            question, answer = draw(tuple(zip(strings(record["question"]) or (), strings(record["answer"]) or ())), rng)
            references = (answer,)
        prompt = self.draw_prompt(rng)
        words = question if prompt is None else prompt.replace(QUESTION, question)
        return answered(answer, *media, words), references
