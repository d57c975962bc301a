"""Asks a judge about all cases of a review and writes each review as soon as its reply is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from threading import Event
from typing import Any

from chatbridge.common.errors import DataError
from chatbridge.review.input_files import key_of
from chatbridge.review.json_lines_file import NOT_OURS, JsonLinesFile, Row, without_repeats
from chatbridge.review.judge_client import JudgeSettings
from chatbridge.review.matching import Case
from chatbridge.review.parallel_requests import run_requests
from chatbridge.review.reply_cache import Reply, ReplyCache
from chatbridge.review.scores import UNREADABLE, strict_scores, tolerant_scores
from chatbridge.review.usage import Usage

FIELDS = ("question_id", "category", "content", "tuple", "request")  # of every line
Ask = Callable[[Mapping[str, Any]], Reply]


def kept_reviews(
    file: JsonLinesFile,
    cases: Sequence[Case],
    settings: JudgeSettings,
    own: Sequence[Case],
    is_new: bool = False,
    retry_unreadable: bool = False,
) -> dict[str, Row]:
    """question id -> its review in the file, of all cases.

    own               the cases of this command; the others belong to other chunks
    is_new            remove the reviews of the own cases, and those that belong to no case
    retry_unreadable  remove own reviews without tolerantly readable scores
    raises            DataError for reviews of other questions, answers, rules, or of another judge
    """
    numbers = {key_of(case.question.id): case.number for case in cases}
    keys = {key_of(case.question.id): settings.key(case.text) for case in cases}
    mine = {key_of(case.question.id) for case in own}

    def is_kept(row: Row) -> bool:
        name = key_of(row["question_id"])
        if is_new:
            return name in keys and name not in mine
        return not (retry_unreadable and name in mine and tolerant_scores(str(row["content"])) is None)

    rows = [row for row in file.rows(skip_others=is_new) if is_kept(row)]
    wrong = [row for row in rows if keys.get(key_of(row["question_id"])) != row["request"]]
    if wrong:
        listed = ", ".join(str(row["question_id"]) for row in wrong[:5])
        raise DataError(
            f"{file.path} holds {len(wrong)} reviews of other questions, answers or rules, or of another judge "
            f"(question {listed}); {NOT_OURS}"
        )
    if is_new or retry_unreadable:
        file.rewrite(lambda now: [row for row in now if is_kept(row)], skip_others=is_new)
    return {key_of(row["question_id"]): row for row in without_repeats(rows, numbers)}


def review_cases(
    cases: Sequence[Case],
    settings: JudgeSettings,
    ask: Ask,
    cache: ReplyCache,
    file: JsonLinesFile,
    usage: Usage,
    num_threads: int = 1,
    is_usable: Callable[[Reply], bool] = lambda reply: True,
    stop: Event | None = None,
) -> dict[str, str]:
    """Append a review of each case to the file. Returns question id -> reason of the cases that failed.

    is_usable   whether a cached reply may be used; else the judge is asked again
    raises      JudgeUnusable when no request can succeed, DataError after several failures in a row or when the budget
                is spent; reviews that are complete are in the file
    """

    def one(case: Case) -> None:
        _review_case(case, settings, ask, cache, file, usage, is_usable)

    return run_requests({key_of(case.question.id): case for case in cases}, one, num_threads, stop)


def _review_case(
    case: Case,
    settings: JudgeSettings,
    ask: Ask,
    cache: ReplyCache,
    file: JsonLinesFile,
    usage: Usage,
    is_usable: Callable[[Reply], bool],
) -> None:
    usage.refuse_if_spent()
    request = settings.request(case.text)
    reply, is_cached = cache.fetch(settings.key(case.text), request, lambda: ask(request), is_usable)
    usage.add(reply, is_cached)
    file.append(review_of(case, reply, settings))


def review_of(case: Case, reply: Reply, settings: JudgeSettings) -> Row:
    """The line of a review: the released fields, then our own.

    tuple    scores as the released script reads them, [-1, -1] if it cannot
    scores   tolerantly read scores, null if there are none
    request  names judge, question, answers and rule, so that a resumed command never mixes two
    """
    content = reply.content
    first, second = case.answers
    tolerant = tolerant_scores(content)
    return {
        "id": case.number,
        "question_id": case.question.id,
        "answer1_id": first.id,
        "answer2_id": second.id,
        "category": case.question.category,
        "content": content,
        "tuple": list(strict_scores(content) or UNREADABLE),
        "scores": None if tolerant is None else list(tolerant),
        "judge": reply.model or settings.model,
        "finish_reason": reply.finish_reason,
        "usage": {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens},
        "request": settings.key(case.text),
    }
