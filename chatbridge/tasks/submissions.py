"""Files of answers in the form that official scripts and test servers read.

vqa             [{"question_id", "answer"}]: the servers of VQAv2 and TextVQA, and the scripts of OK-VQA
vizwiz          [{"image", "answer"}]
gqa             [{"questionId", "prediction"}]: eval.py of GQA compares letter by letter, so the answer is in lower case
                without a full stop at its end
aokvqa_direct   {question_id: answer}: predictions_<split>-da.json; in lower case, as the direct answers are
aokvqa_choice   {question_id: text of the chosen option}: predictions_<split>-mc.json; the answer itself where it
                chooses none. prepare_predictions.py of A-OKVQA joins both for the leaderboard
scienceqa       {"results": {number: number of the chosen option}, "outputs": {number: answer}}; -1 where the answer
                chooses none
captions        [{"image_id", "caption"}]: the servers of COCO and NoCaps, and pycocoevalcap; in one line
pope            a line {"question", "answer"} per question, in the order of POPE's file

Answers are as the model gave them, where nothing else is said: scripts have rules of their own for line breaks. A
question that could not be read has the answer "", since a server refuses a file with fewer questions; POPE's script
takes that for a yes. Of questions that are asked several times (rotated options, several prompts) the first counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from chatbridge.common.errors import Problem
from chatbridge.common.safe_files import replace_text
from chatbridge.common.text_repair import repaired
from chatbridge.config.schema import Choice
from chatbridge.datasets.builders import Dataset
from chatbridge.tasks.metrics.choice import chosen_option
from chatbridge.tasks.metrics.gqa_accuracy import plain_answer
from chatbridge.tasks.metrics.shared import prompt_number

Row = Mapping[str, Any]
OF_OPTIONS = ("aokvqa_choice", "scienceqa")
WITH_OPTIONS = ("choices", "mmbench")  # data sets whose questions have options
WITHOUT_QUESTIONS = ("captions", "web_pairs")
WITHOUT_CAPTIONS = ("questions", "choices", "mmbench", "mme", "statements")
SubmissionFormat = Literal["vqa", "vizwiz", "gqa", "aokvqa_direct", "aokvqa_choice", "scienceqa", "pope", "captions"]


def write_submission_file(path: Path, rows: Sequence[Row], form: SubmissionFormat) -> Path:
    """Write the answers of predictions; returns the path. rows: of a data set for which `submission_problem` is None"""
    content = FORMATS[form]([row for row in rows if is_first(row)])
    replace_text(path, repaired(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)))
    return path


def submission_problem(form: SubmissionFormat, dataset: Choice[Dataset]) -> Problem | None:
    """Why a data set has no answers of a form, as far as its settings tell."""
    if form in OF_OPTIONS and dataset.name not in WITH_OPTIONS:
        message = f"{form} needs questions with options, but the data set is {dataset.name!r}"
        return Problem("submission_format", message, hint=f"take a data set of {' or '.join(WITH_OPTIONS)}")
    if dataset.name in (WITHOUT_CAPTIONS if form == "captions" else WITHOUT_QUESTIONS):
        wanted = "captions" if form == "captions" else "answers to questions"
        forms = [one for one in FORMATS if (one == "captions") != (form == "captions")]
        message = f"{form} is a file of {wanted}, but the data set is {dataset.name!r}"
        return Problem("submission_format", message, hint=f"remove it, or take {' or '.join(forms)}")
    if form == "vizwiz" and getattr(dataset.config, "format", None) != "vizwiz":
        return Problem("submission_format", "vizwiz needs a data set with format: vizwiz, which has a name per image")
    return None


def is_first(row: Row) -> bool:
    """Whether a prediction is of a question as it is in the file: options not rotated, with the first prompt."""
    return not row["details"].get("copy") and prompt_number(row["details"]) == 1


def _number(name: str) -> int | str:
    """An id as the file of questions has it."""
    return int(name) if name.isdecimal() and str(int(name)) == name else name


def _vqa(rows: Sequence[Row]) -> list[Any]:
    return [{"question_id": _number(row["id"]), "answer": row["prediction"]} for row in rows]


def _vizwiz(rows: Sequence[Row]) -> list[Any]:
    return [{"image": row["details"]["image"], "answer": row["prediction"]} for row in rows]


def _gqa(rows: Sequence[Row]) -> list[Any]:
    return [{"questionId": row["id"], "prediction": plain_answer(row["prediction"])} for row in rows]


def _aokvqa_direct(rows: Sequence[Row]) -> dict[str, str]:
    return {row["id"]: row["prediction"].strip().lower() for row in rows}


def _aokvqa_choice(rows: Sequence[Row]) -> dict[str, str]:
    return {row["id"]: row["details"]["options"].get(_letter(row), row["prediction"]) for row in rows}


def _scienceqa(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    numbers = {row["id"]: list(row["details"]["options"]).index(found) if (found := _letter(row)) else -1
               for row in rows}  # fmt: skip
    return {"results": numbers, "outputs": {row["id"]: row["prediction"] for row in rows}}


def _letter(row: Row) -> str | None:
    return chosen_option(row["prediction"], row["details"]["options"]).letter


def _captions(rows: Sequence[Row]) -> list[Any]:
    return [{"image_id": _number(row["id"]), "caption": " ".join(row["prediction"].split())} for row in rows]


def _pope(rows: Sequence[Row]) -> str:
    lines = ({"question": row["question"], "answer": row["prediction"]} for row in rows)
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


FORMATS: dict[str, Callable[[Sequence[Row]], Any]] = {
    "vqa": _vqa,
    "vizwiz": _vizwiz,
    "gqa": _gqa,
    "aokvqa_direct": _aokvqa_direct,
    "aokvqa_choice": _aokvqa_choice,
    "scienceqa": _scienceqa,
    "pope": _pope,
    "captions": _captions,
}
