"""The settings that all tasks share: what is asked, how answers are generated, and how they are scored."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from chatbridge.common import seeds
from chatbridge.common.errors import Problem, nearest
from chatbridge.config.schema import Choice, PartOf, Range
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.datasets.builders import BUILDERS, Dataset
from chatbridge.models.language import GenerateOptions
from chatbridge.models.language.base import MOST_SEED, LengthPenalty, NumBeams, Penalty, Temperature
from chatbridge.tasks.metric_settings import all_score_names, metric_problems, named_settings, score_names
from chatbridge.tasks.several_prompts import ITEM, prompt_problems
from chatbridge.tasks.submissions import SubmissionFormat, submission_problem

# settings of a task that no answer depends on: an evaluation with others keeps its answers
FREE = ("report", "group_by", "metrics", "main_metric", "resample_by", "submission_format")


@dataclass(frozen=True, kw_only=True)
class PublishedScore:
    """A score that a paper or model card states; the report shows it beside ours."""

    model: str  # that the score is of: ChatBridge (Vicuna 13B)
    metric: str  # name of our score that it corresponds to: cider
    value: float  # as the source prints it, for example 131.4
    # value / our score, for example 100 for a fraction that is printed in percent; null: 1 for percent, else 100
    scale: Annotated[float, Range(above=0)] | None = None
    source: str = ""  # where it is stated: arXiv 2305.16103, table 2
    note: str = ""  # what differs from this task: another prompt, another split

    def problems(self) -> Iterator[Problem]:
        """Numbers that no source prints."""
        for name in ("value", "scale"):
            if (number := getattr(self, name)) is not None and not math.isfinite(number):
                yield Problem(name, f"is {number}, expected a finite number")


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """What is reported of a task besides its scores; answers and scores do not depend on it."""

    title: str = ""  # heading of the task; default: made from its name
    # share (0.95 is 95%) that the table marks as reached or missed; scores that are no share, such as CIDEr, have none
    target: Annotated[float, Range(low=0, high=1)] | None = None
    answer_parts: tuple[str, ...] = ()  # modalities that the parts of an answer "X and Y" describe: [video, audio]
    published: tuple[PublishedScore, ...] = ()  # scores of others on this task: [{model, metric, value, source}]
    # ask the questions again with each modality removed, exchanged between questions and, for audio with a video,
    # misaligned, to see which of them the model uses. null: where a question has several modalities and drop_media
    # removes none; never during a training
    modalities: bool | None = None

    def problems(self) -> Iterator[Problem]:
        """Modalities that do not exist, or are not two."""
        for name in self.answer_parts:
            if name not in MODALITIES:
                names = MODALITIES.names()
                message = f"there is no modality named {name!r}"
                yield Problem("answer_parts", message, allowed=names, nearest=nearest(name, names))
        if len(self.answer_parts) not in (0, 2):
            yield Problem("answer_parts", f"has {len(self.answer_parts)} entries, expected 2 or none")


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """Settings that all tasks share."""

    # fields of a line of predictions that tasks of this kind write for metrics, besides the text
    writes: ClassVar[frozenset[str]] = frozenset({"references"})
    ELSEWHERE: ClassVar = {"limit": "a part of the questions: dataset.limit; during a training run.evaluate.limit"}
    totals: ClassVar[tuple[str, ...]] = ()  # names of sums in the results that are not scores of a metric

    dataset: Annotated[Choice[Dataset], PartOf(BUILDERS)]  # a builder with its settings; the weight is ignored
    max_new_tokens: Annotated[int, Range(low=1)] = 32  # length of the longest answer
    min_new_tokens: Annotated[int, Range(low=0)] = 0  # length of the shortest answer
    num_beams: NumBeams = 1  # 1: greedy, unless sample is true
    sample: bool = False  # sample answers; false: greedy or beam search
    temperature: Temperature = 1.0  # only with sample
    top_p: Annotated[float, Range(above=0, high=1)] = 1.0  # only with sample: smallest set of tokens with this mass
    top_k: Annotated[int, Range(low=0)] = 0  # only with sample: among the k most likely tokens; 0: all
    # of samples and of drawn images; a question's seed is made of it. Only with sample or model.generator
    seed: Annotated[int, Range(low=0, high=MOST_SEED)] = 0
    # most images that an answer draws, for templates that draw; null: no limit
    max_drawings: Annotated[int, Range(low=0)] | None = None
    repetition_penalty: Penalty = 1.0  # above 1: fewer repetitions within an answer
    length_penalty: LengthPenalty = 1.0  # only with beams: above 1 favors long answers
    batch_size: Annotated[int, Range(low=1)] = 16  # questions per rank and batch
    # ask every question with each of these, in place of `prompt` of the data set, which has their form: results have
    # the spread of a score over the prompts. [] : as the data set asks
    prompts: tuple[str, ...] = ()
    drop_media: tuple[str, ...] = ()  # modalities removed from the questions (an ablation): [audio]
    # by name: [cider, bleu], or with settings: {bleu: {max_n: 2}, cider: {}}; null: those of the kind of task
    metrics: tuple[str, ...] | dict[str, dict[str, Any] | None] | None = None
    main_metric: str | None = None  # name of the headline score; null: the first score of the first metric
    group_by: tuple[str, ...] = ()  # annotation fields by which results are grouped: [kind]
    # annotation fields whose values name the questions that intervals resample together: [image]; []: one by one
    resample_by: tuple[str, ...] = ()
    # the form of submission_<task>.json, for an official script or test server; null: no such file
    submission_format: SubmissionFormat | None = None
    report: ReportSettings = field(default_factory=ReportSettings)

    @property
    def default_metrics(self) -> Mapping[str, Mapping[str, Any]]:
        """Metrics of this kind of task: name -> settings, which hold also where `metrics` names one of them."""
        return {}

    @property
    def resampled_together(self) -> tuple[str, ...]:
        """Annotation fields whose values name the items that intervals resample together."""
        return self.resample_by or ((ITEM,) if len(self.prompts) > 1 else ())

    @property
    def metric_settings(self) -> dict[str, dict[str, Any]]:
        """Name -> settings of every metric of the task, the first with the headline."""
        return named_settings(self.metrics, self.default_metrics)

    def problems(self) -> Iterator[Problem]:
        """Settings that contradict each other or have no effect."""
        if self.min_new_tokens > self.max_new_tokens:
            yield Problem("min_new_tokens", f"is {self.min_new_tokens}, above max_new_tokens, {self.max_new_tokens}")
        for name in () if self.sample else ("temperature", "top_p", "top_k"):
            if getattr(self, name) != TaskConfig.__dataclass_fields__[name].default:
                yield Problem(name, "has no effect without sample: true", hint="set sample: true, or remove it")
        if self.max_drawings is not None and self.num_beams > 1:
            yield Problem("max_drawings", "has no effect with beams", hint="set num_beams to 1, or remove it")
        if self.length_penalty != 1.0 and self.num_beams == 1:
            hint = "set num_beams above 1, or remove it"
            yield Problem("length_penalty", "has no effect without beams", hint=hint)
        yield from prompt_problems(self.dataset, self.prompts)
        yield from metric_problems(self.metric_settings, self.main_metric, self.writes)
        form = self.submission_format
        if form is not None and (problem := submission_problem(form, self.dataset)) is not None:
            yield problem
        yield from self._published_problems()

    def _published_problems(self) -> Iterator[Problem]:
        """Published scores that no score corresponds to; one of a metric that the task leaves out is not shown."""
        names = (*score_names(self.metric_settings), *self.totals)
        for number, one in enumerate(self.report.published):
            if names and one.metric not in names and one.metric not in all_score_names():
                message = f"the metrics of this task give no score named {one.metric!r}"
                guess = nearest(one.metric, names)
                yield Problem(f"report.published.{number}.metric", message, allowed=names, nearest=guess)

    def drawing_problems(self, draws: bool, is_training: bool = False) -> Iterator[Problem]:
        """Settings that contradict a model with or without a generator of images, or have no effect.

        draws        whether the model has a generator
        is_training  of a training: it draws nothing, but an evaluation with the same settings does
        """
        if draws and not is_training and self.num_beams > 1:
            message = f"is {self.num_beams}, and answers with images are generated without beams"
            yield Problem("num_beams", message, hint="set it to 1, or remove model.generator")
        if not draws and not self.sample and self.seed:
            hint = "set sample: true, or remove it"
            yield Problem("seed", "has no effect without sample: true or model.generator", hint=hint)

    def generation(self, max_new_tokens: int, number: int) -> GenerateOptions:
        """Options for the answer to one question.

        max_new_tokens   at most those of the task; fewer if the context length leaves less room
        number           index of the question, from which its seed derives
        """
        return GenerateOptions(
            max_new_tokens=max_new_tokens,
            min_new_tokens=min(self.min_new_tokens, max_new_tokens),
            num_beams=self.num_beams,
            sample=self.sample,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            repetition_penalty=self.repetition_penalty,
            length_penalty=self.length_penalty,
            seed=seeds.number(self.seed, "answers", number) % 2**31,
            max_drawings=self.max_drawings,
        )
