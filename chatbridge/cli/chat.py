"""Chat with a model in the terminal: `chatbridge chat --cfg-path eval_configs/x.yaml --image x.jpg --prompt "..."`."""

from __future__ import annotations

import io
import sys
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from chatbridge.cli.chat_arguments import options_of, parse_arguments
from chatbridge.cli.chat_loop import ChatLoop
from chatbridge.cli.chat_terminal import AnswerPrinter, tell
from chatbridge.common import log
from chatbridge.common.errors import ConfigError, MediaError, Problem
from chatbridge.experiment.build import plan_chat
from chatbridge.experiment.open import as_trained, config_of, open_chat
from chatbridge.experiment.roots import Chat
from chatbridge.models.language import GenerateOptions
from chatbridge.serve.dialogue import Dialogue
from chatbridge.serve.drawn_files import DrawnFiles
from chatbridge.serve.engine import ChatEngine
from chatbridge.serve.media_refs import names_of, place_problem, problem_of
from chatbridge.serve.moved_files import hint_moved_files

logger = log.get_logger("chat")


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer; returns the exit code."""
    args = parse_arguments(arguments)
    log.setup()
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # bytes that are not text do not end a script or a batch
    if args.cfg_path is not None:
        return chat(args.cfg_path, args)
    args.options = as_trained(args.options)
    with hint_moved_files(f"chatbridge chat --checkpoint {args.checkpoint} --options {{}}"):
        return chat(config_of(args.checkpoint), args)


def chat(cfg_path: str | Path, args: Namespace) -> int:
    """Everything that can be wrong is reported before the weights are read."""
    try:
        config = open_chat(cfg_path, args.options, args.checkpoint).config
    except ConfigError as error:
        raise ConfigError([*error.problems, *filter(None, map(place_problem, args.media))]) from None
    options = checked(config, args)
    if args.check:
        print(plan_chat(config, args.gpu_id))
        return 0
    prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
    if prompt is not None and not prompt.strip() and not args.media:
        raise ConfigError([Problem("--prompt", "is empty, and there is no file to describe", hint="write a question")])
    engine = ChatEngine.from_settings(config, args.gpu_id)
    logger.info("\n".join(engine.about))
    with tempfile.TemporaryDirectory(prefix="chatbridge_chat_") as folder:
        dialogue = Dialogue(engine, Path(folder), options)
        for one in args.media:
            added = dialogue.attach(one)  # a file that cannot be read ends the command: MediaError
            if prompt is None and not args.batch:
                tell(f"attached: {', '.join(names_of([added]))}" + (f" ({added.note})" if added.note else ""))
        printer = AnswerPrinter(args.json or args.batch, DrawnFiles(args.drawings))
        if args.batch:
            return answer_lines(dialogue, printer)
        if prompt is not None and not args.interactive:
            return answer_once(dialogue, printer, prompt)
        return converse(dialogue, printer, prompt)


def checked(config: Chat, args: Namespace) -> GenerateOptions:
    """The generation settings. raises ConfigError with the mistakes in files, addresses and settings together"""
    problems = [problem for one in args.media if (problem := problem_of(one, tuple(config.model.routes))) is not None]
    options: GenerateOptions = config.evaluation.generation
    try:
        options = options_of(args, options)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    return options


def answer_once(dialogue: Dialogue, printer: AnswerPrinter, prompt: str) -> int:
    """Print the answer to one question; Ctrl-C ends the command."""
    turn = printer.show(dialogue.ask(prompt))
    return 0 if turn is not None and turn.problem is None else 1


def answer_lines(dialogue: Dialogue, printer: AnswerPrinter) -> int:
    """Print a JSON line for each line of stdin, which is a conversation of its own about the same files."""
    files, turns = dialogue.pending, []
    for line in filter(str.strip, sys.stdin):
        dialogue.reset()
        dialogue.pending = files
        turns.append(printer.show(dialogue.ask(line)))
    if not turns:
        raise MediaError("--batch: stdin has no line with a question")
    return int(any(turn is None or turn.problem is not None for turn in turns))


def converse(dialogue: Dialogue, printer: AnswerPrinter, prompt: str | None) -> int:
    """A conversation until /quit or the end of stdin. A script (stdin is not a terminal) with a failure returns 1."""
    loop = ChatLoop(dialogue, printer)
    is_script = not sys.stdin.isatty()
    if prompt is not None:
        loop.question(prompt)
    elif not is_script:
        tell("write a question; /help lists the commands")
    loop.run()
    if is_script and not loop.num_questions:
        raise MediaError("stdin has no question; give --prompt, or a question per line")
    return int(is_script and loop.failures > 0)
