"""Arguments of `chatbridge review judge`, and the settings of the judge that they give."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from chatbridge.cli.arguments import whole
from chatbridge.cli.review.shared import add_chunks, positive
from chatbridge.common.errors import ConfigError, Problem
from chatbridge.config.constraints import missing_path
from chatbridge.review.judge_client import JudgeSettings
from chatbridge.review.request_text import SYSTEM
from chatbridge.review.usage import Price

OPENAI = "https://api.openai.com/v1"
OWN_PARAMETERS = ("model", "messages", "stream", "n")  # which --parameter cannot set


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """All arguments."""
    parser = argparse.ArgumentParser(
        prog="chatbridge review judge",
        description=description,
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
        help="stop when this command has spent as much (pending requests are finished); needs --price",
    )


def settings_of(args: argparse.Namespace) -> JudgeSettings:
    """The judge and how it is asked. raises ConfigError with all mistakes of the options"""
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
            json.dumps(value, allow_nan=False)  # of the request
        except yaml.YAMLError:
            problems.append(Problem("--parameter", f"the value of {option!r} is not readable as YAML"))
            continue
        except (TypeError, ValueError) as error:  # dates, sets, nan
            message = f"the value of {option!r} cannot be sent as JSON: {error}"
            problems.append(Problem("--parameter", message, hint="put text into quotes: key='\"2020-01-01\"'"))
            continue
        found[key] = value
    return {key: value for key, value in found.items() if value is not None}


def price_of(args: argparse.Namespace) -> Price | None:
    """Of tokens; None when it was not given."""
    return None if args.price is None else Price(*args.price)
