"""ChatBind's GPT-assisted evaluation: request texts, score parsing, review lines and the printed summary."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from chatbridge.review.input_files import ReviewAnswer, read_answers, read_contexts, read_questions, read_rules
from chatbridge.review.judge_client import JudgeSettings
from chatbridge.review.matching import Case, ReviewFiles, match
from chatbridge.review.reply_cache import Reply
from chatbridge.review.review_cases import review_of
from chatbridge.review.scores import UNREADABLE, strict_scores
from chatbridge.review.summary import read_reviews, released_summary
from tests.parity.golden import Check

QUESTIONS = "data/qa90_questions.jsonl"
RELEASED = ("id", "question_id", "answer1_id", "answer2_id", "category", "content", "tuple")


def review(check: Check) -> None:
    """Everything that the reference's scripts gave for 30 questions with replies of a stub."""
    about = check.golden.about
    for reply, scores in about["parse_score"]:
        check.equal(f"scores of {reply!r}", list(strict_scores(reply) or UNREADABLE), [float(one) for one in scores])
    with TemporaryDirectory() as folder:
        path = Path(folder, "reviews.jsonl")
        path.write_text("".join(json.dumps(line) + "\n" for line in about["reviews"]), encoding="utf-8")
        want = about["summary_stdout"]
        model = want.partition("\n")[0].removeprefix("GPT-4 vs. ")
        check.equal("summary", released_summary(read_reviews(path), model), want)
    cases = _cases(check)
    check.equal("request texts", [case.text for case in cases[: len(about["prompts"])]], about["prompts"])
    for case, digest, line in zip(cases, about["prompt_sha256"], about["reviews"], strict=True):
        check.equal(f"request {case.number}", sha256(case.text.encode()).hexdigest(), digest)
        found = review_of(case, Reply(line["content"]), JudgeSettings(model="stub"))
        check.equal(f"review {case.number}", {name: found[name] for name in RELEASED}, line)


def _cases(check: Check) -> list[Case]:
    """The cases of the recorded questions; answers are in the sidecar or in a file that it names. raises ValueError
    without data"""
    about = check.golden.about
    ids = set(about["questions"])
    questions = [one for one in read_questions(_file(check, about.get("question_file", QUESTIONS))) if one.id in ids]
    first, second = ([one for one in _answers(check, about[name]) if one.question_id in ids]
                     for name in ("answers1", "answers2"))  # fmt: skip
    rules, contexts = read_rules(_file(check, about["rule"])), read_contexts(_file(check, about["context"]))
    return match(ReviewFiles(questions, (first, second), rules, contexts))


def _answers(check: Check, given: Any) -> list[ReviewAnswer]:
    """The answers of the sidecar, or of the file that it names."""
    if isinstance(given, str):
        return read_answers(_file(check, given))
    return [ReviewAnswer(one["question_id"], one.get("answer_id", one["question_id"]), one["text"]) for one in given]


def _file(check: Check, said: str) -> Path:
    """The file that a sentence of the sidecar begins with."""
    return check.golden.file(said.split()[0])
