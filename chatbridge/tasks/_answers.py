"""From a data set to answers: prompts in batches, shared out over ranks, decoded by worker processes."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from chatbridge.common import seeds
from chatbridge.common.dist import Dist
from chatbridge.common.errors import DataError, MediaError
from chatbridge.common.types import Batch, Sample
from chatbridge.conversation.layout import Layout, TokenSequence
from chatbridge.conversation.messages import Conversation, Drawing, Message, Part, media_of
from chatbridge.datasets.collate import stack
from chatbridge.datasets.decoding import decode, limits_of
from chatbridge.datasets.reading import processors_for, sample_name
from chatbridge.datasets.workers.progress_notes import Note, Notes, Watch
from chatbridge.datasets.workers.supervisor import MAX_RESTARTS, Workers, delivered, hard_limit, start_worker
from chatbridge.models.chat_model import ChatModel
from chatbridge.processors.media_source import Processor
from chatbridge.tasks.base import Row as Answered
from chatbridge.tasks.base import Task


@dataclass(frozen=True)
class Question:
    """What is known of one conversation beside its media. `problem` says why it cannot be asked.

    text  the words of the last turn
    """

    index: int
    id: str
    text: str = ""
    references: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None


@dataclass(frozen=True)
class Prompts:
    """Questions that are asked as one batch.

    numbers         which of their neighbours they are
    max_new_tokens  of an answer: fewer than the task allows where the language model has no room for more
    """

    batch: Batch
    numbers: tuple[int, ...]
    max_new_tokens: int


@dataclass(frozen=True)
class Asked:
    """Questions in their order, and those of them that can be asked; nearly always all in one batch."""

    questions: tuple[Question, ...]
    prompts: tuple[Prompts, ...]


_Found = tuple[Question, Sample | None, TokenSequence | None]  # without the last two when it cannot be asked


def answer_rows(
    task: Task,
    model: ChatModel,
    layout: Layout,
    processors: Mapping[str, Processor],
    dist: Dist,
    seed: int = 0,
    num_workers: int = 0,
) -> list[Answered]:
    """A scored row per conversation of the task, in the order of the data set, on every rank.

    processors   modality -> what decodes it for evaluation
    seed         of what the data set draws: prompts
    num_workers  0: this process reads, and a decoder that crashes or never returns takes it along; with workers it
                 costs its question, and the next batch is read while the model answers
    """
    own = range(dist.rank, len(task.dataset), dist.world_size)
    rows = list(answers(task, model, layout, processors, dist, own, seed, num_workers))
    return sorted((row for part in dist.gather(rows) for row in part), key=lambda row: row["index"])


def answers(
    task: Task,
    model: ChatModel,
    layout: Layout,
    processors: Mapping[str, Processor],
    dist: Dist,
    own: Sequence[int],
    seed: int = 0,
    num_workers: int = 0,
) -> Iterator[Answered]:
    """The rows of the questions with these indices, batch by batch as they are answered; see `answer_rows`."""
    questions = _Questions(task, layout, processors, seed, own, model.language.max_positions)
    with closing(_read(questions, num_workers)) as batches:
        for asked in batches:
            yield from _answered(task, model, layout, dist, asked)


def _read(questions: _Questions, num_workers: int) -> Generator[Asked, None, None]:
    """All batches in order, from workers under the supervision that a training has."""

    def start(numbers: range) -> Workers:
        torch_loader = DataLoader(
            questions,
            sampler=numbers,
            batch_size=None,
            num_workers=num_workers,
            prefetch_factor=1 if num_workers else None,  # batches of each worker that wait in memory
            worker_init_fn=start_worker,
            generator=torch.Generator(),  # torch would take a number from the global one
        )
        questions.notes = Notes(num_workers)
        return Workers(torch_loader, questions.notes, hard_limit(limits_of(questions.processors).time_limit_s))

    for asked in delivered(range(len(questions)), start, questions.keep_out, MAX_RESTARTS):
        if isinstance(asked, DataError):
            raise asked
        yield asked


@dataclass
class _Questions(TorchDataset[Asked | DataError]):
    """Number of a batch -> its questions; media that cannot be read are part of the result, not an end of it.

    own    index of every question of this rank
    limit  longest row of the language model, the answer included; None when it does not say
    lost   index -> why it is not opened: it crashed the worker that read it, or hung in it
    notes  where a worker writes down what it reads; None: nowhere
    """

    task: Task
    layout: Layout
    processors: Mapping[str, Processor]
    seed: int
    own: Sequence[int]
    limit: int | None = None
    lost: dict[int, str] = field(default_factory=dict)
    notes: Notes | None = None

    def __len__(self) -> int:
        return -(-len(self.own) // self.task.config.batch_size)

    def __getitem__(self, number: int) -> Asked | DataError:
        """raises nothing that a file can cause: an exception would reach the user wrapped in the worker's traceback"""
        size = self.task.config.batch_size
        try:
            found = [self._question(index) for index in self.own[number * size : (number + 1) * size]]
            return Asked(tuple(question for question, *_ in found), tuple(self._prompts(found)))
        except DataError as error:
            return DataError(str(error))

    def _prompts(self, found: list[_Found]) -> Iterator[Prompts]:
        """One batch, and others of questions that leave less room: no answer depends on who is asked beside it."""
        rooms: dict[int, list[int]] = {}
        for number, (_, _, row) in enumerate(found):
            if row is not None:
                room = self.task.config.max_new_tokens
                rooms.setdefault(room if self.limit is None else min(room, self.limit - len(row)), []).append(number)
        for room, numbers in rooms.items():
            samples, rows = zip(*(found[number][1:] for number in numbers), strict=True)
            yield Prompts(stack(samples, rows, self.layout.tokenizer.pad_id), tuple(numbers), room)

    def keep_out(self, note: Note, reason: str) -> str:
        self.lost[note.index] = reason
        return f"task {self.task.name!r}, sample {sample_name(self.task.dataset, note.index)!r}: {reason}"

    def _question(self, index: int) -> _Found:
        dataset, name = self.task.dataset, self.task.name
        watch = Watch(limits_of(self.processors).time_limit_s, self.notes)
        try:
            if index in self.lost:
                raise MediaError(self.lost[index])
            with watch.reading(0, index):
                record = dataset.record(index, seeds.stream(self.seed, f"task/{name}", index))
                conversation, right = question_of(record.conversation, self.task.config.drop_media)
                found = decode(conversation, processors_for(dataset, self.processors))
            row = self._row(found.conversation)
        except MediaError as error:
            return Question(index, sample_name(dataset, index), problem=str(error)), None, None
        text, references = found.conversation[-1].text, record.references or ((right,) if right.strip() else ())
        sample = Sample(record.id, name, found.conversation, found.media, found.without_sound)
        return Question(index, record.id, text, references, record.details), sample, row

    def _row(self, conversation: Conversation) -> TokenSequence:
        """raises MediaError when the template has no words for it, or the language model no room for an answer"""
        try:
            row = self.layout.prompt(conversation)
        except ValueError as error:
            raise MediaError(str(error)) from error
        check_room(len(row), self.limit)
        return row


