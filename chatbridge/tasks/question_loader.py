"""Questions of a task in batches: read, decoded and laid out by worker processes.

A media file that cannot be read makes its question unreadable; it never ends the evaluation.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from chatbridge.common import seeds
from chatbridge.common.errors import DataError, MediaError
from chatbridge.common.types import Batch, Sample
from chatbridge.conversation.layout import Layout, TokenSequence
from chatbridge.conversation.messages import Conversation
from chatbridge.datasets.collate import stack
from chatbridge.datasets.decoding import decode, limits_of
from chatbridge.datasets.sample_reader import processors_for, sample_name
from chatbridge.datasets.workers.progress_notes import ProgressNote, ProgressNotes, TimedReading
from chatbridge.datasets.workers.supervisor import (
    MAX_RESTARTS,
    SupervisedWorkers,
    hard_limit,
    init_worker,
    supervised_results,
)
from chatbridge.processors.media_processor import Processor
from chatbridge.tasks.base import Task
from chatbridge.tasks.prompt import check_room, question_of
from chatbridge.tasks.row_options import RowOptions, row_options


@dataclass(frozen=True)
class Question:
    """One question of a task, without its media.

    text     text of its last turn
    problem  why it cannot be answered; None if it can
    without_sound  why its prompt says that the video has no sound; None if all media are there
    measured name -> ids of a text whose likelihood as an answer is measured
    asked    how it is answered; None for a question with a problem
    """

    index: int
    id: str
    text: str = ""
    references: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None
    without_sound: str | None = None
    measured: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    asked: RowOptions | None = None


@dataclass(frozen=True)
class PromptBatch:
    """Prompts that are generated from together.

    numbers         for each prompt, the number of its question within the QuestionBatch
    asked           how each of them is answered; they have one number of beams, longest length and stop strings
    """

    batch: Batch
    numbers: tuple[int, ...]
    asked: tuple[RowOptions, ...]


@dataclass(frozen=True)
class QuestionBatch:
    """Questions in order, and the prompts of those that can be answered, nearly always in one PromptBatch."""

    questions: tuple[Question, ...]
    prompts: tuple[PromptBatch, ...]


_Loaded = tuple[Question, Sample | None, TokenSequence | None]  # the last two are None if the question has a problem


def load_questions(
    task: Task,
    layout: Layout,
    processors: Mapping[str, Processor],
    seed: int,
    indices: Sequence[int],
    context_length: int | None,
    num_workers: int,
) -> Generator[QuestionBatch, None, None]:
    """All batches of the questions with these indices, in order, from workers supervised as in training.

    processors      modality -> processor for evaluation
    context_length  of the language model; None if it has no fixed one
    raises          DataError if the data set cannot be read, or too many workers die
    """
    dataset = _QuestionDataset(task, layout, processors, seed, indices, context_length)

    def start(numbers: range) -> SupervisedWorkers:
        torch_loader = DataLoader(
            dataset,
            sampler=numbers,
            batch_size=None,
            num_workers=num_workers,
            prefetch_factor=1 if num_workers else None,  # batches of each worker that wait in memory
            worker_init_fn=init_worker,
            generator=torch.Generator(),  # without one, torch draws a number from the global generator
        )
        dataset.notes = ProgressNotes(num_workers)
        return SupervisedWorkers(torch_loader, dataset.notes, hard_limit(limits_of(processors).time_limit_s))

    for batch in supervised_results(range(len(dataset)), start, dataset.keep_out, MAX_RESTARTS):
        if isinstance(batch, DataError):
            raise batch
        yield batch


@dataclass
class _QuestionDataset(TorchDataset[QuestionBatch | DataError]):
    """Batch number -> its questions.

    indices  of the questions of this rank
    lost     index -> why it is not read: it crashed or hung the worker that read it
    notes    where a worker records what it is reading; None: nowhere
    """

    task: Task
    layout: Layout
    processors: Mapping[str, Processor]
    seed: int
    indices: Sequence[int]
    context_length: int | None = None
    lost: dict[int, str] = field(default_factory=dict)
    notes: ProgressNotes | None = None

    def __len__(self) -> int:
        return -(-len(self.indices) // self.task.config.batch_size)

    def __getitem__(self, number: int) -> QuestionBatch | DataError:
        """A DataError is returned: raised, it would reach the user wrapped in the worker's traceback."""
        size = self.task.config.batch_size
        try:
            loaded = [self._load(index) for index in self.indices[number * size : (number + 1) * size]]
            return QuestionBatch(tuple(question for question, *_ in loaded), tuple(self._prompts(loaded)))
        except DataError as error:
            return DataError(str(error))

    def _prompts(self, loaded: list[_Loaded]) -> Iterator[PromptBatch]:
        """One batch per longest length, number of beams and stop strings, so that no answer depends on the other
        questions of its batch."""
        groups: dict[tuple[Any, ...], list[int]] = {}
        for number, (question, *_) in enumerate(loaded):
            if question.asked is not None:
                groups.setdefault(question.asked.group, []).append(number)
        for numbers in groups.values():
            samples, sequences = zip(*(loaded[number][1:] for number in numbers), strict=True)
            asked = tuple(one for number in numbers if (one := loaded[number][0].asked) is not None)
            yield PromptBatch(stack(samples, sequences, self.layout.tokenizer.pad_id), tuple(numbers), asked)

    def keep_out(self, note: ProgressNote, reason: str) -> str:
        """Exclude a question that killed its worker; returns the line for the log."""
        self.lost[note.index] = reason
        return f"task {self.task.name!r}, sample {sample_name(self.task.dataset, note.index)!r}: {reason}"

    def _load(self, index: int) -> _Loaded:
        dataset, name = self.task.dataset, self.task.name
        watch = TimedReading(limits_of(self.processors).time_limit_s, self.notes)
        references, details = dataset.references(index), dataset.details(index)
        question = Question(index, sample_name(dataset, index), references=references, details=details)
        try:
            if index in self.lost:
                raise MediaError(self.lost[index])
            with watch.reading(0, index):
                record = dataset.record(index, seeds.stream(self.seed, f"task/{name}", index))
                conversation, answer = question_of(record.conversation, self.task.config.drop_media)
                references = record.references or ((answer,) if answer.strip() else ())
                question = Question(index, record.id, conversation[-1].text, references, record.details)
                decoded = decode(conversation, processors_for(dataset, self.processors))
            tokens = self._prompt(decoded.conversation)
            measured = self._measured(decoded.conversation, question, len(tokens))
            room = None if self.context_length is None else self.context_length - len(tokens)
            options = row_options(self.task.config, index, dataset.options(index), room)
        except MediaError as error:  # the references stay: the question is in the denominator of every score
            return replace(question, problem=str(error)), None, None
        sample = Sample(record.id, name, decoded.conversation, decoded.media, decoded.without_sound)
        silent = decoded.without_sound
        text = decoded.conversation[-1].text
        question = replace(question, text=text, measured=measured, without_sound=silent, asked=options)
        return question, sample, tokens

    def _measured(self, conversation: Conversation, question: Question, length: int) -> dict[str, tuple[int, ...]]:
        """Name -> ids of the texts whose likelihood is measured after a prompt of `length` tokens.

        raises   MediaError for a text without tokens, or one that does not fit into the context
        """
        own = self.task.measured_references(question.references)
        texts = {**self.task.measured_texts(question.details), **own}
        if not texts:
            return {}
        try:
            ids = self.layout.continuations(conversation, [*texts.values()], self.task.measures_end)
        except ValueError as error:
            raise MediaError(str(error)) from error
        check_room(length + max(map(len, ids)) - 1, self.context_length)
        return dict(zip(texts, ids, strict=True))

    def _prompt(self, conversation: Conversation) -> TokenSequence:
        """raises MediaError if the template cannot render the conversation, or the prompt leaves no room to answer"""
        try:
            tokens = self.layout.prompt(conversation)
        except ValueError as error:
            raise MediaError(str(error)) from error
        check_room(len(tokens), self.context_length)
        return tokens
