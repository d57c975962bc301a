"""Generated answers to the questions of a task, shared among ranks. Nothing is scored here: see scoring.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from chatbridge.common.dist import Dist
from chatbridge.common.log import get_logger
from chatbridge.conversation.layout import Layout
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.drawing import start_drawing
from chatbridge.models.drawing.start import BEAMS
from chatbridge.models.language.likelihood import Likelihood
from chatbridge.processors.media_processor import Processor
from chatbridge.tasks.base import Prediction, Task
from chatbridge.tasks.drawn_answers import DrawingFolder, Drawings, GeneratedAnswer, answer_of
from chatbridge.tasks.partial_answers import PartialAnswers
from chatbridge.tasks.question_loader import PromptBatch, Question, QuestionBatch, load_questions

log = get_logger(__name__)
NO_DRAWINGS = Drawings()  # captions without images


def predictions(
    task: Task,
    model: ChatModel,
    layout: Layout,
    processors: Mapping[str, Processor],
    dist: Dist,
    seed: int = 0,
    num_workers: int = 0,
    drawings: Drawings = NO_DRAWINGS,
    partial: PartialAnswers | None = None,
    kept: Mapping[int, Prediction] | None = None,
) -> list[Prediction]:
    """A prediction per question of the task, in the order of the data set, on every rank.

    processors   modality -> processor for evaluation
    seed         of the random choices of the data set, such as prompts
    num_workers  processes that read the next batch while the model generates; a decoder that crashes or hangs costs
                 its question only. With 0 this process reads, and such a decoder ends the evaluation
    drawings     draws the images of answers and stores them
    partial      where answers are written as soon as they are made; None: nowhere
    kept         index -> the answer of an earlier start, which is not asked for again; the same on every rank
    raises       DataError if the data set cannot be read, or too many workers die
    """
    kept = kept or {}
    left = [index for index in range(len(task.dataset)) if index not in kept]
    own = left[dist.rank :: dist.world_size]
    made = iter_predictions(task, model, layout, processors, dist, own, seed, num_workers, drawings)
    found = list(made if partial is None else partial.keep(task, made))
    new = (row for part in dist.gather(found) for row in part)
    return sorted([*kept.values(), *new], key=lambda row: row["index"])


def iter_predictions(
    task: Task,
    model: ChatModel,
    layout: Layout,
    processors: Mapping[str, Processor],
    dist: Dist,
    indices: Sequence[int],
    seed: int = 0,
    num_workers: int = 0,
    drawings: Drawings = NO_DRAWINGS,
    is_tolerant: bool = False,
) -> Iterator[Prediction]:
    """Predictions for the questions with these indices, batch by batch as they are generated; see `predictions`.

    is_tolerant   an error of the model while a batch is answered costs the questions that fail by themselves only: they
                  have it as their problem. False: it ends the evaluation
    """
    context_length = model.language.max_positions
    loaded = load_questions(task, layout, processors, seed, indices, context_length, num_workers)
    with closing(loaded) as batches:
        for batch in batches:
            answering = Answering(model, layout, processors, dist, drawings, is_tolerant)
            yield from _predict_batch(task, answering, batch)


@dataclass(frozen=True)
class Answering:
    """What generates the answers of a task."""

    model: ChatModel
    layout: Layout
    processors: Mapping[str, Processor]
    dist: Dist
    drawings: Drawings
    is_tolerant: bool = False

    def found(self, prompts: PromptBatch) -> Iterator[tuple[int, GeneratedAnswer | str]]:
        """Number of a question, and its answer, or why there is none."""
        if self.drawings.artist.generator is not None and prompts.asked[0].options.num_beams > 1:
            yield from ((number, f"options: {BEAMS}") for number in prompts.numbers)
            return
        try:
            yield from zip(prompts.numbers, self.answers(prompts), strict=True)
        except Exception as error:
            if not self.is_tolerant or not is_local(error):
                raise
            if len(prompts.numbers) == 1:
                yield prompts.numbers[0], f"the model failed ({type(error).__name__}: {error})"
                return
            log.warning("a batch of %d failed (%s); its questions are asked one by one", len(prompts.numbers), error)
        else:
            return
        free_memory()
        for row, number in enumerate(prompts.numbers):
            alone = PromptBatch(prompts.batch.row(row), (number,), (prompts.asked[row],))
            yield from self.found(alone)

    def answers(self, prompts: PromptBatch) -> list[GeneratedAnswer]:
        """The answers to a batch of prompts, with their images."""
        batch, stop = prompts.batch.to(self.dist.device), prompts.asked[0].stop
        layout = self.layout.stopping_at(stop) if stop else self.layout
        options = [one.options for one in prompts.asked]
        if layout.template.drawing_ids is None or options[0].num_beams > 1:
            return [answer_of(layout, ids) for ids in self.model.generate(batch, options, layout.stops)]
        growing = start_drawing(self.model, layout, batch, options, self.drawings.artist, self._encoder_input)
        while not growing.is_done:
            growing.step()
        return [answer_of(layout, ids, drawn) for ids, drawn in zip(growing.answers, growing.drawn, strict=True)]

    def likelihoods(self, prompts: PromptBatch, questions: Sequence[Question]) -> dict[int, dict[str, Likelihood]]:
        """Number of a question -> likelihood of each of its measured texts.

        Each question is read alone: of numbers, unlike of the most likely token, the last digit depends on the others
        of a batch, and predictions must not.
        """
        found: dict[int, dict[str, Likelihood]] = {}
        for row, number in enumerate(prompts.numbers):
            if texts := questions[number].measured:
                batch = prompts.batch.row(row).to(self.dist.device)
                found[number] = dict(zip(texts, self.model.likelihoods(batch, [*texts.values()]), strict=True))
        return found

    def _encoder_input(self, image: Tensor) -> Tensor:
        return self.processors["image"](image, None)


def _predict_batch(task: Task, answering: Answering, batch: QuestionBatch) -> Iterator[Prediction]:
    answers: dict[int, GeneratedAnswer | str] = {}
    likelihoods: dict[int, dict[str, Likelihood]] = {}
    for prompts in batch.prompts:
        likelihoods |= answering.likelihoods(prompts, batch.questions)
        if task.generates:
            answers |= answering.found(prompts)
    for number, question in enumerate(batch.questions):
        answer = answers.get(number)
        if isinstance(answer, str):
            question, answer = replace(question, problem=answer), None
        row = _prediction(question, answer, answering.drawings.folder)
        yield row | task.likelihood_fields(question.details, likelihoods.get(number, {}))


def is_local(error: Exception) -> bool:
    """Whether other questions can still be answered after an error: not after one that leaves the GPU unusable."""
    broken: Any = getattr(torch, "AcceleratorError", None)  # a failed assertion in a kernel, an illegal address
    is_broken = broken is not None and isinstance(error, broken) and not isinstance(error, torch.OutOfMemoryError)
    return not is_broken and not isinstance(error, OSError)


def free_memory() -> None:
    """Give memory of a failed batch back, so that single questions have it."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _prediction(question: Question, answer: GeneratedAnswer | None, folder: DrawingFolder) -> Prediction:
    """The line of a question; one that cannot be answered has the problem."""
    row: Prediction = {"index": question.index, "id": question.id, "question": question.text}
    row |= {"prediction": "" if answer is None else answer.text, "references": list(question.references)}
    row |= {} if answer is None else folder.fields(question.index, answer)
    row |= {} if question.problem is None else {"problem": question.problem}
    row |= {} if question.without_sound is None else {"without_sound": question.without_sound}
    return {**row, "details": dict(question.details)}
