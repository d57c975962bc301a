"""Questions about images with the answers of several annotators.

vqa           [{"question_id"?, "image": "val2014/a.jpg", "question", "answer": text or list}]: VQAv2 and OK-VQA as
              LAVIS converts them; "video" in place of "image" for MSVD-QA, MSRVTT-QA and MUSIC-AVQA.
vqav2, okvqa  two files. `questions`: v2_OpenEnded_mscoco_train2014_questions.json, {"data_subtype": "train2014",
              "questions": [{"image_id", "question", "question_id"}]}; `annotations`:
              v2_mscoco_train2014_annotations.json, {"annotations": [{"question_id", "question_type", "answer_type",
              "answers": [{"answer"}, ... ten]}]}. A test split has questions only: give them as `annotations`.
aokvqa        aokvqa_v1p0_train.json: [{"question_id", "image_id", "question", "choices": four, "correct_choice_idx",
              "direct_answers": ten, "split", "rationales"}]. `choices: true` asks with the four choices;
              `explain: true` answers "The answer is bus. Because ..." with the correct choice and the rationales.
              LAVIS's conversion has "image" too, which is looked up first.
textvqa       TextVQA_0.5.1_train.json: {"data": [{"question_id", "question", "image_id", "answers": ten}]}; the image
              is <image_id>.jpg (OpenImages). `ocr`: TextVQA_Rosetta_OCR_v0.2_train.json, {"data": [{"image_id",
              "ocr_tokens": [...]}]}, whose tokens follow the question as `ocr_form` writes them.

All ten answers are kept, equal ones too: training draws one, so each comes as often as annotators gave it, and the VQA
score counts how many agree.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chatbridge.common.errors import DataError
from chatbridge.datasets.formats.coco import coco_names
from chatbridge.datasets.formats.json_fields import BadRecord, Fields, answer_of, kind_of
from chatbridge.datasets.formats.json_stream import RECORD_LIST, json_values, section
from chatbridge.datasets.formats.records import Format, Parsed, QuestionRecord, each, parsed

SEVERAL_ANSWERS = ("answer", "options", "input_header")
SUBSETS = ("train2014", "val2014", "test2015")
OCR = "{tokens}"  # place of the texts in an image
OCR_FORM = f"\nReference OCR token: {OCR}"


def vqav2(annotations: Path, questions: Path | None = None) -> Iterator[Parsed[QuestionRecord]]:
    """Questions in their order, joined with their answers by question_id."""
    answers: dict[str, bytes] = {}  # packed: half a million lists of ten objects would cost gigabytes
    for value in section(annotations, "annotations") if questions else ():
        found = parsed(value, _add_answers, answers)
        if found.fault is not None:
            yield Parsed(f"{annotations.name}: {value.place}", None, found.fault)
    yield from _joined(questions or annotations, answers)
    if answers:
        fault = (
            f"{len(answers)} answers, the first to question_id {next(iter(answers))}, have no question in "
            f"{questions}; are both files of the same split?"
        )
        yield Parsed("annotations", None, fault)


def _joined(questions: Path, answers: dict[str, bytes]) -> Iterator[Parsed[QuestionRecord]]:
    subset = next((value.value for value in json_values(questions) if value.key == "data_subtype"), None)
    # both test splits use the same images
    subsets = (subset.replace("test-dev", "test"),) if isinstance(subset, str) and subset else SUBSETS
    seen: set[str] = set()
    return (parsed(value, _vqav2, answers, subsets, seen) for value in section(questions, "questions"))


def _vqav2(fields: Fields, answers: dict[str, bytes], subsets: tuple[str, ...], seen: set[str]) -> QuestionRecord:
    question_id = fields.new_name("question_id", seen)
    given, details = json.loads(answers.pop(question_id, b"[[], {}]"))
    names = coco_names(fields.number("image_id"), *subsets)
    asked = ((fields.text("question"), tuple(given)),)
    details = {**details, "image_id": fields.number("image_id")}
    return QuestionRecord(id=question_id, names=names, questions=asked, details=details)


def _add_answers(fields: Fields, answers: dict[str, bytes]) -> None:
    """Add the answers of one annotation, and its details, under its question."""
    question_id = fields.name("question_id")
    if question_id in answers:
        raise BadRecord(f"question_id {question_id} is answered twice")
    given = answer_texts(fields) or [text for text in fields.answers("multiple_choice_answer") if text.strip()]
    content = (given, fields.kept("question_type", "answer_type"))
    answers[question_id] = json.dumps(content, separators=(",", ":")).encode()


def answer_texts(fields: Fields) -> tuple[str, ...]:
    """The texts of "answers", a list of {"answer": text} or of texts, without empty ones; () without the field."""
    given = [_answer(answer) for answer in fields.items("answers")] if "answers" in fields.record else []
    return tuple(text for text in given if text.strip())


def _answer(value: Any) -> str:
    """An answer as {"answer": text} or as text."""
    given = Fields(value).get("answer") if isinstance(value, dict) else value
    answer = answer_of(given)
    if answer is None:
        raise BadRecord(f"'answer' is {kind_of(given)}, expected text or a number")
    return answer


def _vqa(fields: Fields) -> QuestionRecord:
    if "direct_answers" in fields.record or "choices" in fields.record:
        raise BadRecord("has the fields of A-OKVQA; set format: aokvqa")
    name = fields.first("image", "video")
    return QuestionRecord(
        id=_optional_name(fields, "question_id"),
        names=(fields.text(name),),
        questions=((fields.text("question"), fields.answers("answer", "answers")),),
        details=fields.kept("question_type", "answer_type", *(("video",) if name == "video" else ())),
    )


def _aokvqa(fields: Fields, choices: bool = False, explain: bool = False) -> QuestionRecord:
    """With `choices` the correct choice is the answer, with `explain` a sentence with it and the reasons."""
    fields.require("direct_answers", "choices")
    asked = fields.text("question"), fields.answers("direct_answers")
    if choices or explain:
        chosen = with_options(asked[0], fields.numbered_answers("choices"), fields.record.get("correct_choice_idx"))
        asked = chosen if choices else (asked[0], chosen[1])
    if explain and asked[1]:
        asked = asked[0], (_explained(asked[1][0], fields.texts("rationales")),)
    image = fields.files("image")
    numbered = coco_names(fields.number("image_id"), *SUBSETS) if not image or "image_id" in fields.record else ()
    return QuestionRecord(
        id=_optional_name(fields, "question_id") if image else fields.name("question_id"),
        names=(*image, *numbered),
        questions=(asked,),
        details=fields.kept("split", "difficult_direct_answer", "image_id"),
    )


def _optional_name(fields: Fields, name: str) -> str:
    """An id that a converted file may lack; "" then."""
    return fields.name(name) if name in fields.record else ""


def _explained(answer: str, reasons: tuple[str, ...]) -> str:
    """The answer of Multimodal-GPT's A-OKVQA. raises BadRecord without a reason"""
    if not reasons:
        raise BadRecord("has no 'rationales', which `explain: true` answers with")
    return f"The answer is {answer}. Because {' '.join(reasons)}"


