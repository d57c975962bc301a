"""The task that judges images of the tiny world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chatbridge.config.schema import Choice
from chatbridge.conversation.messages import Drawing, Message, Part, Text
from chatbridge.datasets.builders.records import Records
from chatbridge.tasks.metrics.base import METRICS
from dataset_prep.tiny_world import write_textbind
from dataset_prep.tiny_world.generators.tiny_renderer import TinyRenderer
from dataset_prep.tiny_world.metrics.drawn_scenes import scores_of
from dataset_prep.tiny_world.tasks.drawn_scenes import DrawnScenes

RED, BLUE = "a big red circle at the left", "a small blue star at the top"
ASKED = {"kind": "full", "placement": "last", "wanted": ["size=big color=red shape=circle place=left"]}
BOTH = {"kind": "two", "placement": "two", "wanted": [*ASKED["wanted"], "color=blue"]}
NOT_ASKED = {"kind": "seen", "wanted": []}


def drawn(caption: str, shown: str | None = None) -> Drawing:
    """A drawing with a caption that shows something else, if that is given."""
    return Drawing(caption, TinyRenderer(TinyRenderer.Config()).render([shown or caption], [0])[0])


@pytest.fixture
def task(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> DrawnScenes:
    monkeypatch.setattr(METRICS, "packages", [*METRICS.packages, "dataset_prep.tiny_world.metrics"])
    folder = tmp_path_factory.mktemp("asked")
    write_textbind.write_questions(folder, seed=3, count=1)
    records = Records.Config(file=folder / "heldout/textbind.jsonl", unanswered="keep")
    return DrawnScenes(DrawnScenes.Config(dataset=Choice("records", records, Records)), "requests")


@pytest.mark.parametrize(
    ("parts", "details", "expected"),
    [
        ((Text("Here: "), drawn(RED)), ASKED, {"shown": 1, "placed": 1, "met": 1}),
        ((Text("Here: "), drawn(RED, BLUE)), ASKED, {"shown": 1, "placed": 1, "met": 0}),  # its caption is right
        ((Text("Here: "), drawn("a dragon")), ASKED, {"shown": 1, "placed": 1, "met": 0}),
        ((Text("Here: "), Drawing(RED)), ASKED, {"shown": 1, "placed": 1, "met": 0}),  # nothing was drawn
        ((drawn(RED), Text(" The shape is red.")), ASKED, {"shown": 1, "placed": 0, "met": 1, "told": 1}),
        ((drawn(RED), Text(" The shape is blue.")), ASKED, {"shown": 1, "placed": 0, "met": 1, "told": 0}),
        ((Text(RED),), ASKED, {"shown": 0, "placed": 0, "met": 0}),
        ((drawn(RED), drawn(RED)), ASKED, {"shown": 0, "placed": 0, "met": 1}),
        ((drawn(RED), drawn(BLUE)), BOTH, {"shown": 1, "placed": 1, "met": 1}),
        ((drawn(BLUE), drawn(RED)), BOTH, {"shown": 1, "placed": 1, "met": 0}),  # in the wrong order
        ((drawn(RED),), BOTH, {"shown": 0, "placed": 0, "met": 0.5}),
        ((Text("It is Red."),), NOT_ASKED, {"drawn": 0, "right": 1}),
        ((Text("red and blue"),), NOT_ASKED, {"drawn": 0, "right": 0}),
        ((Text("red"), drawn(RED)), NOT_ASKED, {"drawn": 1, "right": 1}),
    ],
)
def test_scores(parts: tuple[Part, ...], details: dict[str, Any], expected: dict[str, float]):
    """Fails when an image is judged by its caption, in the wrong order, or does not count where it is missing."""
    assert scores_of(parts, Message("assistant", parts).text, ["red"], details) == expected


def test_answers_without_images_and_unreadable_questions(task: DrawnScenes, tmp_path: Path):
    """Fails when a question that cannot be read leaves the denominator."""
    asked = [(NOT_ASKED, None), (ASKED, "!"), ({}, "!"), (NOT_ASKED, "!")]
    rows = [
        {"id": str(k), "prediction": "red", "references": ["red"], "details": details, "problem": problem}
        for k, (details, problem) in enumerate(asked)
    ]
    found = task.scored(rows).per_item()
    assert found["drawn"] == {"0": 0} and found["right"] == {"0": 1, "3": 0}
    assert found["met"] == found["shown"] == found["placed"] == {"1": 0, "2": 0}
    assert task.main_metric == "met" and len(task.dataset) == 6
