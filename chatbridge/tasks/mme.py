"""MME: yes or no about an image, twice per image, scored as the official tool does.

accuracy        share of the questions with the correct answer
accuracy_plus   share of the images with both answers correct
score           of a subject: 100 x (accuracy + accuracy_plus), 200 at most; `perception` and `cognition` are the sums
                over their 10 and 4 subjects, which are left out when one of them was not evaluated
A question that cannot be read is an incorrect answer to that question, and to its image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatbridge.common.errors import Problem
from chatbridge.common.safe_files import replace_text
from chatbridge.datasets.formats.mme import COGNITION, PERCEPTION, SUBJECTS
from chatbridge.tasks.base import TASKS, Prediction, Task, TaskConfig
from chatbridge.tasks.metrics.shared import prompt_number
from chatbridge.tasks.metrics.yes_no import one_line
from chatbridge.tasks.scoring import Scored

GROUPS = {"perception": PERCEPTION, "cognition": COGNITION}


@TASKS.register("mme")
class MME(Task):
    """Takes the data set `mme`. Writes `mme_<task>/<subject>.txt`, which the official tool (calculation.py
    --results_dir) scores: image, question, correct answer and answer, separated by tabs."""

    @dataclass(frozen=True, kw_only=True)
    class Config(TaskConfig):
        max_new_tokens: int = 4  # length of the longest answer: only its first four characters count
        group_by: tuple[str, ...] = ("subject",)  # annotation fields by which results are grouped
        resample_by: tuple[str, ...] = ("subject", "image")  # both questions about an image are resampled together

        totals = ("perception", "cognition")

        @property
        def default_metrics(self) -> Mapping[str, Mapping[str, Any]]:
            return {"mme": {}}

        def problems(self) -> Iterator[Problem]:
            yield from super().problems()
            if self.dataset.name != "mme":
                yield Problem("dataset.name", f"is {self.dataset.name!r}; the task mme takes the data set 'mme'")

    config: Config

    def group_results(self, scored: Scored, is_whole: bool = True) -> dict[str, Any]:
        found = super().group_results(scored, is_whole)
        if not {"accuracy", "accuracy_plus"} <= found.keys():
            return found
        return {**found, "totals": self._sums(scored) if is_whole else {"score": _score(scored)}}

    def groups(self, field: str, scored: Scored) -> Mapping[str, Scored]:
        found = scored.by(field)
        return {name: found[name] for name in SUBJECTS if name in found} if field == "subject" else found

    def _sums(self, scored: Scored) -> dict[str, float]:
        subjects = self.groups("subject", scored)
        return {
            group: sum(_score(subjects[name]) for name in names)
            for group, names in GROUPS.items()
            if all(name in subjects for name in names)
        }

    def write(self, rows: Sequence[Prediction], folder: Path) -> list[Path]:
        place = folder / f"mme_{self.name}"
        first = [row for row in rows if prompt_number(row["details"]) == 1]
        for name in SUBJECTS:
            if chosen := _about(name, first):
                replace_text(place / f"{name}.txt", "".join(map(_line, chosen)))
        return [place, *super().write(rows, folder)]


def _score(scored: Scored) -> float:
    return 100 * (scored.values["accuracy"] + scored.values["accuracy_plus"])


def _line(row: Prediction) -> str:
    """The line of a question in a results file."""
    details = row["details"]
    columns = details["image"], details["asked"], details["answer"].capitalize(), row["prediction"]
    return "\t".join(map(one_line, columns)) + "\n"


def _about(subject: str, rows: Sequence[Prediction]) -> list[Prediction]:
    return [row for row in rows if row["details"]["subject"] == subject]