def with_options(question: str, choices: tuple[str, ...], correct: Any) -> tuple[str, tuple[str, ...]]:
    """The question followed by its choices, each once and empty ones left out, and the correct one as the only answer;
    none when `correct` is null."""
    if not choices:
        raise BadRecord("has no 'choices'")
    if correct is not None and (type(correct) is not int or not 0 <= correct < len(choices)):
        raise BadRecord(f"the correct choice is {correct!r}, expected 0 to {len(choices) - 1}")
    if correct is not None and not choices[correct].strip():
        raise BadRecord(f"choice {correct}, the correct one, is empty")
    listed: dict[str, str] = {}
    for choice in filter(str.strip, choices):
        listed.setdefault(choice.strip().lower(), choice)
    if correct is not None:  # of choices that hold the answer twice, its own spelling is listed
        listed[choices[correct].strip().lower()] = choices[correct]
    text = f"{question.rstrip()} Choose from: {', '.join(listed.values())}."
    return text, () if correct is None else (choices[correct],)


def textvqa(annotations: Path, ocr: Path | None = None, ocr_form: str = OCR_FORM) -> Iterator[Parsed[QuestionRecord]]:
    """One record per question, in the order of the file. raises DataError for another kind of `ocr`"""
    tokens = {} if ocr is None else _ocr_tokens(ocr)
    return (parsed(value, _textvqa, tokens, ocr, ocr_form) for value in section(annotations, "data"))


def _textvqa(fields: Fields, tokens: dict[str, tuple[str, ...]], ocr: Path | None, ocr_form: str) -> QuestionRecord:
    image, question = fields.name("image_id"), fields.text("question")
    if ocr is not None and image not in tokens:
        raise BadRecord(f"image {image} has no tokens in {ocr.name}; are both files of the same split?")
    if found := tokens.get(image):
        question = f"{question.rstrip()}{ocr_form.replace(OCR, ', '.join(found))}"
    return QuestionRecord(
        id=fields.name("question_id"),
        names=(f"{image}.jpg",),
        questions=((question, fields.answers("answers") if "answers" in fields.record else ()),),
        details=fields.kept("set_name", "image_classes", "image_id"),
    )


def _ocr_tokens(path: Path) -> dict[str, tuple[str, ...]]:
    """Image -> the texts in it."""
    found: dict[str, tuple[str, ...]] = {}
    for value in section(path, "data"):
        one = parsed(
            value, lambda fields: (fields.name("image_id"), fields.texts("ocr_tokens"), fields.get("ocr_tokens"))
        )
        if one.record is None:
            raise DataError(f"{path}: {one.place}: {one.fault}; expected TextVQA_Rosetta_OCR_v0.2_<split>.json")
        found[one.record[0]] = one.record[1]
    return found


TWO_FILES = Format(
    vqav2,
    ("questions",),
    {"questions": "the answers are in `annotations`; give the file with the questions (..._questions.json) here"},
    options=SEVERAL_ANSWERS,
)
VQA_FORMATS = {
    "vqa": Format(each(_vqa, *RECORD_LIST), options=SEVERAL_ANSWERS),
    "vqav2": TWO_FILES,
    "okvqa": TWO_FILES,
    "aokvqa": Format(each(_aokvqa, *RECORD_LIST), ("choices", "explain"), has_splits=True, options=SEVERAL_ANSWERS),
    "textvqa": Format(textvqa, ("ocr", "ocr_form"), options=SEVERAL_ANSWERS),
}
