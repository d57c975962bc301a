"""Values that the report derives from the settings and answers of a task."""

from __future__ import annotations

from typing import Any

import pytest

from chatbridge.report.results import ablations
from chatbridge.report.runs import Runs, TaskRun


def task(name: str = "task", details: list[dict[str, Any]] | None = None, correct: int = 0, **node: Any) -> TaskRun:
    """A task whose first `correct` answers are correct."""
    rows = tuple(
        {"index": at, "references": ["up and high"], "prediction": "", "scores": {"exact_match": float(at < correct)},
         "details": one}
        for at, one in enumerate(details or [{}])
    )  # fmt: skip
    metrics = {"metric": "exact_match", "exact_match": correct / len(rows)}
    return TaskRun(name, {"name": "vqa", **node}, metrics, rows)


@pytest.mark.parametrize(
    ("group_by", "details", "kind_field", "modality_field"),
    [
        ([], {"kind": "color", "about": "audio"}, None, None),
        (["kind"], {"kind": "color"}, "kind", None),
        (["topic", "medium"], {"topic": "sports", "medium": "video"}, "topic", "medium"),
        (["medium"], {"medium": "video"}, None, "medium"),
        (["level", "topic"], {}, "level", None),
    ],
)
def test_fields_come_from_group_by(group_by: list[str], details: dict, kind_field: str | None, modality_field: Any):
    """fails when the report expects certain names of annotation fields, or takes a kind for a modality"""
    found = task(details=[details], group_by=group_by)
    assert (found.kind_field, found.modality_field) == (kind_field, modality_field)


def test_labels_do_not_repeat_the_group():
    """fails when a label changes for the same name, or captions are in the group of questions"""
    assert [task(name).label for name in ("caption_image", "image_qa", "image", "audio_caption")] == [
        "image", "image", "image", "audio",
    ]  # fmt: skip
    caption = TaskRun("x", {"name": "captioning", "must_name": "attributes"}, {}, ())
    assert (caption.group, caption.must_name, task().group, task().must_name) == (
        "caption", "attributes", "qa", "must_name",
    )  # fmt: skip


def test_ablations_of_any_field(tmp_path):
    """fails when the lines of an ablation depend on a field name, or the known part of an answer is the removed one"""
    details = [{"topic": "a", "medium": "audio"}, {"topic": "a", "medium": "video"}, {"topic": "b", "medium": "video"}]
    node = {"dataset": {"x": 1}, "group_by": ["topic", "medium"], "report": {"answer_parts": ["video", "audio"]}}
    full = task("full", details, correct=3, **node)
    without = task("without", details, correct=1, drop_media=["audio"], **node)
    lines = ablations(Runs(tmp_path, (), (full, without), {}))
    assert [(line.field, line.about, line.full, line.without["audio"]) for line in lines] == [
        ("medium", None, 1.0, pytest.approx(1 / 3)), ("medium", "audio", 1.0, 1.0), ("medium", "video", 1.0, 0.0),
    ]  # fmt: skip
    assert all(line.knowing == {"audio": 1.0} for line in lines)
