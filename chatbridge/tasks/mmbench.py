"""MMBench: questions with options, whose answers are read by rules and scored in a circle (metrics/mmbench.py).

Questions without an answer in the file are asked, written to the submission, and not scored.
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
from chatbridge.tasks.metrics.shared import prompt_number
from chatbridge.tasks.mmbench_submission import EXCEL, write_submission

OF_COPY, SHARED = "rotated_accuracy", "circular_accuracy"


@TASKS.register("mmbench")
class MMBench(Task):
    """Takes the data set `mmbench`. Writes `submission_<task>.xlsx` with the columns that the official server reads."""

    @dataclass(frozen=True, kw_only=True)
    class Config(TaskConfig):
        max_new_tokens: int = 32  # length of the longest answer: a letter, or the text of an option
        submission: bool = True  # write submission_<task>.xlsx, which needs the package openpyxl
        resample_by: tuple[str, ...] = ("base",)  # a question and its copies are resampled together

        @property
        def default_metrics(self) -> Mapping[str, Mapping[str, Any]]:
            return {"mmbench": {}}

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

    def write(self, rows: Sequence[Prediction], folder: Path) -> list[Path]:
        others = super().write(rows, folder)
        if not self.config.submission:
            return others
        path = folder / f"submission_{self.name}.xlsx"
        write_submission(path, [row for row in rows if prompt_number(row["details"]) == 1])
        return [path, *others]