def check_room(length: int, context_length: int | None) -> None:
    """raises MediaError when a prompt of that length leaves no token for an answer"""
    if context_length is not None and length >= context_length:
        raise MediaError(f"the question takes {length} of the {context_length} places of this language model")


def room_for_answer(layout: Layout, conversation: Conversation) -> int | None:
    """Most new tokens of an answer; None when the language model does not say how many it takes.

    raises  MediaError when there is no room, ValueError when the template has no words for the conversation
    """
    length = len(layout.prompt(conversation))
    check_room(length, layout.context_length)
    return None if layout.context_length is None else layout.context_length - length


def question_of(conversation: Conversation, drop_media: Sequence[str] = ()) -> tuple[Conversation, str]:
    """The conversation before its last answer, without some modalities, and the words of that answer.

    raises  MediaError when the assistant never speaks
    """
    last = max((k for k, message in enumerate(conversation) if message.role == "assistant"), default=0)
    if not last:
        raise MediaError("the conversation has no answer to ask for")
    return tuple(_without(message, drop_media) for message in conversation[:last]), conversation[last].text


def _without(message: Message, modalities: Sequence[str]) -> Message:
    """The message without media of these modalities; of a drawing the caption stays."""
    parts: list[Part] = []
    for part in message.parts:
        item = media_of(part)
        if item is None or item.modality not in modalities:
            parts.append(part)
        elif isinstance(part, Drawing):
            parts.append(Drawing(part.caption))
    return replace(message, parts=tuple(parts))


@dataclass(frozen=True)
class Said:
    """An answer: its text, and captions of what it would draw. Nothing is drawn in an evaluation."""

    text: str
    drawings: tuple[str, ...] = ()


def _answered(task: Task, model: ChatModel, layout: Layout, dist: Dist, asked: Asked) -> Iterator[Answered]:
    found: dict[int, Said] = {}
    for prompts in asked.prompts:
        indices = [asked.questions[number].index for number in prompts.numbers]
        found |= zip(prompts.numbers, _generate(task, model, layout, dist, prompts, indices), strict=True)
    for number, question in enumerate(asked.questions):
        row: Answered = {"index": question.index, "id": question.id}
        if question.problem is not None:
            row |= {"question": "", "answer": "", "references": []}
            row |= {"scores": {task.main_metric: 0.0} if task.main_metric else {}}
            yield {**row, "problem": question.problem, "details": {}}
            continue
        said = found[number]
        scores = task.score(said.text, question.references, question.details)
        row |= {"question": question.text, "answer": said.text, "references": list(question.references)}
        row |= {"drawings": list(said.drawings)} if said.drawings else {}
        yield {**row, "scores": scores, "details": dict(question.details)}


def _generate(
    task: Task, model: ChatModel, layout: Layout, dist: Dist, prompts: Prompts, indices: Sequence[int]
) -> list[Said]:
    """Each question draws with a seed of its own: its answer does not depend on the batch it is in."""
    options = [task.config.generation(prompts.max_new_tokens, index) for index in indices]
    batch = prompts.batch.to(dist.device)
    return [Said(layout.finish(ids), _captions(layout, ids)) for ids in model.generate(batch, options, layout.stops)]


def _captions(layout: Layout, ids: Sequence[int]) -> tuple[str, ...]:
    if layout.template.drawing_ids is None:
        return ()
    return tuple(part.caption for part in layout.parts(ids) if isinstance(part, Drawing))
