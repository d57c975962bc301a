"""`chatbridge review judge`: a judge compares two files of answers. Run it again to resume."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from chatbridge.cli.arguments import whole
from chatbridge.cli.review.shared import add_chunks, positive, say_failures
from chatbridge.common.environment import note_variables
from chatbridge.common.errors import ConfigError, DataError, Problem
from chatbridge.config.constraints import missing_path
from chatbridge.review.inputs import key_of, read_answers, read_contexts, read_questions, read_rules
from chatbridge.review.judge import Judge, JudgeSettings
from chatbridge.review.judging import FIELDS, Price, Tally, kept_reviews, review_cases
from chatbridge.review.line_file import LineFile, Row, without_repeats
from chatbridge.review.matching import Case, ReviewFiles, chunk, match
from chatbridge.review.pacing import RequestPace
from chatbridge.review.reply_cache import Reply, ReplyCache, request_key
from chatbridge.review.request import SYSTEM
from chatbridge.review.scores import tolerant_scores

OPENAI = "https://api.openai.com/v1"
OWN_PARAMETERS = ("model", "messages", "stream", "n")  # which --parameter cannot set
LETTERS_PER_TOKEN = 4  # of English text, for the estimate of --check


def main(arguments: Sequence[str] | None = None) -> int:
    """Let a judge compare two files of answers. The key is read from the environment only. Run it again to resume:
    reviews that are complete are kept, and replies in the cache are not requested again."""
    args = _parser().parse_args(arguments)
    settings = _settings(args)
    cases = match(_files(args), args.common_only, args.default_rule)
    own = chunk(cases, args.num_chunks, args.chunk_idx)
    file, cache = LineFile(args.out, FIELDS), ReplyCache(args.cache or args.out.parent / "judge_cache")
    _refuse_inputs(args)
    if args.check:
        left = _left(own, kept_reviews(file, cases, settings, own))
        print(_plan(left, settings, cache, _price(args)))
        return 0
    kept = kept_reviews(file, cases, settings, own, args.overwrite, args.retry_unreadable)
    left, tally = _left(own, kept), Tally(_price(args), args.budget)
    done = f"{len(own):,} cases, {len(own) - len(left):,} reviewed already"
    print(f"{done}; judge: {settings.model} at {settings.server}", flush=True)
    if left:
        judge = _judge(args, settings, cache)
        try:
            review_cases(left, settings, judge.ask, cache, file, tally, args.threads, _usable(args), judge.stop)
        finally:
            print(_spent(tally), flush=True)
    order = {key_of(case.question.id): case.number for case in cases}
    rows = file.rewrite(lambda now: without_repeats(now, order))
    print(_result(args.out, rows, own))
    say_failures(tally.failed, "has no review")
    return 1 if tally.failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="chatbridge review judge",
        description=main.__doc__,
        epilog="exit code: 0 all reviewed; 1 some requests failed, the same command repeats them; 2 invalid input, or "
        "the judge cannot be used",
    )
    add = parser.add_argument
    add("--questions", type=Path, required=True, metavar="FILE.jsonl", help="{question_id, image, text, category}")
    context = parser.add_mutually_exclusive_group(required=True)
    context.add_argument("--context", type=Path, metavar="FILE.jsonl",
                         help="what the judge reads instead of images: {image, captions, instances}")  # fmt: skip
    context.add_argument("--no-context", action="store_true", help="the judge reads questions and answers only")
    add("--answers", type=Path, nargs=2, required=True, metavar=("ONE.jsonl", "TWO.jsonl"),
        help="{question_id, text, answer_id}; the summary gives the second in percent of the first")  # fmt: skip
    add("--rules", type=Path, required=True, metavar="FILE.json", help="{category: {role, prompt}}")
    add("--default-rule", action="store_true", help="use the rule `default` for categories without one")
    add("--common-only", action="store_true", help="leave out ids that are not in all three files; else an error")
    add("--out", type=Path, required=True, metavar="FILE.jsonl", help="a line per review; chunks may share the file")
    add("--overwrite", action="store_true", help="replace the reviews of --out")
    add("--retry-unreadable", action="store_true", help="ask again where the scores of a reply cannot be read")
    add_chunks(parser)
    _add_judge(parser)
    add("--check", action="store_true", help="match the files, print the plan and the first request; ask nothing")
    return parser


def _add_judge(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the judge").add_argument
    add(
        "--model", required=True, help="the judge, for example gpt-4o; the released scripts used gpt-3.5-turbo or gpt-4"
    )
    add("--base-url", metavar="URL",
        help=f"any server of OpenAI's protocol (default: $OPENAI_BASE_URL, else {OPENAI})")  # fmt: skip
    add("--key-env", default="OPENAI_API_KEY", metavar="NAME",
        help="environment variable with the key (default: %(default)s)")  # fmt: skip
    add("--parameter", nargs="+", default=[], metavar="KEY=VALUE",
        help="of the request; default: temperature=0.2 max_tokens=1024; KEY=null leaves one out")  # fmt: skip
    add("--system", default=SYSTEM, metavar="TEXT", help="system message (default: %(default)r)")
    add("--requests-per-minute", type=positive, default=60.0, metavar="N",
        help="of all processes with this cache (default: 60, as released)")  # fmt: skip
    add("--threads", type=whole(1, 256), default=4, metavar="N", help="requests at once (default: 4)")
    add("--timeout", type=positive, default=120.0, metavar="SECONDS", help="longest silence (default: 120)")
    add("--retries", type=whole(0, 100), default=6, metavar="N", help="attempts after a failed one (default: 6)")
    add("--first-wait", type=positive, default=1.0, metavar="SECONDS",
        help="before the second attempt, doubled before each further one (default: 1)")  # fmt: skip
    add("--longest-wait", type=positive, default=300.0, metavar="SECONDS",
        help="a server that asks for more ends the command (default: 300)")  # fmt: skip
    add("--cache", type=Path, metavar="DIR", help="of replies (default: judge_cache beside --out)")
    add("--fresh", action="store_true", help="ask although a reply is in the cache")
    add("--price", type=float, nargs=2, metavar=("PROMPT", "COMPLETION"), help="dollars per million tokens")
    add(
        "--budget",
        type=positive,
        metavar="DOLLARS",
        help="stop when this command has spent as much (requests on their way are finished); needs --price",
    )


def _settings(args: argparse.Namespace) -> JudgeSettings:
    """raises ConfigError with all mistakes of the options"""
    problems = _missing_files(args)
    server, parameters = _server(args, problems), _parameters(args, problems)
    if args.budget is not None and args.price is None:
        problems.append(Problem("--budget", "needs --price, dollars per million prompt and completion tokens"))
    if args.price is not None and not all(0 <= price < float("inf") for price in args.price):
        problems.append(Problem("--price", f"is {args.price}, expected two numbers from 0"))
    if problems:
        raise ConfigError(problems)
    return JudgeSettings(
        model=args.model,
        server=server,
        parameters=parameters,
        system=args.system,
        timeout_s=args.timeout,
        retries=args.retries,
        first_wait_s=args.first_wait,
        longest_wait_s=args.longest_wait,
    )


def _missing_files(args: argparse.Namespace) -> list[Problem]:
    given = {"--questions": [args.questions], "--context": [args.context], "--answers": args.answers,
             "--rules": [args.rules]}  # fmt: skip
    found = ((name, missing_path(path, "file")) for name, paths in given.items() for path in paths if path is not None)
    return [replace(problem, path=name) for name, problem in found if problem is not None]


def _server(args: argparse.Namespace, problems: list[Problem]) -> str:
    """The address of the judge; a key in it would be written to files."""
    address = args.base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI
    try:
        parts = urlsplit(address)
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_valid, parts = False, urlsplit("")
    if not is_valid:
        problems.append(Problem("--base-url", f"is not an address: {address!r}", hint=f"for example {OPENAI}"))
    if parts.username or parts.password or parts.query:
        hint = "put the key into an environment variable and name it with --key-env"
        problems.append(Problem("--base-url", "holds a user, a password or a query", hint=hint))
    if parts.path.rstrip("/").endswith("/chat/completions"):
        problems.append(Problem("--base-url", "ends in /chat/completions, which the client adds", hint="remove it"))
    return address.rstrip("/")


def _parameters(args: argparse.Namespace, problems: list[Problem]) -> Mapping[str, Any]:
    found = dict(JudgeSettings(model="").parameters)
    for option in args.parameter:
        key, sign, text = option.partition("=")
        if not sign or not key or key in OWN_PARAMETERS:
            message = f"expected KEY=VALUE with a key other than {', '.join(OWN_PARAMETERS)}, got {option!r}"
            problems.append(Problem("--parameter", message))
            continue
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            problems.append(Problem("--parameter", f"the value of {option!r} is not readable as YAML"))
            continue
        found[key] = value
    return {key: value for key, value in found.items() if value is not None}


def _price(args: argparse.Namespace) -> Price | None:
    return None if args.price is None else Price(*args.price)


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


def _key(args: argparse.Namespace, settings: JudgeSettings) -> str:
    """The key of the environment; a server of one's own may need none. raises DataError"""
    key = os.environ.get(args.key_env, "").strip()
    if not key and settings.server == OPENAI:
        raise DataError(
            f"the environment variable {args.key_env} is not set; put the key of the judge into it, or name another "
            "variable with --key-env, or another server with --base-url"
        )
    if not key.isascii() or not key.isprintable():
        raise DataError(f"the environment variable {args.key_env} holds characters that no key has")
    note_variables(f"${{oc.env:{args.key_env}}}")  # messages show the variable instead of its value
    return key or "none"


