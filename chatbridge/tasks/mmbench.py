"""MMBench: questions with options, whose answers are read by rules (metrics/choice.py).

accuracy            share of the questions with the correct option
circular_accuracy   share of the questions that are answered correctly with every rotation of their options; only for
                    data with such copies (or `rotate: true`), and the headline score then
rotated_accuracy    share of the copies with the correct option
A question that cannot be read, or whose answer chooses no option, is incorrect. Questions without an answer in the file
are asked, written to the submission, and not scored.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatbridge.common.errors import Problem
from chatbridge.common.extras import how_to_install
from chatbridge.tasks.base import TASKS, Prediction, Task, TaskConfig
from chatbridge.tasks.metrics.choice import RULES, chosen_option
from chatbridge.tasks.metrics.shared import add_group_scores, means, measured
from chatbridge.tasks.mmbench_submission import EXCEL, write_submission

OWN, OF_COPY, SHARED = "accuracy", "rotated_accuracy", "circular_accuracy"


@TASKS.register("mmbench")
class MMBench(Task):
    """Takes the data set `mmbench`. Writes `submission_<task>.xlsx` with the columns that the official server reads."""

    main_metric = SHARED

    @dataclass(frozen=True, kw_only=True)
    class Config(TaskConfig):
        max_new_tokens: int = 32  # length of the longest answer: a letter, or the text of an option
        submission: bool = True  # write submission_<task>.xlsx, which needs the package openpyxl

        def problems(self) -> Iterator[Problem]:
            yield from super().problems()
            if self.dataset.name != "mmbench":
                yield Problem(
                    "dataset.name", f"is {self.dataset.name!r}; the task mmbench takes the data set 'mmbench'"
                )
            if self.submission and importlib.util.find_spec(EXCEL) is None:
                hint = f"{how_to_install(EXCEL)}; or set submission: false"
                yield Problem("submission", f"needs the package {EXCEL!r}, which is not installed", hint=hint)

    config: Config

    def score(self, answer: str, references: Sequence[str], details: Mapping[str, Any]) -> dict[str, float]:
        if not references:
            return {}
        chosen = chosen_option(answer, details["options"])
        return {OF_COPY if details["copy"] else OWN: float(chosen.letter == references[0])}

    def missed(self, details: Mapping[str, Any]) -> dict[str, float]:
        return {OF_COPY if details["copy"] else OWN: 0.0} if details["answer"] else {}

    def with_shared_scores(self, rows: list[Prediction]) -> list[Prediction]:
        if any(row["details"]["copy"] for row in rows):
            add_group_scores(rows, lambda row: row["details"]["base"], (OWN, OF_COPY), SHARED)
        return rows

    def metrics(self, rows: Sequence[Prediction]) -> dict[str, Any]:
        return {**super().metrics(rows), "answers": _rules(rows)}

    def write(self, rows: Sequence[Prediction], folder: Path) -> list[Path]:
        if not self.config.submission:
            return []
        path = folder / f"submission_{self.name}.xlsx"
        write_submission(path, rows)
        return [path]

    def _means(self, rows: Sequence[Prediction]) -> dict[str, Any]:
        partly = dict(measured(rows))
        return {**means(rows), "count": len(rows), **({"measured": partly} if partly else {})}

    def _group(self, rows: Sequence[Prediction]) -> dict[str, Any]:
        unreadable = sum("problem" in row for row in rows)
        return {**self._means(rows), "unreadable": unreadable, "answers": _rules(rows)}


def _rules(rows: Sequence[Prediction]) -> dict[str, int]:
    """By which rule the option of an answer was read, and how many answers; an unreadable question has no answer."""
    answered = (row for row in rows if "problem" not in row)
    used = [chosen_option(row["answer"], row["details"]["options"]).rule for row in answered]
    return {name: used.count(name) for name in RULES}
