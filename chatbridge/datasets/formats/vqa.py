"""Questions about pictures with several people's answers.

vqav2, okvqa  two files. `questions`: v2_OpenEnded_mscoco_train2014_questions.json, {"data_subtype": "train2014",
              "questions": [{"image_id", "question", "question_id"}]}; `annotations`:
              v2_mscoco_train2014_annotations.json, {"annotations": [{"question_id", "question_type", "answer_type",
              "answers": [{"answer"}, ... ten]}]}. A test split has questions only: give them as `annotations`.
aokvqa        aokvqa_v1p0_train.json: [{"question_id", "image_id", "question", "choices": four, "correct_choice_idx",
              "direct_answers": ten, "split", "rationales"}]. `choices: true` asks with the four choices.
textvqa       TextVQA_0.5.1_train.json: {"data": [{"question_id", "question", "image_id", "answers": ten}]}; the picture
              is <image_id>.jpg (OpenImages).

All ten answers are kept, equal ones too: training draws one, so each comes as often as people gave it, and the VQA
score counts how many agree.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

from chatbridge.datasets.annotations import kind_of
from chatbridge.datasets.formats.coco import coco_names
from chatbridge.datasets.formats.entries import Entry, Fields, Format, Options, Wrong, answer_of, entries
from chatbridge.datasets.formats.json_items import Item, json_items, section

SUBSETS = ("train2014", "val2014", "test2015")


def vqav2(options: Options) -> Iterator[Entry]:
    """Questions in their order, joined with their answers by question_id."""
    if options.questions is None:
        yield from _questions(options, {})
        return
    answers: dict[str, bytes] = {}  # packed: half a million lists of ten objects would cost gigabytes
    for item in section(options.annotations, "annotations"):
        fault = _add(answers, item)
        if fault is not None:
            yield Entry(f"{options.annotations.name}: {item.place}", {}, fault)
    yield from _questions(options, answers)
    if answers:
        fault = (
            f"{len(answers)} answers, the first to question_id {next(iter(answers))}, have no question in "
            f"{options.questions}; are both files of the same split?"
        )
        yield Entry("annotations", {}, fault)


def _questions(options: Options, answers: dict[str, bytes]) -> Iterator[Entry]:
    path = options.questions or options.annotations
    subset = next((item.value for item in json_items(path) if item.key == "data_subtype"), None)
    subsets = (
        (subset.replace("test-dev", "test"),) if isinstance(subset, str) and subset else SUBSETS
    )  # both test splits use the same pictures
    seen: set[str] = set()
    return entries(section(path, "questions"), partial(_question, answers=answers, subsets=subsets, seen=seen))


def _question(value: Any, answers: dict[str, bytes], subsets: tuple[str, ...], seen: set[str]) -> dict[str, Any]:
    fields = Fields(value)
    number = fields.name("question_id")
    if number in seen:
        raise Wrong(f"question_id {number} is there twice")
    seen.add(number)
    answered = json.loads(answers.pop(number, b"{}"))
    names = coco_names(fields.number("image_id"), *subsets)
    return {"_answers": [], **answered, "_id": number, "_media": names, "question": fields.text("question")}


def _add(answers: dict[str, bytes], item: Item) -> str | None:
    """Puts the answers of one annotation under its question; what is wrong with it, or None."""
    if item.fault is not None:
        return item.fault
    try:
        fields = Fields(item.value)
        number = fields.name("question_id")
        if number in answers:
            return f"question_id {number} is answered twice"
        given = [_answer(answer) for answer in fields.items("answers")] if "answers" in fields.record else []
        given = given or fields.answers("multiple_choice_answer")
        kept = {"_answers": [text for text in given if text.strip()], **fields.kept("question_type", "answer_type")}
    except Wrong as error:
        return str(error)
    answers[number] = json.dumps(kept, separators=(",", ":")).encode()
    return None


def _answer(value: Any) -> str:
    """An answer as {"answer": words} or as words."""
    fields = Fields(value if isinstance(value, dict) else {"answer": value})
    answer = answer_of(fields.get("answer"))
    if answer is None:
        raise Wrong(f"'answer' is {kind_of(fields.get('answer'))}, expected text or a number")
    return answer


def aokvqa(options: Options) -> Iterator[Entry]:
    """One entry per question; the right choice is the answer when `choices` asks for it."""
    return entries(section(options.annotations, "", "annotations"), partial(_aokvqa, with_choices=options.choices))


def _aokvqa(value: Any, with_choices: bool) -> dict[str, Any]:
    fields = Fields(value)
    question, answers = fields.text("question"), fields.answers("direct_answers")
    if with_choices:
        question, answers = with_options(question, fields.answers("choices"), fields.record.get("correct_choice_idx"))
    return {
        "_id": fields.name("question_id"),
        "_media": coco_names(fields.number("image_id"), "train2014", "val2014", "test2015"),
        "question": question,
        "_answers": answers,
        **fields.kept("split", "difficult_direct_answer"),
    }


def with_options(question: str, choices: list[str], right: Any) -> tuple[str, list[str]]:
    """The question with its choices behind it, and the right one as the only answer; none when `right` is null."""
    if not choices:
        raise Wrong("has no 'choices'")
    if right is not None and (isinstance(right, bool) or not isinstance(right, int) or not 0 <= right < len(choices)):
        raise Wrong(f"the right choice is {right!r}, there are {len(choices)}, counted from 0")
    return f"{question.rstrip()} Choose from: {', '.join(choices)}.", [] if right is None else [choices[right]]


def textvqa(options: Options) -> Iterator[Entry]:
    return entries(section(options.annotations, "data"), _textvqa)


def _textvqa(value: Any) -> dict[str, Any]:
    fields = Fields(value)
    return {
        "_id": fields.name("question_id"),
        "_media": [f"{fields.name('image_id')}.jpg"],
        "question": fields.text("question"),
        "_answers": fields.answers("answers"),
        **fields.kept("set_name", "image_classes"),
    }


TWO_FILES = Format(
    vqav2,
    ("questions", "unanswered"),
    {"questions": "the answers are in `annotations`; give the file with the questions (..._questions.json) here"},
)
VQA_FORMATS = {
    "vqav2": TWO_FILES,
    "okvqa": TWO_FILES,
    "aokvqa": Format(aokvqa, ("choices", "split", "unanswered")),
    "textvqa": Format(textvqa, ("unanswered",)),
}
