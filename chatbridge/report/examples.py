"""Examples for the page: media of the evaluation with all their questions and answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatbridge.report.item_media import Media, media_of, open_dataset
from chatbridge.report.runs import Runs, TaskRun
from chatbridge.report.score_lines import GRADED, unit_of
from chatbridge.tasks import Prediction
from chatbridge.tasks.mmbench import OF_COPY

FIRST = 2  # examples from the start of the data per combination of modalities; then one with an incorrect answer
MOST_ROWS = 2000  # of a task that are looked at: files are looked for on the disk, which may be a slow one
MOST_IN_MEMORY = 40  # rows of a task that are looked at, where the media are inside its data file


@dataclass(frozen=True)
class DrawnImage:
    """A caption of an answer, and its image, or the reason why there is none."""

    caption: str
    path: Path | None
    problem: str = ""


@dataclass(frozen=True)
class Exchange:
    """A question, the answer of the model with the images that it drew, and a correct one.

    is_correct   None if answers are graded, or this one has no score
    """

    question: str
    answer: str
    reference: str
    is_correct: bool | None
    drawn: tuple[DrawnImage, ...] = ()


@dataclass(frozen=True)
class MediaExample:
    """The media of a conversation with all questions about them: an image, or a video with its audio track."""

    media: Media
    exchanges: tuple[Exchange, ...]

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(modality for modality, _ in self.media)

    @property
    def is_correct(self) -> bool:
        """Whether no answer is known to be wrong."""
        return all(exchange.is_correct is not False for exchange in self.exchanges)


def find_examples(runs: Runs) -> dict[tuple[str, ...], list[MediaExample]]:
    """Modalities -> the first examples of the data, then the first one with an incorrect answer.

    Tasks whose data cannot be opened any more have none.
    """
    asked: dict[tuple[Media, str], list[Exchange]] = {}  # questions without media are an example each
    for task in runs.complete:
        for media, row in _located(task):
            asked.setdefault((media, "" if media else f"{task.name} {row['index']}"), []).append(_exchange(task, row))
    kinds: dict[tuple[str, ...], list[MediaExample]] = {}
    for (media, _), exchanges in asked.items():
        example = MediaExample(media, tuple(exchanges))
        kinds.setdefault(example.modalities, []).append(example)
    return {kind: _chosen(examples) for kind, examples in kinds.items()}


def _chosen(examples: list[MediaExample]) -> list[MediaExample]:
    wrong = next((example for example in examples[FIRST:] if not example.is_correct), None)
    return examples[:FIRST] + ([wrong] if wrong is not None else examples[FIRST : FIRST + 1])


def _exchange(task: TaskRun, row: Prediction) -> Exchange:
    reference = row["references"][0] if row["references"] else ""
    # without a score it is not marked as incorrect
    correct = is_right(task, row) if task.is_scored else True
    return Exchange(row["question"], row["prediction"], reference, correct, drawn_images(task.folder, row))


def is_right(task: TaskRun, row: Prediction) -> bool | None:
    """Whether an answer is correct; None for graded answers and those without a score of their own. A copy of a
    question of MMBench has its own."""
    name = task.metrics.get("metric")
    value = row["scores"].get(name, row["scores"].get(OF_COPY))
    unit = unit_of(task.metrics, str(name))
    if value is None or unit == "number" or str(name).startswith(GRADED):
        return None
    return value >= (100.0 if unit == "percent" else 1.0)


def drawn_images(folder: Path | None, row: Mapping[str, Any]) -> tuple[DrawnImage, ...]:
    """The drawings of an answer; earlier versions wrote captions alone, as texts. folder: of the evaluation"""
    found: list[DrawnImage] = []
    drawings = row.get("drawings")
    for one in drawings if isinstance(drawings, list) else ():
        drawing = one if isinstance(one, dict) else {"caption": str(one)}
        name, caption = drawing.get("image"), str(drawing.get("caption", ""))
        is_inside = isinstance(name, str) and not Path(name).is_absolute() and ".." not in Path(name).parts
        path = folder / name if folder is not None and is_inside and isinstance(name, str) else None
        found.append(DrawnImage(caption, path, str(drawing.get("problem", ""))))
    return tuple(found)


def _located(task: TaskRun) -> Iterator[tuple[Media, Prediction]]:
    """The rows of a task with the files of their media; of questions without media, those with drawn answers."""
    dataset, in_memory = open_dataset(task.node.get("dataset"), task.name), 0
    for row in task.rows[:MOST_ROWS]:
        if dataset is None or "problem" in row or row["index"] >= len(dataset):
            continue
        media = media_of(dataset, row["index"])
        in_memory += any(isinstance(ref, bytes) for _, ref in media or ())
        if in_memory > MOST_IN_MEMORY:
            return
        if media is not None and (media or row.get("drawings")):
            yield media, row
