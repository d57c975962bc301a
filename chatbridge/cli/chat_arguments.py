"""The arguments of `chatbridge chat`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chatbridge.cli.arguments import add_chat_model, require_chat_model
from chatbridge.common.errors import ConfigError, Problem
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.models.language import GenerateOptions
from chatbridge.models.language.answer_options import changed
from chatbridge.serve.media_refs import MediaRef
from chatbridge.serve.request import RequestSettings

DESCRIPTION = """Chat with a model in the terminal: one question with --prompt, or a conversation without it.

  chatbridge chat --cfg-path eval_configs/x.yaml --image dog.jpg --prompt "What is this?"
  chatbridge chat --checkpoint runs/x                  a conversation; /help lists its commands
  chatbridge chat --cfg-path x.yaml < script.txt       one turn or command per line
  chatbridge chat --cfg-path x.yaml --batch --image dog.jpg < questions.txt"""
EPILOG = """Answers go to stdout, all other messages to stderr. Ctrl-C stops an answer; the conversation goes on.
exit code: 0 answered; 1 a question could not be answered; 2 invalid arguments, configuration or files"""
SETTINGS: dict[str, tuple[type, str]] = {  # the defaults are those of evaluation.generation
    "max-new-tokens": (int, "length of the longest answer"),
    "min-new-tokens": (int, "length of the shortest answer"),
    "temperature": (float, "sample with this temperature; 0: the most likely answer"),
    "top-p": (float, "when sampling: from the smallest set of tokens with this mass"),
    "top-k": (int, "when sampling: from the k most likely tokens; 0: all"),
    "num-beams": (int, "beam search with so many beams; 1: none"),
    "repetition-penalty": (float, "above 1: fewer repetitions"),
    "length-penalty": (float, "with beams: above 1 favors long answers"),
    "max-drawings": (int, "most images that an answer draws"),
    "seed": (int, "of sampling: the same answers each time"),
}


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; `media` is a list of MediaRef in the order of the flags."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="chatbridge chat", description=DESCRIPTION, epilog=EPILOG, formatter_class=formatter
    )
    parser.set_defaults(media=[])
    add_chat_model(parser)
    _add_question(parser)
    settings = parser.add_argument_group("generation", "replace those of evaluation.generation in the file")
    for name, (kind, text) in SETTINGS.items():
        settings.add_argument(f"--{name}", type=kind, metavar="X" if kind is float else "N", help=text)
    settings.add_argument("--stop", nargs="+", default=[], metavar="TEXT", help="an answer ends before any of these")
    settings.add_argument("--time-limit", type=float, metavar="S", help="seconds after which an answer is ended")
    args = parser.parse_args(arguments)
    if args.batch and (args.load is not None or args.save is not None):
        parser.error("--batch asks each question in a conversation of its own; leave out --load and --save")
    require_chat_model(parser, args)
    if args.batch and (args.prompt is not None or args.interactive):
        parser.error("--batch reads its questions from stdin; leave out --prompt and --interactive")
    if args.prompt == "-" and args.interactive:
        parser.error("--prompt - reads all of stdin, which --interactive needs")
    return args


def _add_question(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("question")
    group.add_argument("--prompt", metavar="TEXT", help="the question: answer it and exit; -: read it from stdin")
    group.add_argument("--interactive", action="store_true", help="continue as a conversation after --prompt")
    group.add_argument("--batch", action="store_true",
        help="every line of stdin is a question of its own about the same files; answers are JSON lines")  # fmt: skip
    group.add_argument("--json", action="store_true",
        help="a JSON object per answer: prompt, media, answer, drawings, tokens, is_complete; or problem")  # fmt: skip
    group.add_argument("--drawings", type=Path, default=Path("drawings"), metavar="FOLDER",
        help="where images that the model draws are saved (default: %(default)s)")  # fmt: skip
    group.add_argument("--load", type=Path, metavar="FILE",
        help="continue the last conversation of a saved file (.jsonl, .zip)")  # fmt: skip
    group.add_argument("--save", type=Path, metavar="FILE.jsonl",
        help="save the conversation after every answer, with copies of its files")  # fmt: skip
    for one in MODALITIES:
        text = f"{one.noun} for the first question: a path or an http(s) address"
        group.add_argument(f"--{one.name.replace('_', '-')}", nargs="+", action=_AddMedia, const=one.name,
            dest="media", metavar="FILE", help=text)  # fmt: skip
    group.add_argument("--media", nargs="+", action=_AddMedia, const="=", dest="media", metavar="MODALITY=FILE",
        help="the same for any modality, those of plugins included")  # fmt: skip
    group.add_argument("--attach", nargs="+", action=_AddMedia, dest="media", metavar="FILE",
        help="its content decides the modality; a video brings its audio track, given an audio route")  # fmt: skip


class _AddMedia(argparse.Action):
    """Appends MediaRefs; `const` is their modality, "=" where each value names its own, None where none does."""

    def __init__(self, *args: Any, const: str | None = None, **more: Any) -> None:
        super().__init__(*args, **more)
        self.const = const

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        found = []
        for value in values:
            modality, sign, ref = value.partition("=") if self.const == "=" else (self.const, "=", value)
            if not sign or not ref:
                parser.error(f"{option_string}: expected {self.metavar}, got {value!r}")
            found.append(MediaRef(ref, modality))
        namespace.media = [*namespace.media, *found]


def options_of(args: argparse.Namespace, default: GenerateOptions) -> GenerateOptions:
    """The generation settings of the file with those of the command line. raises ConfigError"""
    given = {_key(name): value for name in SETTINGS if (value := getattr(args, _key(name))) is not None}
    try:
        return changed(default, given)
    except (TypeError, ValueError) as error:
        message = str(error).removeprefix("GenerateOptions: ")
        name = next((key for key in given if message.startswith(key)), "")
        flag = f"--{name.replace('_', '-')}" if name else "generation"
        raise ConfigError([Problem(flag, message.removeprefix(name).strip())]) from None


def request_settings(args: argparse.Namespace) -> RequestSettings:
    """The stop strings and the time limit. raises ConfigError"""
    try:
        return RequestSettings(stop=tuple(args.stop), time_limit_s=args.time_limit)
    except ValueError as error:
        flag = "--stop" if str(error).startswith("stop") else "--time-limit"
        message = str(error).removeprefix("stop: ").replace("time_limit_s is", "is")
        raise ConfigError([Problem(flag, message)]) from None


def _key(flag: str) -> str:
    return flag.replace("-", "_")
