"""The contract of a task: questions from a data set, and scores of the answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from chatbridge.common import seeds
from chatbridge.common.errors import Problem, nearest
from chatbridge.config.registry import Registry
from chatbridge.config.schema import Choice, PartOf, Range
from chatbridge.conversation.messages import Message, Part
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.datasets.builders import BUILDERS, Dataset
from chatbridge.models.language import GenerateOptions
from chatbridge.models.language.base import MOST_SEED, LengthPenalty, NumBeams, Penalty, Temperature

# a line of predictions_*.jsonl: index, id, question, answer, references, scores, details, and problem if unreadable
Prediction = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """How `chatbridge report` shows a task; answers and scores do not depend on it."""

    title: str = ""  # heading of the task; default: made from its name
    target: Annotated[float, Range(low=0, high=1)] | None = None  # score that the table marks as reached or missed
    answer_parts: tuple[str, ...] = ()  # modalities that the parts of an answer "X and Y" describe: [video, audio]

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
    drop_media: tuple[str, ...] = ()  # modalities removed from the questions (an ablation): [audio]
    group_by: tuple[str, ...] = ()  # annotation fields by which results are grouped: [kind]
    report: ReportSettings = field(default_factory=ReportSettings)

    def problems(self) -> Iterator[Problem]:
        """Generation settings that contradict each other or have no effect."""
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


class Task(ABC):
    """The last question of every conversation of a data set, and how its answers are scored.

    config   the task's Config
    name     of the task in the YAML
    raises   DataError if the data set cannot be used
    """

    config: TaskConfig
    main_metric: str  # the headline score, if the data have what it needs; "": no scores

    def __init__(self, config: Any, name: str) -> None:
        self.config = config
        self.name = name
        self.dataset: Dataset = config.dataset.part(config.dataset.config, name)

    @abstractmethod
    def score(self, answer: str, references: Sequence[str], details: Mapping[str, Any]) -> dict[str, float]:
        """Score name -> value between 0 and 1. A score whose data are missing is absent, not 0.

        references  all correct answers
        details     the annotation, for tasks that need more than the conversation
        """

    def score_parts(
        self, parts: Sequence[Part], references: Sequence[str], details: Mapping[str, Any]
    ) -> dict[str, float]:
        """Scores of an answer with its images; by default those of its text.

        parts   text, and drawings with their image (uint8[3, H, W]), or None where nothing was drawn
        """
        return self.score(Message("assistant", tuple(parts)).text, references, details)

    def missed(self, details: Mapping[str, Any]) -> dict[str, float]:
        """Scores of a question that could not be read: it stays in the denominator. `details` may be empty."""
        return {self.main_metric: 0.0} if self.main_metric else {}

    def with_shared_scores(self, rows: list[Prediction]) -> list[Prediction]:
        """The predictions of all ranks, in order, with the scores that several answers have together."""
        return rows

    def write(self, rows: Sequence[Prediction], folder: Path) -> list[Path]:
        """Write the files that an official tool or server takes into the run folder; returns their paths."""
        return []

    def metrics(self, rows: Sequence[Prediction]) -> dict[str, Any]:
        """Means over the predictions that have a score, also by the fields of `group_by`. An unreadable question
        scores 0. "measured" has the number of predictions of a mean if some lack the score.
        """
        found = self._means(rows)
        found["unreadable"] = sum("problem" in row for row in rows)
        for name in self.config.group_by:
            groups: dict[str, list[Prediction]] = {}
            for row in rows:
                groups.setdefault(str(row["details"].get(name, "(none)")), []).append(row)
            found.setdefault("by", {})[name] = {key: self._group(groups[key]) for key in sorted(groups)}
        return found

    def _means(self, rows: Sequence[Prediction]) -> dict[str, Any]:
        read = [row for row in rows if "problem" not in row]
        names = dict.fromkeys(name for row in read or rows for name in row["scores"])
        found: dict[str, list[float]] = {
            name: [row["scores"].get(name, 0.0) for row in rows if name in row["scores"] or "problem" in row]
            for name in sorted(names, key=lambda name: name != self.main_metric)
        }
        means: dict[str, Any] = {name: sum(scores) / len(scores) for name, scores in found.items()}
        partly = {name: len(scores) for name, scores in found.items() if len(scores) < len(rows)}
        return {**means, "count": len(rows), **({"measured": partly} if partly else {})}

    def metric_of(self, found: Mapping[str, Any]) -> str | None:
        """Name of the headline score: the main metric, another one if its data are missing, or None."""
        if self.main_metric in found:
            return self.main_metric
        return next((name for name, value in found.items() if isinstance(value, float)), None)

    def _group(self, rows: Sequence[Prediction]) -> dict[str, Any]:
        """The results of one group."""
        return self._means(rows)


def confusion(pairs: Iterable[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """correct answer -> given answer -> count, both sorted"""
    table: dict[str, dict[str, int]] = {}
    for correct, given in sorted(pairs):
        row = table.setdefault(correct, {})
        row[given] = row.get(given, 0) + 1
    return table


HELPERS = (  # files here that are no task
    "altered_questions", "config", "drawn_answers", "evaluator", "media_conditions", "metrics", "mmbench_submission",
    "modality_table", "partial_answers", "predict", "prompt", "question_loader", "statistics"
)  # fmt: skip
TASKS: Registry[Task] = Registry("task", "chatbridge.tasks", besides=HELPERS)
