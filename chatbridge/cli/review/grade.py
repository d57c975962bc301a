"""`chatbridge review grade`: a judge compares each answer of a file of predictions with its references."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from chatbridge.cli.review.client_options import add_client, client_of, client_settings, price_of
from chatbridge.cli.review.shared import say_failures
from chatbridge.cli.written_files import check_written
from chatbridge.common.errors import ConfigError, DataError, Problem
from chatbridge.review.grades import FIELDS, GRADER, Answer, answers_of, grade_answers, kept_grades
from chatbridge.review.json_lines_file import JsonLinesFile, Row, without_repeats
from chatbridge.review.judge_client import JudgeSettings
from chatbridge.review.reply_cache import Reply, ReplyCache
from chatbridge.review.usage import Usage
from chatbridge.tasks.metrics.judge import verdict
from chatbridge.tasks.prediction_lines import items_of, read_references, read_rows, with_references

PARAMETERS = {"temperature": 0.0, "max_tokens": 64}


def main(arguments: Sequence[str] | None = None) -> int:
    """Let a judge grade each answer of a file of predictions. Run it again to resume. Then score the file with the
    metric `judge`: chatbridge score FILE --metrics judge --options judge.file=OUT"""
    args = _parser().parse_args(arguments)
    settings = _settings(args)
    check_written({"--out": args.out}, [args.predictions, args.references])
    rows = read_rows(args.predictions)
    if args.references is not None:
        rows = with_references(rows, read_references(args.references), args.references)
    answers = answers_of(items_of(rows, args.predictions.parent))
    if not answers:
        raise DataError(f"{args.predictions}: no answer has text and references, so there is nothing to grade")
    file, cache = JsonLinesFile(args.out, FIELDS), ReplyCache(args.cache or args.out.parent / "judge_cache")
    print(f"{len(answers):,} of {len(rows):,} answers are graded; the others are empty or without references")
    if args.check:
        left = _left(answers, kept_grades(file, answers, settings))
        print(f"judge: {settings.model} at {settings.server}\n{len(left):,} to do; the first request:")
        print(left[0].text if left else "(none)")
        return 0
    left = _left(answers, kept_grades(file, answers, settings, args.overwrite, args.retry_unreadable))
    failed = _graded(args, left, settings, cache, file) if left else {}
    order = {one.item.id: number for number, one in enumerate(answers)}
    print(_result(args.out, file.rewrite(lambda now: without_repeats(now, order, "id")), answers))
    say_failures(failed, "has no grade")
    return 1 if failed else 0


def _graded(
    args: argparse.Namespace, left: list[Answer], settings: JudgeSettings, cache: ReplyCache, file: JsonLinesFile
) -> dict[str, str]:
    judge, usage = client_of(args, settings, cache), Usage(price_of(args), args.budget)
    try:
        return grade_answers(
            left, settings, judge.ask, cache, file, usage, args.threads, judge.stop, _usable(args)
        )  # fmt: skip
    finally:
        print(usage, flush=True)


def _left(answers: Sequence[Answer], kept: dict[str, Row]) -> list[Answer]:
    return [one for one in answers if one.item.id not in kept]


def _usable(args: argparse.Namespace) -> Callable[[Reply], bool]:
    """Which cached replies are used."""
    if args.fresh:
        return lambda reply: False
    return lambda reply: not args.retry_unreadable or verdict(reply.content) is not None


def _result(out: Path, rows: Sequence[Row], answers: Sequence[Answer]) -> str:
    unreadable = sum(row["correct"] is None for row in rows)
    correct = sum(row["correct"] is True for row in rows)
    return (
        f"{len(rows):,} of {len(answers):,} grades are in {out}: {correct:,} correct, {unreadable:,} replies without a "
        f"readable verdict; chatbridge score FILE --metrics judge --options judge.file={out}"
    )


def _settings(args: argparse.Namespace) -> JudgeSettings:
    problems = [
        Problem(name, f"there is no file {path}")
        for name, path in (("PREDICTIONS", args.predictions), ("--references", args.references))
        if path is not None and not path.is_file()
    ]
    settings = client_settings(args, JudgeSettings(model="", system=args.system, parameters=PARAMETERS), problems)
    if problems:
        raise ConfigError(problems)
    return settings


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="chatbridge review grade",
        description=main.__doc__,
        epilog="exit code: 0 all graded; 1 some requests failed, the same command repeats them; 2 invalid input, or "
        "the judge cannot be used",
    )
    add = parser.add_argument
    add("predictions", type=Path, metavar="PREDICTIONS.jsonl", help="{id, prediction, references, question}")
    add("--references", type=Path, metavar="FILE.jsonl", help='a line {"id", "references": [...]} per item')
    add("--out", type=Path, required=True, metavar="GRADES.jsonl", help="a line per grade")
    add("--overwrite", action="store_true", help="replace the grades of --out")
    add("--retry-unreadable", action="store_true", help="ask again where a reply has no readable verdict")
    add("--check", action="store_true", help="print how many answers are graded and the first request; ask nothing")
    add = add_client(parser, "the judge", "gpt-4o-mini, or a model of a local server", PARAMETERS)
    add("--system", default=GRADER, metavar="TEXT", help="system message (default: %(default)r)")
    add("--cache", type=Path, metavar="DIR", help="of replies (default: judge_cache beside --out)")
    return parser
