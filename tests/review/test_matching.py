"""Requests and cases: equal to the released text, and matched by ids."""

from __future__ import annotations

import pytest

from chatbridge.common.errors import DataError
from chatbridge.review.input_files import read_answers, read_contexts, read_questions, read_rules
from chatbridge.review.matching import ReviewFiles, chunk, match
from tests.helpers.review_files import ReviewWorld


def files_of(world: ReviewWorld, with_context: bool = True) -> ReviewFiles:
    answers = (read_answers(world.path("one")), read_answers(world.path("two")))
    contexts = read_contexts(world.path("context")) if with_context else None
    return ReviewFiles(read_questions(world.path("questions")), answers, read_rules(world.folder / "rules.json"),
                       contexts, ("one.jsonl", "two.jsonl"))  # fmt: skip


def test_the_request_has_the_released_layout(world: ReviewWorld):
    """fails when a section, an empty line or the spelling of a box differs"""
    (first, *_), (plain, *_) = match(files_of(world)), match(files_of(world, with_context=False))
    tail = ("[Question]\nquestion 0 ?\n\n[Assistant 1]\nanswer one 0\n\n[End of Assistant 1]\n\n[Assistant 2]\n"
            "answer two 0\n\n[End of Assistant 2]\n\n[System]\nRate the conv.\n\n")  # fmt: skip
    assert first.text == f"[Context]\ncaption 0\nanother\n\ncat: [0.1, 0.25, 0.5, 1.0]\n\n{tail}"
    assert plain.text == tail


def test_the_order_of_lines_does_not_matter(world: ReviewWorld):
    """fails when answers are paired by their line, or an id in quotes is another one"""
    cases = match(files_of(world))
    world.write("two", [{**world.answer(n), "question_id": str(n)} for n in (5, 3, 1, 0, 2, 4)])
    again = match(files_of(world))
    assert [case.text for case in again] == [case.text for case in cases]
    assert [case.number for case in again] == [1, 2, 3, 4, 5, 6]


def test_coco_prefixes_do_not_matter(world: ReviewWorld):
    """fails when a question of `COCO_val2014_...jpg` does not find the description of the same image"""
    world.write("questions", [{**q, "image": f"COCO_val2014_{q['image']}"} for q in world.questions])
    assert [case.context is not None for case in match(files_of(world))] == [True] * 6


def test_all_disagreements_are_reported_at_once(world: ReviewWorld):
    """fails when an id, image or category that has no partner is dropped silently, or is not named with the nearest"""
    questions = list(map(world.question, range(6)))
    for number, change in enumerate(({"question_id": "kitchen_17"}, {"image": "no.jpg"}, {"category": "cnv"})):
        questions[number] |= change
    world.write("questions", questions)
    world.write("two", [{**world.answer(0), "question_id": "kitchen-71"}, *map(world.answer, range(1, 5))])
    with pytest.raises(DataError) as caught:
        match(files_of(world))
    text = str(caught.value)
    assert "two.jsonl: no answer to 2 questions, 'kitchen_17' (nearest: 'kitchen-71'), '5' (nearest: '4')" in text
    assert "two.jsonl: answers to 1 question, 'kitchen-71' (nearest: 'kitchen_17'), which the questions do not" in text
    assert "one.jsonl: answers to 1 question, '0' (nearest: '1')" in text
    assert "question 1: the context file does not describe image 'no.jpg'" in text
    assert "category 'cnv' has no rule; the rules are conv, detail, default; did you mean conv?" in text


def test_common_ids_and_the_default_rule(world: ReviewWorld):
    """fails when --common-only pairs wrong lines, or the default rule is used without being asked for"""
    world.write("two", [world.answer(n) for n in (4, 2)])
    questions = [world.question(n) | ({"category": "other"} if n == 0 else {}) for n in range(6)]
    world.write("questions", questions)
    assert [case.question.id for case in match(files_of(world), common_only=True)] == [2, 4]
    world.write("questions", [{**world.question(n), "category": "other"} for n in range(6)])
    cases = match(files_of(world), common_only=True, use_default_rule=True)
    assert [case.rule.prompt for case in cases] == ["Rate the default."] * 2


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("two", '{"question_id": 0, "text": "a"}\n{"question_id": "0", "text": "b"}\n', "repeat a question_id: 0"),
        ("two", '{"question_id": 0, "text": "a"}\n{"question_id": 1, "txt": "b"}\n', "line 2: .*'txt', did you mean"),
        ("two", '{"question_id": 0, "text": ["a"]}\n', "line 1: 'text' is a list"),
        ("two", "{oops\n", "line 1: is not valid JSON"),
        ("two", "", "holds no records"),
        (
            "context",
            '{"image": "a", "captions": ["b"], "instances": [{"category": "c", "bbox": [1]}]}\n',
            "four numbers",
        ),
        (
            "context",
            '{"image": "a", "captions": ["b"], "instances": [{"category": "c", "bbox": [10, 20, 300, 40]}]}\n',
            "line 1: .*expected parts of the image between 0 and 1",
        ),
    ],
)
def test_broken_files_name_the_line(name: str, lines: str, message: str, world: ReviewWorld):
    """fails when a broken line ends in a traceback, is skipped, or is not named"""
    world.path(name).write_text(lines)
    with pytest.raises(DataError, match=message):
        files_of(world)


def test_a_rule_that_is_given_twice_is_refused(world: ReviewWorld):
    """fails when the last of two rules of a category is used without a word"""
    (world.folder / "rules.json").write_text('{"conv": {"role": "A", "prompt": "p", "prompt": "q"}}')
    with pytest.raises(DataError, match="rules.json: 'prompt' is there twice"):
        read_rules(world.folder / "rules.json")


def test_half_an_emoji_is_repaired(world: ReviewWorld):
    """fails when a lone surrogate of a model's answer reaches the client, which cannot send it"""
    world.write("two", [{**world.answer(n), "text": "a cat \ud83d"} for n in range(6)])
    assert "a cat \ufffd\n" in match(files_of(world))[0].text.encode().decode()


def test_chunks_cover_everything_once():
    """fails when a question is in no chunk or in two, or more chunks than questions are an IndexError"""
    items = list(range(10))
    for num_chunks in range(1, 13):
        parts = [chunk(items, num_chunks, index) for index in range(num_chunks)]
        assert [one for part in parts for one in part] == items
    assert [len(chunk(items, 4, index)) for index in range(4)] == [3, 3, 3, 1]  # ceil, as released
    with pytest.raises(DataError, match="--chunk-idx is 4, expected 0 to 3"):
        chunk(items, 4, 4)
