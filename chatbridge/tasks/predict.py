"""Generated and scored answers to the questions of a task, shared among ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing

from chatbridge.common.dist import Dist
from chatbridge.conversation.layout import Layout
from chatbridge.conversation.messages import Drawing
from chatbridge.models.chat_model import ChatModel
from chatbridge.processors.media_processor import Processor
from chatbridge.tasks.base import Prediction, Task
from chatbridge.tasks.question_loader import PromptBatch, Question, QuestionBatch, load_questions

GeneratedText = tuple[str, tuple[str, ...]]  # an answer's text, and the captions of images it would draw


def predictions(
    task: Task,
    model: ChatModel,
    layout: Layout,
    processors: Mapping[str, Processor],
    dist: Dist,
    seed: int = 0,
    num_workers: int = 0,
) -> list[Prediction]:
    """A scored prediction per question of the task, in the order of the data set, on every rank.

    processors   modality -> processor for evaluation
    seed         of the random choices of the data set, such as prompts
    num_workers  processes that read the next batch while the model generates; a decoder that crashes or hangs costs
                 its question only. With 0 this process reads, and such a decoder ends the evaluation
    raises       DataError if the data set cannot be read, or too many workers die
    """
    own = range(dist.rank, len(task.dataset), dist.world_size)
    found = list(iter_predictions(task, model, layout, processors, dist, own, seed, num_workers))
    rows = sorted((row for part in dist.gather(found) for row in part), key=lambda row: row["index"])
    return task.with_shared_scores(rows)


def iter_predictions(
    task: Task,
    model: ChatModel,
    layout: Layout,
    processors: Mapping[str, Processor],
    dist: Dist,
    indices: Sequence[int],
    seed: int = 0,
    num_workers: int = 0,
) -> Iterator[Prediction]:
    """Predictions for the questions with these indices, batch by batch as they are generated; see `predictions`."""
    context_length = model.language.max_positions
    loaded = load_questions(task, layout, processors, seed, indices, context_length, num_workers)
    with closing(loaded) as batches:
        for batch in batches:
            yield from _predict_batch(task, model, layout, dist, batch)


def _predict_batch(
    task: Task, model: ChatModel, layout: Layout, dist: Dist, batch: QuestionBatch
) -> Iterator[Prediction]:
    answers: dict[int, GeneratedText] = {}
    for prompts in batch.prompts:
        indices = [batch.questions[number].index for number in prompts.numbers]
        answers |= zip(prompts.numbers, _generate(task, model, layout, dist, prompts, indices), strict=True)
    for number, question in enumerate(batch.questions):
        if question.problem is not None:
            yield _unreadable(task, question)
        else:
            yield _scored(task, question, *answers[number])


def _unreadable(task: Task, question: Question) -> Prediction:
    """A question that cannot be answered scores 0."""
    row: Prediction = {"index": question.index, "id": question.id, "question": "", "answer": "", "references": []}
    scores = task.missed(question.details)
    return {**row, "scores": scores, "problem": question.problem, "details": dict(question.details)}


def _scored(task: Task, question: Question, text: str, captions: Sequence[str]) -> Prediction:
    scores = task.score(text, question.references, question.details)
    row: Prediction = {"index": question.index, "id": question.id, "question": question.text, "answer": text}
    row |= {"references": list(question.references), **({"drawings": list(captions)} if captions else {})}
    return {**row, "scores": scores, "details": dict(question.details)}


def _generate(
    task: Task, model: ChatModel, layout: Layout, dist: Dist, prompts: PromptBatch, indices: Sequence[int]
) -> list[GeneratedText]:
    """Answers to the questions with these indices; each samples with a seed of its own, whatever batch it is in."""
    options = [task.config.generation(prompts.max_new_tokens, index) for index in indices]
    batch = prompts.batch.to(dist.device)
    generated = model.generate(batch, options, layout.stops)
    return [(layout.finish(ids), drawing_captions(layout, ids)) for ids in generated]


def drawing_captions(layout: Layout, ids: Sequence[int]) -> tuple[str, ...]:
    """Captions of the images that an answer would draw; an evaluation renders none."""
    if layout.template.drawing_ids is None:
        return ()
    return tuple(part.caption for part in layout.parts(ids) if isinstance(part, Drawing))
