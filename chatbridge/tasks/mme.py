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
from chatbridge.tasks.metrics.shared import add_group_scores, means, measured
from chatbridge.tasks.metrics.yes_no import VERDICTS, one_line, yes_or_no

GROUPS = {"perception": PERCEPTION, "cognition": COGNITION}


@TASKS.register("mme")
class MME(Task):
    """Takes the data set `mme`. Writes `mme_<task>/<subject>.txt`, which the official tool (calculation.py
    --results_dir) scores: image, question, correct answer and answer, separated by tabs."""

    main_metric = "accuracy"

    @dataclass(frozen=True, kw_only=True)
    class Config(TaskConfig):
        max_new_tokens: int = 4  # length of the longest answer: only its first four characters count
        group_by: tuple[str, ...] = ("subject",)  # annotation fields by which results are grouped

        def problems(self) -> Iterator[Problem]:
            yield from super().problems()
            if self.dataset.name != "mme":
                yield Problem("dataset.name", f"is {self.dataset.name!r}; the task mme takes the data set 'mme'")

    config: Config

    def score(self, answer: str, references: Sequence[str], details: Mapping[str, Any]) -> dict[str, float]:
        return {"accuracy": float(yes_or_no(one_line(answer)) in [one.lower() for one in references])}

    def with_shared_scores(self, rows: list[Prediction]) -> list[Prediction]:
        add_group_scores(rows, _image_of, ("accuracy",), "accuracy_plus")
        return rows

    def metrics(self, rows: Sequence[Prediction]) -> dict[str, Any]:
        found = super().metrics(rows)
        subjects = {name: self._group(chosen) for name in SUBJECTS if (chosen := _about(name, rows))}
        sums = {
            group: sum(subjects[name]["totals"]["score"] for name in names)
            for group, names in GROUPS.items()
            if all(name in subjects for name in names)
        }
        if "subject" in (by := found.get("by", {})):
            by["subject"] = subjects  # in the order of the benchmark
        return {**found, "totals": sums, "answers": _verdicts(rows)}

    def write(self, rows: Sequence[Prediction], folder: Path) -> list[Path]:
        place = folder / f"mme_{self.name}"
        for name in SUBJECTS:
            if chosen := _about(name, rows):
                replace_text(place / f"{name}.txt", "".join(map(_line, chosen)))
        return [place]

    def _means(self, rows: Sequence[Prediction]) -> dict[str, Any]:
        return {**means(rows), "count": len(rows), "measured": dict(measured(rows))}

    def _group(self, rows: Sequence[Prediction]) -> dict[str, Any]:
        found = self._means(rows)
        score = 100 * (found["accuracy"] + found["accuracy_plus"])
        unreadable = sum("problem" in row for row in rows)
        return {**found, "unreadable": unreadable, "totals": {"score": score}, "answers": _verdicts(rows)}


def _line(row: Prediction) -> str:
    """The line of a question in a results file."""
    details = row["details"]
    columns = details["image"], details["asked"], details["answer"].capitalize(), row["answer"]
    return "\t".join(map(one_line, columns)) + "\n"


def _image_of(row: Prediction) -> tuple[str, str]:
    return row["details"]["subject"], row["details"]["image"]


def _about(subject: str, rows: Sequence[Prediction]) -> list[Prediction]:
    return [row for row in rows if row["details"]["subject"] == subject]


def _verdicts(rows: Sequence[Prediction]) -> dict[str, int]:
    """How many answers are yes, no and other; an unreadable question has none."""
    given = [yes_or_no(one_line(row["answer"])) for row in rows if "problem" not in row]
    return {name: given.count(name) for name in VERDICTS}
