"""Chat with a model in the browser: `chatbridge demo --cfg-path eval_configs/x.yaml [--checkpoint runs/x]`."""

from __future__ import annotations

import argparse
import errno
import os
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatbridge.cli.arguments import add_chat_model, require_chat_model, whole
from chatbridge.common import log
from chatbridge.common.errors import ConfigError, Problem
from chatbridge.common.extras import need
from chatbridge.config.merge import load
from chatbridge.config.registry import RESOLVED
from chatbridge.experiment.build import plan_chat
from chatbridge.experiment.open import as_trained, config_of, open_chat, task_nodes
from chatbridge.experiment.roots import Chat
from chatbridge.serve.demo.answering import Side
from chatbridge.serve.demo.examples import DemoExample, find_examples
from chatbridge.serve.demo.gradio_app import build_app
from chatbridge.serve.demo.launch import Login, launch, logins_of
from chatbridge.serve.engine import ChatEngine
from chatbridge.serve.moved_files import hint_moved_files
from chatbridge.serve.saved_conversations.feedback import Feedback

FEEDBACK = "feedback.jsonl"
logger = log.get_logger("demo")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the page until Ctrl-C."""
    args = parse_arguments(arguments)
    log.setup()
    return show(args)


@dataclass(frozen=True)
class Model:
    """Where a model of the page comes from."""

    cfg_path: Path
    options: Sequence[str]
    checkpoint: str | None
    gpu_id: int | None
    moved: str = ""  # the command that names another location of its files, where they are those of a run

    @classmethod
    def named(
        cls, cfg_path: str | None, checkpoint: str | None, options: Sequence[str], gpu_id: int | None, moved: str
    ) -> Model:
        """
        moved    see the field; it counts where only the checkpoint is given
        raises   ConfigError for a folder that does not belong to a run
        """
        if cfg_path is not None:
            return cls(Path(cfg_path), options, checkpoint, gpu_id)
        return cls(config_of(checkpoint or ""), as_trained(options), checkpoint, gpu_id, moved)

    @property
    def name(self) -> str:
        """Its title on the page: the YAML, or the run."""
        return str(self.checkpoint or self.cfg_path)

    @property
    def folder(self) -> Path:
        """Of its run, for the thumbs: the run itself, or run.output_dir of the YAML."""
        if self.checkpoint is not None and (Path(self.checkpoint) / RESOLVED).is_file():
            return Path(self.checkpoint)
        run = load(self.cfg_path, self.options)[0].get("run")
        output = run.get("output_dir") if isinstance(run, Mapping) else None
        return Path(output) if output else Path()

    def config(self) -> Chat:
        """raises ConfigError with everything that is wrong"""
        with self.reported():
            return open_chat(self.cfg_path, self.options, self.checkpoint).config

    def engine(self, config: Chat) -> ChatEngine:
        """raises ConfigError with everything that is wrong"""
        with self.reported():
            return ChatEngine.from_settings(config, self.gpu_id)

    def reported(self) -> AbstractContextManager[None]:
        """Problems say how to name another location of a run's files."""
        return hint_moved_files(self.moved) if self.moved else nullcontext()


def show(args: Namespace) -> int:
    models = chosen(args)
    configs = opened(models)
    logins, feedback = logins_from(args.auth), feedback_of(args, models[0])
    if args.check:
        return check(models, configs)
    engines = [one.engine(config) for one, config in zip(models, configs, strict=True)]
    sides = [Side(engine, one.name if len(models) > 1 else "") for one, engine in zip(models, engines, strict=True)]
    for side in sides:
        logger.info("\n".join((*([side.name] if side.name else []), *side.engine.about)))
    examples = find_examples(task_nodes(models[0].cfg_path, models[0].options), engines[0].modalities)
    app = build(sides, examples, feedback)
    if args.share and not logins:
        logger.warning("--share without --auth: everybody who has the address can use this model")
    serve(app, args, min(engine.limits.max_file_mb for engine in engines), logins)
    return 0


def chosen(args: Namespace) -> list[Model]:
    """The model, and the one of --compare: a YAML, or the folder of a run."""
    moved = f"python demo.py --checkpoint {args.checkpoint} --options {{}}"
    models = [Model.named(args.cfg_path, args.checkpoint, args.options, args.gpu_id, moved)]
    if args.compare is not None:
        gpu_id = args.gpu_id if args.compare_gpu_id is None else args.compare_gpu_id
        is_run = Path(args.compare).is_dir()
        cfg_path, checkpoint = (None, args.compare) if is_run else (args.compare, None)
        moved = f"--compare {args.compare} --compare-options {{}}"
        models.append(Model.named(cfg_path, checkpoint, args.compare_options, gpu_id, moved))
    return models


