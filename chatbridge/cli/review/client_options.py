"""Arguments of commands that ask a model behind a server, and the client that they give."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import yaml

from chatbridge.cli.arguments import whole
from chatbridge.cli.review.shared import positive
from chatbridge.common.environment import note_variables
from chatbridge.common.errors import DataError, Problem
from chatbridge.review.judge_client import Judge, JudgeSettings
from chatbridge.review.rate_limit import RateLimit
from chatbridge.review.reply_cache import ReplyCache, request_key
from chatbridge.review.usage import Price

OPENAI = "https://api.openai.com/v1"
OWN_PARAMETERS = ("model", "messages", "stream", "n")  # which --parameter cannot set


def add_client(
    parser: argparse.ArgumentParser, called: str, example: str, parameters: Mapping[str, Any]
) -> Callable[..., Any]:
    """Add the arguments of a client.

    called      "the judge"
    example     of a model
    parameters  of a request unless --parameter changes them
    returns     the `add_argument` of their group
    """
    add = parser.add_argument_group(called).add_argument
    add("--model", required=True, help=f"{called}, for example {example}")
    add("--base-url", metavar="URL",
        help=f"any server of OpenAI's protocol (default: $OPENAI_BASE_URL, else {OPENAI})")  # fmt: skip
    add("--key-env", default="OPENAI_API_KEY", metavar="NAME",
        help="environment variable with the key (default: %(default)s)")  # fmt: skip
    shown = " ".join(f"{key}={value}" for key, value in parameters.items())
    add("--parameter", nargs="+", default=[], metavar="KEY=VALUE",
        help=f"of the request; default: {shown}; KEY=null leaves one out")  # fmt: skip
    add("--requests-per-minute", type=positive, default=60.0, metavar="N",
        help="of all processes with this cache (default: 60)")  # fmt: skip
    add("--threads", type=whole(1, 256), default=4, metavar="N", help="requests at once (default: 4)")
    add("--timeout", type=positive, default=120.0, metavar="SECONDS", help="longest silence (default: 120)")
    add("--retries", type=whole(0, 100), default=6, metavar="N", help="attempts after a failed one (default: 6)")
    add("--first-wait", type=positive, default=1.0, metavar="SECONDS",
        help="before the second attempt, doubled before each further one (default: 1)")  # fmt: skip
    add("--longest-wait", type=positive, default=300.0, metavar="SECONDS",
        help="a server that asks for more ends the command (default: 300)")  # fmt: skip
    add("--fresh", action="store_true", help="ask although a reply is in the cache")
    add("--price", type=float, nargs=2, metavar=("PROMPT", "COMPLETION"), help="dollars per million tokens")
    add("--budget", type=positive, metavar="DOLLARS",
        help="stop when this command has spent as much (pending requests are finished); needs --price")  # fmt: skip
    return add


def client_settings(args: argparse.Namespace, defaults: JudgeSettings, problems: list[Problem]) -> JudgeSettings:
    """The model and how it is asked. Mistakes of the options are added to `problems`."""
    server = server_of(args.base_url, problems)
    parameters = parameters_of(args.parameter, defaults.parameters, problems)
    if args.budget is not None and args.price is None:
        problems.append(Problem("--budget", "needs --price, dollars per million prompt and completion tokens"))
    if args.price is not None and not all(0 <= price < float("inf") for price in args.price):
        problems.append(Problem("--price", f"is {args.price}, expected two numbers from 0"))
    return replace(
        defaults,
        model=args.model,
        server=server,
        parameters=parameters,
        timeout_s=args.timeout,
        retries=args.retries,
        first_wait_s=args.first_wait,
        longest_wait_s=args.longest_wait,
    )


def server_of(given: str | None, problems: list[Problem]) -> str:
    """The address of the server; a key in it would be written to files."""
    address = given or os.environ.get("OPENAI_BASE_URL") or OPENAI
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


def parameters_of(given: list[str], defaults: Mapping[str, Any], problems: list[Problem]) -> Mapping[str, Any]:
    """Parameters of a request: the defaults, changed by KEY=VALUE."""
    found = dict(defaults)
    for option in given:
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


def client_of(args: argparse.Namespace, settings: JudgeSettings, cache: ReplyCache) -> Judge:
    """The client, with the key of the environment. raises DataError without a key, ImportError without the package"""
    limit = RateLimit(
        cache.folder / f"rate_limit-{request_key(settings.server, {})[:16]}.json", args.requests_per_minute
    )
    key = _key(args.key_env, settings)
    return Judge(settings, key, limit, say=lambda line: print(line, file=sys.stderr, flush=True))


def _key(variable: str, settings: JudgeSettings) -> str:
    """The key in the environment; other servers than OpenAI's may need none. raises DataError"""
    key = os.environ.get(variable, "").strip()
    if not key and settings.server == OPENAI:
        raise DataError(
            f"the environment variable {variable} is not set; put the key of {settings.called} into it, or name "
            "another variable with --key-env, or another server with --base-url"
        )
    if not key.isascii() or not key.isprintable():
        raise DataError(f"the environment variable {variable} holds characters that no key has")
    note_variables(f"${{oc.env:{variable}}}")  # messages show the variable instead of its value
    return key or "none"