def _judge(args: argparse.Namespace, settings: JudgeSettings, cache: ReplyCache) -> Judge:
    """raises DataError without a key, ImportError without the client"""
    pace = RequestPace(cache.folder / f"pace-{request_key(settings.server, {})[:16]}.json", args.requests_per_minute)
    return Judge(settings, _key(args, settings), pace, say=lambda line: print(line, file=sys.stderr, flush=True))


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


def _spent(tally: Tally) -> str:
    cost = "" if tally.cost is None else f", ${tally.cost:.4f}"
    unknown = f"; {tally.uncounted:,} replies came without counts" if tally.uncounted else ""
    return (
        f"{tally.requested:,} replies requested, {tally.cached:,} from the cache; {tally.prompt_tokens:,} prompt and "
        f"{tally.completion_tokens:,} completion tokens{cost}{unknown}"
    )


def _result(out: Path, rows: Sequence[Row], own: Sequence[Case]) -> str:
    mine = {key_of(case.question.id) for case in own}
    reviewed = [row for row in rows if key_of(row["question_id"]) in mine]
    strict = sum(row["tuple"] == [-1, -1] for row in reviewed)
    tolerant = sum(row.get("scores") is None for row in reviewed)
    return (
        f"{len(reviewed):,} of {len(own):,} cases are in {out}; unreadable scores: {strict:,} strictly, {tolerant:,} "
        "tolerantly"
    )
