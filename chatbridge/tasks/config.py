"""The evaluation section of a YAML."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from chatbridge.config.schema import Choice, NameIn, PartOf, Range
from chatbridge.conversation.question_form import QuestionForm
from chatbridge.conversation.templates import TEMPLATES
from chatbridge.models.language.answer_options import AnswerOptions
from chatbridge.processors.limits import ChatLimits, Limits
from chatbridge.tasks.base import TASKS, Task


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Which tasks a model is evaluated on, how their questions are read, and how a chat with it asks and answers."""

    tasks: dict[str, Annotated[Choice[Task], PartOf(TASKS)]] = field(default_factory=dict)  # name -> a task
    every: Annotated[int, Range(low=1)] | None = None  # training steps between evaluations; null: only after the last
    # chat template; null: the one of the training data, or of the language model
    template: Annotated[str, NameIn(TEMPLATES)] | None = None
    # processes per rank that read and decode ahead; with 0, a decoder that crashes or hangs ends the evaluation
    num_workers: Annotated[int, Range(low=0)] = 1
    media: Limits = field(default_factory=Limits)  # limits of a media file; a question with a larger one is unreadable
    chat: ChatLimits = field(default_factory=ChatLimits)  # limits of an upload to the demo; larger ones are refused
    generation: AnswerOptions = field(default_factory=AnswerOptions)  # of a chat; tasks have their own settings
    question: QuestionForm = field(default_factory=QuestionForm)  # where a chat places the files of a question