def opened(models: Sequence[Model]) -> list[Chat]:
    """The settings of all models. raises ConfigError with the problems of all of them"""
    configs, problems = [], []
    for one in models:
        try:
            configs.append(one.config())
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return configs


def logins_from(given: str | None) -> tuple[Login, ...]:
    """Who may log in. raises ConfigError"""
    try:
        return logins_of(given) if given is not None else ()
    except (ValueError, OSError) as error:
        hint = "--auth user:password, or --auth FILE with one such line for each user"
        raise ConfigError([Problem("--auth", str(error), hint=hint)]) from error


def feedback_of(args: Namespace, model: Model) -> Feedback | None:
    """Where thumbs are written: --feedback, else a file in the folder of the run. raises ConfigError"""
    if args.no_feedback:
        return None
    try:
        feedback = Feedback(args.feedback or model.folder / FEEDBACK)
        if args.feedback is not None and not args.check:
            _check_writable(feedback.file)
    except ValueError as error:
        raise ConfigError([Problem("--feedback", str(error))]) from error
    except OSError as error:
        message = f"{args.feedback} cannot be written: {error.strerror or error}"
        raise ConfigError([Problem("--feedback", message, hint="name another file, or --no-feedback")]) from error
    return feedback


def _check_writable(file: Path) -> None:
    """raises OSError where votes could not be written; makes the folder"""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise PermissionError(errno.EACCES, "no permission")


def check(models: Sequence[Model], configs: Sequence[Chat]) -> int:
    """Check what needs no weights: settings, files, parts, gradio."""
    for one, config in zip(models, configs, strict=True):
        if len(models) > 1:
            print(f"{one.name}:")
        print(plan_chat(config, one.gpu_id))
    with missing_package_reported():
        need("gradio", "the demo")
    return 0


def parse_arguments(arguments: Sequence[str] | None) -> Namespace:
    parser = argparse.ArgumentParser(description="Chat with a model about images, video and audio in the browser.")
    add_chat_model(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 accepts other machines")
    parser.add_argument("--port", type=whole(1, 65_535), metavar="N", help="default: the first free one from 7860")
    parser.add_argument("--share", action="store_true", help="also create a public address through gradio's servers")
    text = "user:password, or a file with one such line for each user: only they can open the page"
    parser.add_argument("--auth", metavar="USER:PASSWORD|FILE", help=text)
    text = "where thumbs are written, JSON lines that `records` trains on; default: feedback.jsonl of the run's folder"
    thumbs = parser.add_mutually_exclusive_group()
    thumbs.add_argument("--feedback", type=Path, metavar="FILE.jsonl", help=text)
    thumbs.add_argument("--no-feedback", action="store_true", help="a page without thumbs")
    text = "a second model, which answers the same questions beside the first one"
    parser.add_argument("--compare", metavar="X.yaml|RUN", help=text)
    text = "settings that replace those of --compare"
    parser.add_argument("--compare-options", nargs="+", default=[], metavar="KEY=VALUE", help=text)
    parser.add_argument("--compare-gpu-id", type=int, metavar="N", help="GPU of --compare; default: that of --gpu-id")
    args = parser.parse_args(arguments)
    require_chat_model(parser, args)
    if args.compare is None and (args.compare_options or args.compare_gpu_id is not None):
        parser.error("--compare-options and --compare-gpu-id belong to --compare, which is not given")
    return args


def build(sides: Sequence[Side], examples: list[DemoExample], feedback: Feedback | None) -> Any:
    first, other = sides[0], sides[1] if len(sides) > 1 else None
    with missing_package_reported():
        return build_app(first.engine, examples, name=first.name, other=other, feedback=feedback)


@contextmanager
def missing_package_reported() -> Iterator[None]:
    """Report a missing package as a ConfigError."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError([Problem("demo", str(error))]) from error


def serve(app: Any, args: Namespace, max_file_mb: float, logins: Sequence[Login] = ()) -> None:
    try:
        launch(app, args.host, args.port, args.share, max_file_mb=max_file_mb, logins=logins)
    except OSError as error:
        hint = "choose another one, or leave --port out for the first free one"
        raise ConfigError([Problem(f"--port {args.port or ''}".strip(), str(error), hint=hint)]) from error
    except ValueError as error:
        raise ConfigError([Problem("demo", f"the page cannot be served: {error}")]) from error
