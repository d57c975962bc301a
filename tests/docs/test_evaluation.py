"""docs/evaluation.md and docs/metrics.md: the tables are complete, and every YAML on the pages is accepted."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from chatbridge.common.errors import ConfigError
from chatbridge.config.schema import parse
from chatbridge.datasets.builders import BUILDERS
from chatbridge.datasets.builders._annotation_file import AnnotationFileConfig
from chatbridge.tasks.base import TASKS, TaskConfig
from chatbridge.tasks.config import EvaluationConfig
from chatbridge.tasks.metrics.base import METRICS
from chatbridge.tasks.receipt import PARTS
from chatbridge.tasks.submissions import SubmissionFormat

ROOT = Path(__file__).parents[2]
EVALUATION = (ROOT / "docs/evaluation.md").read_text(encoding="utf-8")
PAGE = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
NEEDED: dict[str, dict[str, Any]] = {"embedding_similarity": {"encoder": ROOT}, "judge": {"file": ROOT / "README.md"}}


def rows(text: str, head: str) -> list[list[str]]:
    """The cells of the table whose head begins with `head`."""
    table = text.split(f"| {head} |")[1].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:]]


def codes(text: str) -> set[str]:
    return set(re.findall(r"`(\w+)", text))


def test_every_metric_is_in_the_table():
    """fails when a metric is added, removed or renamed, or one of its scores or settings is not on the page"""
    table = {name: row for row in rows(PAGE, "`metrics`") for name in codes(row[0])}
    assert set(table) == set(METRICS.names())
    for name in METRICS.names():
        part: Any = METRICS.get(name)
        assert set(part.Config.__dataclass_fields__) == codes(table[name][2]) & set(part.Config.__dataclass_fields__), (
            name
        )
        names = part(part.Config(**NEEDED.get(name, {}))).names
        assert name in ("mme", "mmbench") or set(names) <= codes(table[name][1]), (name, names)


def test_every_key_of_a_task_is_in_the_table():
    """fails when a setting that all tasks share is not explained, or one that is gone still is"""
    named = {key for row in rows(EVALUATION, "key of a task") for key in codes(row[0])}
    assert named == {field.name for field in fields(TaskConfig)}


def test_every_kind_and_form_is_in_a_table():
    """fails when a kind of task, a form of a submission or a part of the receipt is not on the page"""
    assert {key for row in rows(EVALUATION, "kind (`name`)") for key in codes(row[0])} == set(TASKS.names())
    forms = {key for row in rows(EVALUATION, "form") for key in codes(row[0])}
    assert forms == set(get_args(SubmissionFormat))
    section = EVALUATION.split("## The receipt")[1].split("\n## ")[0]
    assert [part for part in PARTS if part not in section] == []


def test_every_layout_of_choices_is_in_the_table():
    """fails when a layout or setting of the builder `choices` is not in the table of public layouts"""
    text = (ROOT / "docs/your_own_data.md").read_text(encoding="utf-8")
    (row,) = (line for line in text.splitlines() if line.startswith("| `choices`"))
    config: Any = BUILDERS.get("choices").Config
    shared = {field.name for field in fields(AnnotationFileConfig)} | {
        "format",
        "image_folder",
        "video_folder",
        "audio_folder",
    }
    assert set(config.formats) | {field.name for field in fields(config)} - shared <= codes(row)


def test_every_task_file_is_on_the_page_of_sets():
    """fails when a shipped task is not in the table of evaluations"""
    sets = (ROOT / "docs/datasets.md").read_text(encoding="utf-8").split("## Evaluations")[1]
    files = sorted((ROOT / "configs/tasks").glob("*.yaml"))
    assert len(files) == int(re.findall(r"tasks are YAML, (\d+) files", (ROOT / "README.md").read_text())[0])
    assert [path.name for path in files if path.name not in sets] == []


def test_the_yaml_of_the_page_is_accepted():
    """fails when a key of the example does not exist, or contradicts the others; only its data may be missing"""
    (text,) = (block for block in re.findall(r"^```yaml\n(.*?)^```", PAGE, re.M | re.S))
    with pytest.raises(ConfigError) as caught:
        parse(EvaluationConfig, yaml.safe_load(text)["evaluation"], path="evaluation")
    assert caught.value.problems and all("data/" in one.message for one in caught.value.problems), str(caught.value)
