"""From a data set to answers: prompts in batches, shared out over ranks, decoded by worker processes if asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from chatbridge.common import seeds
from chatbridge.common.dist import Dist
from chatbridge.common.errors import MediaError
from chatbridge.common.types import Sample
from chatbridge.conversation.layout import Layout
from chatbridge.conversation.messages import Conversation, Media, Message
from chatbridge.datasets.collate import collate
from chatbridge.datasets.decoding import decode, limits_of
from chatbridge.datasets.reading import processors_for
from chatbridge.datasets.time_limit import time_limit
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.language import GenerateOptions
from chatbridge.processors.source import Processor
from chatbridge.tasks.base import Row, Task


@dataclass(frozen=True)
class Question:
    """One conversation up to the answer that is asked for. `problem` says why it could not be read."""

    index: int
    id: str
    sample: Sample | None
    references: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None

    @property
    def text(self) -> str:
        """The words of the last turn."""
        return self.sample.conversation[-1].text if self.sample else ""


def answer_rows(
    task: Task,
    model: ChatModel,
    layout: Layout,
    processors: Mapping[str, Processor],
    dist: Dist,
    seed: int = 0,
    num_workers: int = 0,
) -> list[Row]:
    """A scored row per conversation of the task, in the order of the data set, on every rank.

    processors  modality -> what decodes it for evaluation
    seed        of what the data set draws: prompts
    """
    questions = _Questions(task, processors, seed)
    own = range(dist.rank, len(questions), dist.world_size)
    size = task.config.batch_size
    loader: Any = DataLoader(questions, size, sampler=own, num_workers=num_workers, collate_fn=list)  # pyright: ignore
    rows = [row for batch in loader for row in _answered(task, model, layout, dist, batch)]
    return sorted((row for part in dist.gather(rows) for row in part), key=lambda row: row["index"])


class _Questions(TorchDataset[Question]):
    """Index -> question with decoded media; a file that cannot be read is part of the result, not an end of it."""

    def __init__(self, task: Task, processors: Mapping[str, Processor], seed: int) -> None:
        self.task, self.processors, self.seed = task, processors, seed

    def __len__(self) -> int:
        return len(self.task.dataset)

    def __getitem__(self, index: int) -> Question:
        dataset, name = self.task.dataset, self.task.name
        try:
            record = dataset.record(index, seeds.stream(self.seed, f"task/{name}", index))
            conversation, right = question_of(record.conversation, self.task.config.drop_media)
            with time_limit(limits_of(self.processors).time_limit_s):
                found = decode(conversation, processors_for(dataset, self.processors))
        except MediaError as error:
            return Question(index, dataset.sample_id(index), None, problem=str(error))
        sample = Sample(record.id, name, found.conversation, found.media, found.without_sound)
        return Question(index, record.id, sample, record.references or (right,), record.details)


def question_of(conversation: Conversation, drop_media: Sequence[str] = ()) -> tuple[Conversation, str]:
    """The conversation before its last answer, without some modalities, and the words of that answer.

    raises  MediaError when the assistant never speaks
    """
    last = max((k for k, message in enumerate(conversation) if message.role == "assistant"), default=0)
    if not last:
        raise MediaError("the conversation has no answer to ask for")
    return tuple(_without(message, drop_media) for message in conversation[:last]), conversation[last].text


def _without(message: Message, modalities: Sequence[str]) -> Message:
    kept = (part for part in message.parts if not (isinstance(part, Media) and part.modality in modalities))
    return replace(message, parts=tuple(kept))


def _answered(task: Task, model: ChatModel, layout: Layout, dist: Dist, questions: list[Question]) -> Iterator[Row]:
    readable = [question.sample for question in questions if question.sample is not None]
    answers = iter(_generate(task, model, layout, dist, readable) if readable else ())
    for question in questions:
        row: Row = {"index": question.index, "id": question.id}
        if question.sample is None:
            row |= {"question": "", "answer": "", "references": [], "scores": {task.main_metric: 0.0}}
            yield {**row, "problem": question.problem, "details": {}}
            continue
        answer = next(answers)
        scores = task.score(answer, question.references, question.details)
        row |= {"question": question.text, "answer": answer, "references": list(question.references)}
        yield {**row, "scores": scores, "details": dict(question.details)}


def _generate(task: Task, model: ChatModel, layout: Layout, dist: Dist, samples: list[Sample]) -> list[str]:
    options = GenerateOptions(max_new_tokens=task.config.max_new_tokens, num_beams=task.config.num_beams)
    batch = collate(samples, layout, prompt=True).to(dist.device)
    return [layout.finish(ids) for ids in model.generate(batch, options, layout.stop_ids)]
