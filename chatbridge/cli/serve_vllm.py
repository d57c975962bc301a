"""The flags of `chatbridge serve` for a language model that runs in vLLM."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path

from chatbridge.cli.arguments import whole
from chatbridge.common.errors import ConfigError, Problem
from chatbridge.experiment.roots import Chat
from chatbridge.serve.vllm.backend import KEY, VllmEngine, VllmSettings, open_backend
from chatbridge.serve.vllm.front_folder import front_config, is_front
from chatbridge.serve.vllm.servers import Servers

FOLDER = "--checkpoint DIR/front, a folder of: chatbridge export RUN --vllm DIR"


def add_vllm(parser: ArgumentParser) -> None:
    """--vllm-url, --vllm-key-file, --vllm-silent-s"""
    group = parser.add_argument_group("a language model in vLLM")
    group.add_argument(
        "--vllm-url", action="append", default=[], metavar="URL",
        help="http://HOST:8000 of a vLLM server that runs DIR/language_model of `chatbridge export --vllm DIR` with "
        "--enable-prompt-embeds; --checkpoint then names DIR/front. It can be repeated: requests go to the server with "
        "the fewest",
    )  # fmt: skip
    group.add_argument(
        "--vllm-key-file", type=Path, metavar="FILE", help=f"the key that these servers want; default: that of {KEY}"
    )
    silent_s = int(VllmSettings.silent_s)
    help = f"longest time without a new token before a request fails (seconds; default {silent_s})"
    group.add_argument("--vllm-silent-s", type=whole(1, 86_400), default=silent_s, metavar="X", help=help)


def check_vllm(args: Namespace) -> None:
    """raises ConfigError with everything that is wrong with these flags"""
    problems = list(_problems(args))
    for check in (lambda: Servers(args.vllm_url), lambda: _key(args)) if args.vllm_url else ():
        try:
            check()
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)


def vllm_config(args: Namespace) -> Chat:
    """The settings of the exported folder. raises ConfigError"""
    if args.checkpoint is None:
        raise ConfigError([Problem("--checkpoint", "is missing", hint=FOLDER)])
    return front_config(Path(args.checkpoint), args.options)


def vllm_backend(args: Namespace) -> VllmEngine:
    """What answers the requests. raises ConfigError"""
    settings = VllmSettings(silent_s=float(args.vllm_silent_s))
    try:
        folder = Path(args.checkpoint)
        return open_backend(folder, args.vllm_url, args.options, args.gpu_id, _key(args), settings)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError([Problem("--vllm-url", str(error))]) from None


def _problems(args: Namespace) -> Iterator[Problem]:
    given = {"--vllm-key-file": args.vllm_key_file is not None}
    for name in (name for name, is_given in given.items() if is_given and not args.vllm_url):
        yield Problem(name, "has no effect without --vllm-url")
    if args.vllm_url and args.cfg_path is not None:
        yield Problem("--cfg-path", "has no effect with --vllm-url: the exported folder has the settings", hint=FOLDER)
    if not args.vllm_url and args.checkpoint is not None and is_front(Path(args.checkpoint)):
        message = f"{args.checkpoint} is for a language model that runs in vLLM"
        yield Problem("--vllm-url", f"is missing: {message}", hint="add --vllm-url http://HOST:8000")


def _key(args: Namespace) -> str | None:
    """raises ConfigError for a file that cannot be read or is empty"""
    if args.vllm_key_file is None:
        return os.environ.get(KEY) or None
    try:
        lines = args.vllm_key_file.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError([Problem("--vllm-key-file", f"{args.vllm_key_file} cannot be read: {reason}")]) from None
    if len(lines) != 1 or not lines[0].isascii():
        raise ConfigError([Problem("--vllm-key-file", f"{args.vllm_key_file}: expected one key, found {len(lines)}")])
    return lines[0]


__all__ = ["add_vllm", "check_vllm", "vllm_backend", "vllm_config"]
