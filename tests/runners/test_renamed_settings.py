"""A run resumes if its configuration uses another name for the same setting."""

from __future__ import annotations

from typing import Any

import pytest

from chatbridge.runners.run_folder import differences

FOUR, EIGHT = {"count": 4, "merge": "concat"}, {"count": 8, "merge": "concat"}


def settings(route: dict[str, Any], source: dict[str, Any]) -> dict[str, Any]:
    named = {"pieces": None, "frames": None, "clips": None}
    return {
        "model": {"routes": {"video": {"encoder": "vision", **named, **route}}},
        "data": {"sources": {"films": {"weight": 1.0, "pieces": {}, "frames": None, "clips": None, **source}}},
    }


@pytest.mark.parametrize("way", ["to the new name", "to the old name"])
def test_another_name_is_not_a_change(way: str):
    """fails when a run cannot resume because its YAML has pieces instead of frames, or a count is not compared"""
    sides = [
        settings({"frames": FOUR}, {"frames": 4, "clips": 1}),
        settings({"pieces": FOUR}, {"pieces": {"video": 4, "audio": 1}}),
    ]
    then, now = sides if way == "to the new name" else sides[::-1]
    assert differences(then, now) == []
    word = "pieces" if way == "to the new name" else "frames"
    now["model"]["routes"]["video"][word] = EIGHT
    assert differences(then, now) == [f"model.routes.video.{word}.count: 4 -> 8"]


def test_a_changed_count_is_reported_under_the_current_name():
    """fails when another number of frames of a source counts as a rename, or its line has another key"""
    then, now = settings({}, {"frames": 4}), settings({}, {"pieces": {"video": 6}})
    assert differences(then, now) == ["data.sources.films.pieces.video: 4 -> 6"]


def test_the_old_name_of_loading_in_8_bit():
    """fails when a run that was started with low_resource cannot resume, or a changed value is not reported"""
    then, now = {"model": {"language": {"low_resource": True}}}, {"model": {"language": {"load_in_8bit": True}}}
    assert differences(then, now) == []
    now["model"]["language"]["load_in_8bit"] = False
    assert differences(then, now) == ["model.language.load_in_8bit: true -> false"]
