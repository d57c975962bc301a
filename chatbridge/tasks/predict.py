"""Generated answers to the questions of a task, shared among ranks. Nothing is scored here: see scoring.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

from torch import Tensor

from chatbridge.common.dist import Dist
from chatbridge.conversation.layout import Layout
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.drawing import start_drawing
from chatbridge.models.language import GenerateOptions
from chatbridge.models.language.likelihood import Likelihood
from chatbridge.processors.media_processor import Processor
from chatbridge.tasks.base import Prediction, Task
from chatbridge.tasks.drawn_answers import DrawingFolder, Drawings, GeneratedAnswer, answer_of
from chatbridge.tasks.partial_answers import PartialAnswers
from chatbridge.tasks.question_loader import PromptBatch, Question, QuestionBatch, load_questions

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
) -> Iterator[Prediction]:
    """Predictions for the questions with these indices, batch by batch as they are generated; see `predictions`."""
    context_length = model.language.max_positions
    loaded = load_questions(task, layout, processors, seed, indices, context_length, num_workers)
    with closing(loaded) as batches:
        for batch in batches:
            yield from _predict_batch(task, Answering(model, layout, processors, dist, drawings), batch)


@dataclass(frozen=True)
class Answering:
    """What generates the answers of a task."""

    model: ChatModel
    layout: Layout
    processors: Mapping[str, Processor]
    dist: Dist
    drawings: Drawings

    def answers(self, prompts: PromptBatch, options: Sequence[GenerateOptions]) -> list[GeneratedAnswer]:
        """The answers to a batch of prompts, with their images."""
        batch, layout = prompts.batch.to(self.dist.device), self.layout
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
    answers: dict[int, GeneratedAnswer] = {}
    likelihoods: dict[int, dict[str, Likelihood]] = {}
    for prompts in batch.prompts:
        likelihoods |= answering.likelihoods(prompts, batch.questions)
        if not task.generates:
            continue
        indices = [batch.questions[number].index for number in prompts.numbers]
        # each samples and draws with a seed of its own, whatever batch it is in
        options = [task.config.generation(prompts.max_new_tokens, index) for index in indices]
        answers |= zip(prompts.numbers, answering.answers(prompts, options), strict=True)
    for number, question in enumerate(batch.questions):
        row = _prediction(question, answers.get(number), answering.drawings.folder)
        yield row | task.likelihood_fields(question.details, likelihoods.get(number, {}))


def _prediction(question: Question, answer: GeneratedAnswer | None, folder: DrawingFolder) -> Prediction:
    """The line of a question; one that cannot be answered has the problem."""
    row: Prediction = {"index": question.index, "id": question.id, "question": question.text}
    row |= {"prediction": "" if answer is None else answer.text, "references": list(question.references)}
    row |= {} if answer is None else folder.fields(question.index, answer)
    row |= {} if question.problem is None else {"problem": question.problem}
    row |= {} if question.without_sound is None else {"without_sound": question.without_sound}
    return {**row, "details": dict(question.details)}
