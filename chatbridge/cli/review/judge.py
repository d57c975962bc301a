"""`chatbridge review judge`: a judge compares two files of answers. Run it again to resume."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from chatbridge.cli.review.client_options import client_of, price_of
from chatbridge.cli.review.judge_options import parser_of, settings_of
from chatbridge.cli.review.shared import say_failures
from chatbridge.common.errors import DataError
from chatbridge.review.input_files import key_of, read_answers, read_contexts, read_questions, read_rules
from chatbridge.review.json_lines_file import JsonLinesFile, Row, without_repeats
from chatbridge.review.judge_client import JudgeSettings
from chatbridge.review.matching import Case, ReviewFiles, chunk, match
from chatbridge.review.reply_cache import Reply, ReplyCache
from chatbridge.review.review_cases import FIELDS, kept_reviews, review_cases
from chatbridge.review.scores import tolerant_scores
from chatbridge.review.usage import Price, Usage

LETTERS_PER_TOKEN = 4  # of English text, for the estimate of --check


def main(arguments: Sequence[str] | None = None) -> int:
    """Let a judge compare two files of answers. The key is read from the environment only. Run it again to resume:
    reviews that are complete are kept, and replies in the cache are not requested again."""
    args = parser_of(main.__doc__).parse_args(arguments)
    settings = settings_of(args)
    cases = match(_files(args), args.common_only, args.default_rule)
    own = chunk(cases, args.num_chunks, args.chunk_idx)
    file, cache = JsonLinesFile(args.out, FIELDS), ReplyCache(args.cache or args.out.parent / "judge_cache")
    _refuse_inputs(args)
    if args.check:
        left = _left(own, kept_reviews(file, cases, settings, own))
        print(_plan(left, settings, cache, price_of(args)))
        return 0
    kept = kept_reviews(file, cases, settings, own, args.overwrite, args.retry_unreadable)
    left, usage = _left(own, kept), Usage(price_of(args), args.budget)
    failed: dict[str, str] = {}
    done = f"{len(own):,} cases, {len(own) - len(left):,} reviewed already"
    print(f"{done}; judge: {settings.model} at {settings.server}", flush=True)
    if left:
        judge = client_of(args, settings, cache)
        try:
            failed = review_cases(
                left, settings, judge.ask, cache, file, usage, args.threads, _usable(args), judge.stop
            )
        finally:
            print(usage, flush=True)
    order = {key_of(case.question.id): case.number for case in cases}
    rows = file.rewrite(lambda now: without_repeats(now, order))
    print(_result(args.out, rows, own))
    say_failures(failed, "has no review")
    return 1 if failed else 0


def _files(args: argparse.Namespace) -> ReviewFiles:
    first, second = args.answers
    contexts = None if args.context is None else read_contexts(args.context)
    answers = (read_answers(first), read_answers(second))
    return ReviewFiles(
        read_questions(args.questions), answers, read_rules(args.rules), contexts, (str(first), str(second))
    )


def _refuse_inputs(args: argparse.Namespace) -> None:
    """raises DataError when --out is one of the files that are read"""
    for path in (args.questions, args.context, args.rules, *args.answers):
        if path is not None and args.out.exists() and args.out.samefile(path):
            raise DataError(f"--out {args.out} is a file that the command reads; choose another --out")


def _left(own: Sequence[Case], kept: Mapping[str, Row]) -> list[Case]:
    return [case for case in own if key_of(case.question.id) not in kept]


def _usable(args: argparse.Namespace) -> Callable[[Reply], bool]:
    """Which cached replies are used."""
    if args.fresh:
        return lambda reply: False
    if args.retry_unreadable:
        return lambda reply: tolerant_scores(reply.content) is not None
    return lambda reply: True


def _plan(left: Sequence[Case], settings: JudgeSettings, cache: ReplyCache, price: Price | None) -> str:
    asked = [case for case in left if cache.get(settings.key(case.text)) is None]
    prompt = sum(len(case.text) + len(settings.system) for case in asked) // LETTERS_PER_TOKEN
    longest = settings.parameters.get("max_tokens", settings.parameters.get("max_completion_tokens"))
    lines = [f"judge    {settings.model} at {settings.server}",
             f"reviews  {len(left):,} to do, {len(left) - len(asked):,} of them from the cache",
             f"tokens   about {prompt:,} of prompts ({LETTERS_PER_TOKEN} letters each)"]  # fmt: skip
    if price is not None and isinstance(longest, int):
        most = price.of(prompt, longest * len(asked))
        lines.append(f"cost     about ${price.of(prompt, 0):.2f} for prompts, at most ${most:.2f} with replies")
    return "\n".join([*lines, *(["", "first request:", asked[0].text.rstrip()] if asked else [])])


def _result(out: Path, rows: Sequence[Row], own: Sequence[Case]) -> str:
    mine = {key_of(case.question.id) for case in own}
    reviewed = [row for row in rows if key_of(row["question_id"]) in mine]
    strict = sum(row["tuple"] == [-1, -1] for row in reviewed)
    tolerant = sum(row.get("scores") is None for row in reviewed)
    return (
        f"{len(reviewed):,} of {len(own):,} cases are in {out}; unreadable scores: {strict:,} strictly, {tolerant:,} "
        "tolerantly"
    )
