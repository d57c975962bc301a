"""Examples for the page: media of the evaluation with all their questions and answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chatbridge.report.item_media import Media, media_of, open_dataset
from chatbridge.report.runs import Runs, TaskRun
from chatbridge.tasks import Prediction
from chatbridge.tasks.mmbench import OF_COPY

FIRST = 2  # examples from the start of the data per combination of modalities; then one with an incorrect answer

MOST_IN_MEMORY = 40  # rows of a task that are looked at, where the media are inside its data file


@dataclass(frozen=True)
class DrawnImage:
    """A caption of an answer, and its image, or the reason why there is none."""

    caption: str
    path: Path | None
    problem: str = ""


@dataclass(frozen=True)
class Exchange:
    """A question, the answer of the model with the images that it drew, and a correct one."""

    question: str
    answer: str
    reference: str
    is_correct: bool
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
        return all(exchange.is_correct for exchange in self.exchanges)


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
    # an answer without a score is not marked as incorrect; a copy of a question has a score of its own
    is_correct = row["scores"].get(task.metric, row["scores"].get(OF_COPY, 1.0)) >= 1.0
    reference = row["references"][0] if row["references"] else ""
    return Exchange(row["question"], row["prediction"], reference, is_correct, _drawn(task, row))


def _drawn(task: TaskRun, row: Prediction) -> tuple[DrawnImage, ...]:
    """The drawings of an answer; earlier versions wrote captions alone, as texts."""
    found: list[DrawnImage] = []
    for one in row.get("drawings", ()):
        drawing = one if isinstance(one, dict) else {"caption": str(one)}
        name, caption = drawing.get("image"), str(drawing.get("caption", ""))
        is_inside = isinstance(name, str) and not Path(name).is_absolute() and ".." not in Path(name).parts
        path = task.folder / name if task.folder is not None and is_inside and isinstance(name, str) else None
        found.append(DrawnImage(caption, path, str(drawing.get("problem", ""))))
    return tuple(found)


def _located(task: TaskRun) -> Iterator[tuple[Media, Prediction]]:
    """The rows of a task with the files of their media; of questions without media, those with drawn answers."""
    dataset, in_memory = open_dataset(task.node.get("dataset"), task.name), 0
    for row in task.rows:
        if dataset is None or "problem" in row or row["index"] >= len(dataset):
            continue
        media = media_of(dataset, row["index"])
        in_memory += any(isinstance(ref, bytes) for _, ref in media or ())
        if in_memory > MOST_IN_MEMORY:
            return
        if media is not None and (media or row.get("drawings")):
            yield media, row
