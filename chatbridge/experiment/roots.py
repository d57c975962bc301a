"""What a whole configuration file holds: a training, an evaluation, or a model that answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Literal

from chatbridge.common.errors import Problem
from chatbridge.config.schema import Exists, NameIn, Range
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.conversation.question_form import QuestionForm
from chatbridge.conversation.templates import TEMPLATES
from chatbridge.datasets.builders import BUILDERS
from chatbridge.datasets.config import DataConfig, ImageConfig
from chatbridge.experiment.validate import beam_problems, evaluation_problems, missing_template, training_problems
from chatbridge.experiment.validate_template import token_problems
from chatbridge.experiment.validate_watching import watching_problems
from chatbridge.models.bridges import BRIDGES
from chatbridge.models.config import ModelConfig, with_background
from chatbridge.models.encoders import ENCODERS
from chatbridge.models.fusion import FUSIONS
from chatbridge.models.generators import GENERATORS
from chatbridge.models.language import LANGUAGES
from chatbridge.models.language.answer_options import AnswerOptions
from chatbridge.models.manifest_check import ModelFrom
from chatbridge.processors.limits import ChatLimits, Limits
from chatbridge.runners.config import ComputeConfig, Precision, RunConfig
from chatbridge.tasks import TASKS
from chatbridge.tasks.config import EvaluationConfig
from chatbridge.tasks.metrics.base import METRICS

PARTS = (ENCODERS, BRIDGES, LANGUAGES, FUSIONS, GENERATORS, BUILDERS, TEMPLATES, TASKS, METRICS)
REGISTRIES = (MODALITIES, *PARTS)  # what a plugin may add to
SHARED = ("data", "run", "evaluation")  # sections of which a Chat reads only the keys it declares


def language_template(model: ModelConfig) -> str:
    """The chat template of the language model; "" when it names none."""
    return getattr(model.language.config, "template", None) or ""


def _with_background(model: ModelConfig, image: ImageConfig) -> ModelConfig:
    """The model with data.image.background as a setting of its encoders, so that checkpoints record it."""
    if image.background is None:
        return model
    return replace(model, encoders=with_background(model.encoders, image.background))


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A training run: the whole content of a file in train_configs/."""

    model: ModelConfig
    data: DataConfig
    run: RunConfig
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    plugins: tuple[str, ...] = ()  # packages with parts of your own: my_lab/encoders/..., my_lab/tasks/...

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", _with_background(self.model, self.data.image))

    @property
    def template(self) -> str:
        return self.data.template or language_template(self.model)

    @property
    def evaluation_template(self) -> str:
        return self.evaluation.template or self.template

    def problems(self) -> Iterator[Problem]:
        if not self.template:
            yield missing_template("data.template")
        yield from token_problems((self.template, self.evaluation_template), self.model)
        yield from training_problems(self.data, self.model, self.run)
        yield from evaluation_problems(self.evaluation, self.model)
        yield from watching_problems(self.data, self.run, self.evaluation)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A file in eval_configs/: a model, its tasks, and the checkpoint with its trained tensors."""

    model: ModelConfig
    evaluation: EvaluationConfig
    run: ComputeConfig
    plugins: tuple[str, ...] = ()  # packages with parts of your own

    @property
    def evaluation_template(self) -> str:
        return self.evaluation.template or language_template(self.model)

    def problems(self) -> Iterator[Problem]:
        if not self.evaluation_template:
            yield missing_template("evaluation.template")
        yield from token_problems((self.evaluation_template,), self.model)
        yield from evaluation_problems(self.evaluation, self.model, self.run)


@dataclass(frozen=True, kw_only=True)
class ChatRun:
    """Where the model runs."""

    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: cuda where there is one
    precision: Precision = "auto"  # auto: bf16 where the device has it, fp32 on a CPU
    compute_dtype: dict[str, Literal["fp32", "bf16"]] = field(default_factory=dict)  # exceptions, as in training
    # threads of one operation on the CPU; null: OMP_NUM_THREADS, or all cores
    threads: Annotated[int, Range(low=1)] | None = None
    # a checkpoint, a run folder or a released file; null: bridges stay untrained
    init_from: Annotated[Path, Exists()] | None = None
    model_from: ModelFrom | None = None  # whose settings count where YAML and checkpoint differ; null: that is an error


@dataclass(frozen=True, kw_only=True)
class ChatEvaluation:
    """Template of a chat, limits of its files, and how it asks and answers."""

    template: Annotated[str, NameIn(TEMPLATES)] | None = None  # chat template; null: the one of the language model
    media: Limits = field(default_factory=Limits)  # what a media file of `chatbridge generate` may cost
    chat: ChatLimits = field(default_factory=ChatLimits)  # what an upload may cost; beyond, it is refused
    generation: AnswerOptions = field(
        default_factory=AnswerOptions
    )  # how `chatbridge chat` and the demo generate answers
    question: QuestionForm = field(default_factory=QuestionForm)  # where the files of a question are placed


@dataclass(frozen=True, kw_only=True)
class ChatData:
    """How images are read, as in training."""

    image: ImageConfig = field(default_factory=ImageConfig)


@dataclass(frozen=True, kw_only=True)
class Chat:
    """A model that answers: the part of a training or evaluation file that chat, demo, generate and load_model read."""

    model: ModelConfig
    run: ChatRun = field(default_factory=ChatRun)
    evaluation: ChatEvaluation = field(default_factory=ChatEvaluation)
    data: ChatData = field(default_factory=ChatData)
    plugins: tuple[str, ...] = ()  # packages with parts of your own

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", _with_background(self.model, self.data.image))

    @property
    def evaluation_template(self) -> str:
        return self.evaluation.template or language_template(self.model)

    def problems(self) -> Iterator[Problem]:
        if not self.evaluation_template:
            yield missing_template("evaluation.template")
        yield from token_problems((self.evaluation_template,), self.model)
        yield from beam_problems(self.evaluation.generation, self.model)

    @staticmethod
    def keys() -> dict[str, tuple[str, ...]]:
        """section -> the keys that a chat reads; the others belong to other commands"""
        kinds = {"run": ChatRun, "evaluation": ChatEvaluation, "data": ChatData}
        return {section: tuple(one.name for one in fields(kinds[section])) for section in SHARED}
