"""Means per category: unreadable reviews are shown and averaged in nowhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chatbridge import __main__ as commands
from chatbridge.common.errors import DataError
from tests.helpers.tiny_media import write_json


def review(number: int, category: str, content: str, scores: tuple[float, float] = (-1, -1)) -> dict[str, Any]:
    return {"id": number + 1, "question_id": number, "answer1_id": number, "answer2_id": f"x{number}",
            "category": category, "content": content, "tuple": list(scores)}  # fmt: skip


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    return write_json(
        tmp_path / "reviews.jsonl",
        [review(0, "conv", "8 4\nwhy", (8, 4)), review(1, "conv", "6, 9\nwhy"), review(2, "detail", "I cannot say."),
         review(3, "detail", "5 5", (5, 5))],
    )  # fmt: skip


def test_both_readings_stand_side_by_side(reviews: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    """fails when an unreadable review is averaged in as -1, is not shown, or the two readings are mixed"""
    assert commands.main(["review", "summary", str(reviews), "--json", str(tmp_path / "s.json")]) == 0
    found = json.loads((tmp_path / "s.json").read_text())[str(reviews)]
    assert list(found) == ["conv", "detail", "all"]
    assert found["conv"]["strict"] == {"count": 1, "first": 8.0, "second": 4.0, "relative": 50.0}
    assert found["conv"]["tolerant"] == {"count": 2, "first": 7.0, "second": 6.5, "relative": 92.9}
    assert found["all"]["reviews"] == 4 and found["all"]["strict"]["count"] == 2
    assert found["all"]["tolerant"]["count"] == 3 and found["all"]["tolerant"]["second"] == 6.0
    out = capsys.readouterr().out
    assert "unreadable: 2 strictly, 1 tolerantly; they are in no mean" in out
    assert "question 1 (conv): '6, 9'  (tolerantly 6 9)" in out and "question 2 (detail): 'I cannot say.'\n" in out


def test_the_released_output_says_what_it_averages(reviews: Path, capsys: pytest.CaptureFixture):
    """fails when --released differs from the released script, or does so without notice"""
    assert commands.main(["review", "summary", str(reviews), "--released"]) == 0
    out, error = capsys.readouterr()
    assert out.splitlines() == ["GPT-4 vs. reviews", "conv [3.5, 1.5] 42.9", "all [2.75, 1.75] 63.6",
                                "detail [2.0, 2.0] 100.0", "=" * 33]  # fmt: skip
    assert "2 of 4 reviews are averaged in as -1" in error


def test_a_score_that_a_person_corrected_counts(tmp_path: Path, capsys: pytest.CaptureFixture):
    """fails when the scores of the file are replaced by those of the reply, or NaN spoils a mean"""
    rows = [review(0, "conv", "8, 4", (8, 4)), review(1, "conv", "The second wins.", (3, 9)),
            review(2, "conv", "5 5", (7, 7)), review(3, "conv", "nan nan", (float("nan"), float("nan")))]  # fmt: skip
    path = write_json(tmp_path / "r.jsonl", rows)
    assert commands.main(["review", "summary", str(path), "--json", str(tmp_path / "s.json")]) == 0
    found = json.loads((tmp_path / "s.json").read_text())[str(path)]["all"]
    assert found["strict"] == found["tolerant"] == {"count": 3, "first": 6.0, "second": 6.667, "relative": 111.1}


def test_nothing_readable_is_no_division_by_zero(tmp_path: Path, capsys: pytest.CaptureFixture):
    """fails when a file without scores, or with a mean of 0, ends in a traceback or reports success"""
    path = write_json(tmp_path / "r.jsonl", [review(0, "conv", "none"), review(1, "conv", "0 3", (0, 3))])
    assert commands.main(["review", "summary", str(path)]) == 0
    assert commands.main(["review", "summary", str(write_json(path, [review(0, "conv", "none")]))]) == 1
    assert commands.main(["review", "summary", str(path), "--released"]) == 1
    assert "conv [-1.0, -1.0] 100.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no reviews"),
        ('{"question_id": 1}\n', "review 1: has no 'category', 'tuple'"),
        ('{"question_id": 1, "category": "a", "tuple": [1]}\n', "expected two numbers"),
        ('{"question_id": 1, "category": "a", "tuple": [1, 2]}\n{"quest', "torn lines"),
        ('{"question_id": 1, "category": "a", "tuple": [1, 2]}\n' * 2, "reviewed twice"),
    ],
)
def test_other_files_are_refused(text: str, message: str, tmp_path: Path):
    """fails when a file of something else gives numbers or a traceback"""
    path = tmp_path / "r.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        commands.main(["review", "summary", str(path)])
    with pytest.raises(DataError, match="cannot be read"):
        commands.main(["review", "summary", str(tmp_path / "gone.jsonl")])
