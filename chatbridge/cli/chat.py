"""Chat with a model in the terminal: `chatbridge chat --cfg-path eval_configs/x.yaml --image x.jpg --prompt "..."`."""

from __future__ import annotations

import io
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from chatbridge.cli.chat_arguments import options_of, parse_arguments, request_settings
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
from chatbridge.serve.media_refs import MediaRef, names_of, place_problem, problem_of
from chatbridge.serve.moved_files import hint_moved_files
from chatbridge.serve.request import PLAIN, RequestSettings
from chatbridge.serve.saved_conversations.conversation_file import LoadError
from chatbridge.serve.uploads.upload_parts import Attachment

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
    options, settings = checked(config, args)
    if args.check:
        print(plan_chat(config, args.gpu_id))
        return 0
    prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
    if prompt is not None and not prompt.strip() and not args.media:
        raise ConfigError([Problem("--prompt", "is empty, and there is no file to describe", hint="write a question")])
    engine = ChatEngine.from_settings(config, args.gpu_id)
    logger.info("\n".join(engine.about))
    with tempfile.TemporaryDirectory(prefix="chatbridge_chat_") as folder:
        dialogue = Dialogue(engine, Path(folder), options, settings)
        if args.load is not None:
            resume(dialogue, args.load, is_quiet=prompt is not None)
        for added in attach_all(dialogue, args.media):
            if prompt is None and not args.batch:
                tell(f"attached: {', '.join(names_of([added]))}" + (f" ({added.note})" if added.note else ""))
        saving = None if args.save is None else partial(dialogue.save, args.save)
        printer = AnswerPrinter(args.json or args.batch, DrawnFiles(args.drawings), saving)
        if args.batch:
            return answer_lines(dialogue, printer)
        if prompt is not None and not args.interactive:
            code = answer_once(dialogue, printer, prompt)
        else:
            code = converse(dialogue, printer, prompt)
        return code or int(printer.num_unsaved > 0)


def attach_all(dialogue: Dialogue, media: Sequence[MediaRef]) -> list[Attachment]:
    """The files of the command line. raises MediaError with the problem of each that cannot be read"""
    added, problems = [], []
    for one in media:
        try:
            added.append(dialogue.attach(one))
        except MediaError as error:
            problems.append(str(error))
    if problems:
        raise MediaError("\n".join(problems))
    return added


def resume(dialogue: Dialogue, file: Path, is_quiet: bool) -> None:
    """Continue a saved conversation. raises MediaError"""
    try:
        found = dialogue.load(file)
    except LoadError as error:
        raise MediaError(f"--load: {error}") from None
    if not is_quiet:
        tell("\n".join([f"loaded {found.id} with {len(found.session)} questions", *found.notes]))


def checked(config: Chat, args: Namespace) -> tuple[GenerateOptions, RequestSettings]:
    """The generation settings, stop strings and time limit. raises ConfigError with the mistakes in files, addresses
    and settings together"""
    problems = [problem for one in args.media if (problem := problem_of(one, tuple(config.model.routes))) is not None]
    options: GenerateOptions = config.evaluation.generation
    settings = PLAIN
    try:
        options = options_of(args, options)
    except ConfigError as error:
        problems += error.problems
    try:
        settings = request_settings(args)
    except ConfigError as error:
        problems += error.problems
    problems += saved_problems(args)
    if problems:
        raise ConfigError(problems)
    return options, settings


def saved_problems(args: Namespace) -> Iterator[Problem]:
    """What is wrong with the files of --load and --save, as far as it shows without opening them."""
    if args.load is not None and not args.load.expanduser().is_file():
        yield Problem("--load", f"there is no file {args.load}")
    if args.save is not None and args.save.suffix.lower() not in (".jsonl", ".zip"):
        yield Problem("--save", f"{args.save} is neither .jsonl nor .zip", hint="conversations are JSON lines")


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
