"""`chatbridge review grade`, and the metric `judge` that reads its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chatbridge import __main__ as commands
from chatbridge.common.errors import ConfigError, DataError
from chatbridge.tasks.metrics.judge import read_grades, verdict
from tests.helpers.judge_server import judge_server
from tests.helpers.review_files import ReviewWorld

ITEMS = [
    {"id": "a", "question": "What is it?", "prediction": "A cat.", "references": ["cat", "kitten", "cat"]},
    {"id": "b", "prediction": "dog", "references": ["horse"]},
    {"id": "c", "prediction": " ", "references": ["cat"]},
    {"id": "d", "prediction": "", "references": ["cat"], "problem": "no file"},
    {"id": "e", "prediction": "bird", "references": ["bird"]},
]
YES, NO = '{"correct": "yes", "score": 5}', 'Sure: {"correct": "no", "score": 1}.'


def write(path: Path, items: list[dict[str, Any]] = ITEMS) -> Path:
    path.write_text("".join(f"{json.dumps(one)}\n" for one in items))
    return path


def grade(world: ReviewWorld, url: str, *more: str) -> int:
    command = ["review", "grade", str(write(world.path("predictions"))), "--model", "judge-1", "--base-url", url]
    given = ["--out", str(world.path("grades")), "--requests-per-minute", "1000000", "--first-wait", "0.02"]
    return commands.main([*command, *given, "--threads", "1", *more])


def scored(world: ReviewWorld) -> dict[str, Any]:
    out = world.folder / "scores.json"
    option = f"judge.file={world.path('grades')}"
    assert commands.main(
        ["score", str(world.path("predictions")), "--metrics", "judge", "--options", option, "--json", str(out)]
    ) == 0  # fmt: skip
    return json.loads(out.read_text())


def behave(number: int, body: dict[str, Any]) -> str:
    """A judge that finds cats correct, dogs wrong, and says nothing of use about birds."""
    text = body["messages"][1]["content"]
    return YES if "A cat." in text else NO if "dog" in text else "I am a teapot."


def test_answers_are_graded_once_and_scored_from_the_file(world: ReviewWorld, capsys: pytest.CaptureFixture):
    """fails when an empty answer is asked about, a reply without a verdict leaves the denominator or is hidden, or a
    second run asks again"""
    with judge_server(behave=behave) as server:
        assert grade(world, server.url, "--check") == 0 and not server.requests
        assert "3 to do; the first request:\nQuestion: What is it?\nCorrect answers: cat | kitten\n" in (
            capsys.readouterr().out
        )
        assert grade(world, server.url) == 0
        assert "1 correct, 1 replies without a readable verdict" in capsys.readouterr().out
        assert grade(world, server.url) == 0 and len(server.requests) == 3
        found = scored(world)
        assert grade(world, server.url, "--retry-unreadable") == 0 and len(server.requests) == 4
    body = server.requests[1]["messages"][1]["content"]
    assert body.startswith("Correct answer: horse\nGiven answer: dog\n") and server.requests[0]["temperature"] == 0
    assert found["scores"] == {"judge_accuracy": 0.2, "judge_score": 6 / 5, "judge_nonsense": 0.2}
    assert found["per_item"]["judge_score"] == {"a": 5, "b": 1, "c": 0, "d": 0, "e": 0}
    assert found["answers"] == {"nonsense of the judge": 1} and found["score_info"]["judge_score"]["unit"] == "number"


def test_grades_that_do_not_belong_to_the_answers_are_refused(world: ReviewWorld):
    """fails when an answer without a grade, or with the grade of another answer, counts silently"""
    with judge_server(behave=behave) as server:
        assert grade(world, server.url) == 0
        write(world.path("predictions"), [{**ITEMS[0], "prediction": "A lion."}, *ITEMS[1:]])
        with pytest.raises(DataError, match="grades of other answers to 1 of 3 questions: a"):
            scored(world)
        with pytest.raises(DataError, match="holds 3 grades of other answers, or of another judge"):
            grade(world, server.url, "--system", "Be kind.")
    write(world.path("predictions"))
    lines = world.path("grades").read_text().splitlines(keepends=True)
    world.path("grades").write_text("".join(lines[1:]))
    with pytest.raises(DataError, match=r"no grade of 1 of 3 answers: a; run `chatbridge review grade`"):
        scored(world)
    world.path("grades").write_text('{"id": "a", "score": 5}\n')
    with pytest.raises(DataError, match="line 1 is no grade"):
        scored(world)
    with pytest.raises(ConfigError, match=r"judge.file|file"):
        commands.main(["score", str(world.path("predictions")), "--metrics", "judge"])


def test_a_judge_that_fails_loses_its_answers_only(world: ReviewWorld, capsys: pytest.CaptureFixture):
    """fails when a request that is refused ends the command, or its answer is graded"""
    with judge_server(behave=lambda n, body: (400, {}) if "dog" in str(body) else YES) as server:
        assert grade(world, server.url) == 1
        assert "question b has no grade" in capsys.readouterr().err
    with pytest.raises(DataError, match="no grade of 1 of 3 answers: b"):
        scored(world)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (YES, (True, 5.0)),
        ("{'pred': 'No', 'score': 2}", (False, 2.0)),
        ('```json\n{"correct": true, "score": "4"}\n```', (True, 4.0)),
        (f"{YES} as I said: {YES}", (True, 5.0)),
        (f"{YES} or {NO}", None),
        ('{"correct": "maybe", "score": 3}', None),
        ('{"correct": "yes", "score": 9}', None),
        ('{"correct": "yes"}', None),
        ('{"correct": "yes", "score": NaN}', None),
        ("yes, 5", None),
        ("{'correct': __import__('os')}", None),
        ("", None),
    ],
)
def test_verdicts(content: str, expected: tuple[bool, float] | None):
    """fails when a usual spelling is lost, or something else than one clear verdict is taken for one"""
    assert verdict(content) == expected


def test_two_grades_of_one_answer_are_refused(tmp_path: Path):
    """fails when the last of two different grades counts silently, or a file without grades reads as an empty one"""
    first = {"id": "a", "prediction": "x", "content": YES}
    path = write(tmp_path / "grades.jsonl", [first, {"id": "b", "prediction": "y", "content": NO}, first])
    assert list(read_grades(path)) == ["a", "b"]
    write(path, [first, {**first, "content": NO}])
    with pytest.raises(DataError, match="line 2 is another grade of 'a'; remove one of them"):
        read_grades(path)
    path.write_text("<html>moved</html>")
    with pytest.raises(DataError, match="line 1 is no JSON object, so this is no file of grades"):
        read_grades(path)
