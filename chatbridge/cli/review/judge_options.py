"""Arguments of `chatbridge review judge`, and the settings of the judge that they give."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from chatbridge.cli.review.client_options import add_client, client_settings
from chatbridge.cli.review.shared import add_chunks
from chatbridge.common.errors import ConfigError, Problem
from chatbridge.config.constraints import missing_path
from chatbridge.review.judge_client import JudgeSettings
from chatbridge.review.request_text import SYSTEM

PARAMETERS = {"temperature": 0.2, "max_tokens": 1024}


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
    add = add_client(parser, "the judge", "gpt-4o; the released scripts used gpt-3.5-turbo or gpt-4", PARAMETERS)
    add("--system", default=SYSTEM, metavar="TEXT", help="system message (default: %(default)r)")
    add("--cache", type=Path, metavar="DIR", help="of replies (default: judge_cache beside --out)")


def settings_of(args: argparse.Namespace) -> JudgeSettings:
    """The judge and how it is asked. raises ConfigError with all mistakes of the options"""
    problems = _missing_files(args)
    settings = client_settings(args, JudgeSettings(model="", system=args.system, parameters=PARAMETERS), problems)
    if problems:
        raise ConfigError(problems)
    return settings


def _missing_files(args: argparse.Namespace) -> list[Problem]:
    given = {"--questions": [args.questions], "--context": [args.context], "--answers": args.answers,
             "--rules": [args.rules]}  # fmt: skip
    found = ((name, missing_path(path, "file")) for name, paths in given.items() for path in paths if path is not None)
    return [replace(problem, path=name) for name, problem in found if problem is not None]
