"""The worst, best and random items of a task, and their media on the page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chatbridge.report.chosen_items import ScoresFile, chosen_items
from chatbridge.report.item_media import ItemMedia, MediaBudget, small_image
from chatbridge.report.items_section import items_section
from chatbridge.report.run_folders import read_runs
from chatbridge.report.runs import Runs, TaskRun
from tests.helpers.report_parts import write_runs
from tests.report.test_page import Checker


def task(values: list[float | None], unit: str = "number", name: str = "cider", **kw: Any) -> TaskRun:
    rows = [
        {"index": k, "id": f"q{k}", "question": f"<b>{k}</b>?", "prediction": f"answer {k}", "references": ["x"],
         "details": {}, "scores": {} if value is None else {name: value}}
        for k, value in enumerate(values)
    ]  # fmt: skip
    rows[-1]["problem"] = "no such file"
    return TaskRun("task", {}, {"metric": name, name: 0.5, "units": {name: unit}}, tuple(rows), **kw)


def ids(rows: tuple[dict[str, Any], ...]) -> set[str]:
    return {row["id"] for row in rows}


def test_worst_and_best_are_by_score():
    """fails when an extreme item is missing, an unreadable one is shown as the worst, or one item is shown twice"""
    found = chosen_items(task([0.5, 0.1, 0.9, 0.4, 0.2, 0.8, None, 0.6, 0.7, 0.0]), count=2)
    assert ids(found.worst) == {"q1", "q4"} and ids(found.best) == {"q2", "q5"}
    assert len(found.random) == 2 and not ids(found.random) & (ids(found.worst) | ids(found.best) | {"q9"})
    back = chosen_items(task([0.5, 0.1, 0.9, 0.4, 0.2, 0.8, None, 0.6, 0.7, 0.0]), count=2, higher_is_better=False)
    assert ids(back.worst) == {"q2", "q5"}


def test_equal_items_are_chosen_by_a_fixed_seed():
    """fails when a report shows the first wrong answers of the file alone, or other ones each time"""
    answers = task([0.0] * 30 + [1.0] * 30 + [0.0], "fraction", "exact_match")
    found = chosen_items(answers)
    assert found == chosen_items(answers) and ids(found.worst) != {"q0", "q1", "q2"} and len(found.best) == 3
    same = chosen_items(task([1.0] * 8, "fraction", "exact_match"))
    assert (same.worst, same.best) == ((), ()) and len(same.random) == 3
    assert len(chosen_items(task([None] * 20)).random) == 3


def test_the_page_shows_graded_items_without_a_mark(tmp_path: Path):
    """fails when a CIDEr of 1.2 is called correct, a question becomes markup, or reasons of problems are lost"""
    content = {"scores": {}, "per_item": {}, "score_info": {"cider": {"higher_is_better": False}},
               "unreadable": {"<i>gone</i>": 2}}  # fmt: skip
    (tmp_path / "scores_task.json").write_text(json.dumps(content))
    graded = task([0.2, 1.2, 0.3, 0.4, 2.0], folder=tmp_path)
    assert ScoresFile(graded).higher_is_better is False
    text = items_section(Runs(tmp_path, (), (graded,), {}), MediaBudget())
    assert Checker(text).open == [] and text.count('class="exchange plain"') == 4 and "&lt;b&gt;1&lt;/b&gt;?" in text
    assert "unreadable: 2 &lt;i&gt;gone&lt;/i&gt;" in text and "1.200" in text
    (tmp_path / "scores_task.json").write_text("{")
    assert ScoresFile(graded).higher_is_better is True and ScoresFile(graded).unreadable == {}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_runs(tmp_path_factory.mktemp("chosen") / "runs", {"image": lambda record: "red"})


def test_media_are_those_of_the_item(root: Path):
    """fails when an index alone decides, so that changed data show the media of another sample"""
    image = next(one for one in read_runs(root).tasks if one.name == "image")
    media, row = ItemMedia(image.node, "image"), image.rows[2]
    ((modality, path),) = media.of(row)
    assert (modality, Path(str(path)).name) == ("image", "b.jpg")
    assert media.of({**row, "index": 0}) == media.of(row) == media.of({**row, "index": None})
    assert media.of({**row, "id": f"{row['id']}@2", "details": {"item": row["id"]}}) == media.of(row)
    assert media.of({**row, "id": "another sample"}) == ()
    assert ItemMedia({"dataset": {"name": "nobody"}}, "x").of(row) == ItemMedia({}, "x").of(row) == ()


def test_items_show_their_media_within_the_budget(root: Path, tmp_path: Path):
    """fails when a large evaluation makes a page that no browser opens, or the media of an item are not shown"""
    runs = read_runs(root)
    runs = replace(runs, tasks=tuple(one for one in runs.tasks if one.name == "image"))
    text = items_section(runs, MediaBudget())
    assert text.count("data:image/jpeg") == 3  # of wrong and right answers; two wrong ones share an image
    assert text.count('class="exchange wrong"') == 3 and text.count('class="exchange "') == 1
    assert items_section(runs, MediaBudget(10)).count("no room for more media") == 3


def test_large_images_are_made_small(tmp_path: Path):
    """fails when a photograph of megabytes is embedded as it is, or a small file is encoded again"""
    import numpy as np
    from PIL import Image

    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (700, 500, 3), dtype=np.uint8)).save(path)
    found = small_image("image", path)
    assert isinstance(found, bytes) and len(found) < path.stat().st_size / 4
    small = tmp_path / "b.png"
    Image.new("RGB", (40, 40)).save(small)
    assert small_image("image", small) == small and small_image("audio", path) == path
    assert small_image("image", tmp_path / "missing.png") == tmp_path / "missing.png"
