"""Grades of single answers: a judge compares an answer with the correct ones. The metric `judge` reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any

from chatbridge.common.errors import DataError, some
from chatbridge.review.json_lines_file import NOT_OURS, JsonLinesFile, Row
from chatbridge.review.judge_client import JudgeSettings
from chatbridge.review.parallel_requests import run_requests
from chatbridge.review.reply_cache import Reply, ReplyCache
from chatbridge.review.usage import Usage
from chatbridge.tasks.metrics.base import Item
from chatbridge.tasks.metrics.judge import is_asked, verdict

FIELDS = ("id", "prediction", "content", "request")  # of every line
GRADER = "You grade answers to questions about images, videos and sounds. Reply with one JSON object and nothing else."
REQUEST = """{question}Correct answer{plural}: {references}
Given answer: {prediction}

Does the given answer agree with {which}? Other words for the same are right; a different or missing fact is wrong.
Reply with {{"correct": "yes" or "no", "score": N}}, where N is a whole number from 0 (wrong) to 5 (exactly right)."""


@dataclass(frozen=True)
class Answer:
    """An answer that is graded, and the text of the request."""

    item: Item
    text: str


def answers_of(items: Sequence[Item]) -> list[Answer]:
    """The answers that a judge is asked about: without empty ones and unreadable questions, which are incorrect."""
    return [Answer(item, grade_text(item)) for item in items if is_asked(item)]


def grade_text(item: Item) -> str:
    """What the judge reads. A file of somebody else may have no question."""
    question = str(item.row.get("question") or "").strip()
    known = list(dict.fromkeys(one.strip() for one in item.references if one.strip()))
    return REQUEST.format(
        question=f"Question: {question}\n" if question else "",
        plural="s" if len(known) > 1 else "",
        references=" | ".join(known),
        prediction=item.prediction.strip(),
        which="one of the correct answers" if len(known) > 1 else "the correct answer",
    )


def kept_grades(
    file: JsonLinesFile,
    answers: Sequence[Answer],
    settings: JudgeSettings,
    is_new: bool = False,
    retry_unreadable: bool = False,
) -> dict[str, Row]:
    """Id -> its grade in the file.

    is_new            remove all grades
    retry_unreadable  remove those without a readable verdict
    raises            DataError for grades of other answers or of another judge
    """
    if is_new or retry_unreadable:
        file.rewrite(
            lambda rows: [row for row in rows if not is_new and verdict(str(row["content"])) is not None],
            skip_others=is_new,
        )
    rows = {str(row["id"]): row for row in file.rows()}
    keys = {one.item.id: settings.key(one.text) for one in answers}
    wrong = [name for name, row in rows.items() if keys.get(name) != row["request"]]
    if wrong:
        raise DataError(
            f"{file.path} holds {len(wrong)} grades of other answers, or of another judge: {some(wrong)}; {NOT_OURS}"
        )
    return rows


def grade_answers(
    answers: Sequence[Answer],
    settings: JudgeSettings,
    ask: Callable[[Mapping[str, Any]], Reply],
    cache: ReplyCache,
    file: JsonLinesFile,
    usage: Usage,
    num_threads: int = 1,
    stop: Event | None = None,
    is_usable: Callable[[Reply], bool] = lambda reply: True,
) -> dict[str, str]:
    """Append a grade of each answer to the file. Returns id -> reason of the answers whose request failed.

    is_usable   whether a cached reply may be used; else the judge is asked again
    raises      as `run_requests`; grades that are complete are in the file
    """

    def one(answer: Answer) -> None:
        usage.refuse_if_spent()
        request, key = settings.request(answer.text), settings.key(answer.text)
        reply, is_cached = cache.fetch(key, request, lambda: ask(request), is_usable)
        usage.add(reply, is_cached)
        file.append(grade_of(answer, reply, settings))

    return run_requests({answer.item.id: answer for answer in answers}, one, num_threads, stop)


def grade_of(answer: Answer, reply: Reply, settings: JudgeSettings) -> Row:
    """The line of a grade. correct, score: null where the reply has no readable verdict"""
    correct, score = verdict(reply.content) or (None, None)
    return {
        "id": answer.item.id,
        "prediction": answer.item.prediction,
        "content": reply.content,
        "correct": correct,
        "score": score,
        "judge": reply.model or settings.model,
        "finish_reason": reply.finish_reason,
        "usage": {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens},
        "request": settings.key(answer.text),
    }
