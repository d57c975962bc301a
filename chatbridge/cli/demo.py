"""Chat with a model in the browser: `chatbridge demo --cfg-path eval_configs/x.yaml [--checkpoint runs/x]`."""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chatbridge.cli.arguments import add_check, add_gpu_id, add_options
from chatbridge.common import log
from chatbridge.common.errors import ConfigError, Problem
from chatbridge.common.extras import need
from chatbridge.experiment.build import plan_chat
from chatbridge.experiment.open import as_trained, config_of, open_chat, task_nodes
from chatbridge.serve.demo.examples import find_examples
from chatbridge.serve.demo.gradio_app import build_app, launch
from chatbridge.serve.engine import ChatEngine
from chatbridge.serve.moved_files import hint_moved_files

logger = log.get_logger("demo")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the page until Ctrl-C."""
    args = parse_arguments(arguments)
    log.setup()
    if args.cfg_path is not None:
        return show(args.cfg_path, args)
    args.options = as_trained(args.options)
    with hint_moved_files(f"python demo.py --checkpoint {args.checkpoint} --options {{}}"):
        return show(config_of(args.checkpoint), args)


def show(cfg_path: str | Path, args: Namespace) -> int:
    if args.check:
        return check(cfg_path, args)
    engine = ChatEngine.from_config(cfg_path, args.options, args.checkpoint, args.gpu_id)
    logger.info("\n".join(engine.about))
    app = build(engine, find_examples(task_nodes(cfg_path, args.options), engine.modalities))
    serve(app, args, engine.limits.max_file_mb)
    return 0


def check(cfg_path: str | Path, args: Namespace) -> int:
    """Check what needs no weights: settings, files, parts, gradio."""
    print(plan_chat(open_chat(cfg_path, args.options, args.checkpoint).config, args.gpu_id))
    with missing_package_reported():
        need("gradio", "the demo")
    return 0


def parse_arguments(arguments: Sequence[str] | None) -> Namespace:
    parser = argparse.ArgumentParser(description="Chat with a model about images, video and audio in the browser.")
    parser.add_argument("--cfg-path", metavar="X.yaml", help="the model: a file of eval_configs/ or train_configs/")
    parser.add_argument("--checkpoint", metavar="RUN", help="a run folder or step_* folder with the trained tensors")
    add_gpu_id(parser)
    add_check(parser)
    add_options(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 accepts other machines")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860")
    parser.add_argument("--share", action="store_true", help="also create a public address through gradio's servers")
    args = parser.parse_args(arguments)
    if args.cfg_path is None and args.checkpoint is None:
        parser.error("give --cfg-path, or --checkpoint with the folder of a run")
    return args


def build(engine: ChatEngine, examples: list) -> Any:
    with missing_package_reported():
        return build_app(engine, examples)


@contextmanager
def missing_package_reported() -> Iterator[None]:
    """Report a missing package as a ConfigError."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError([Problem("demo", str(error))]) from error


def serve(app: Any, args: Namespace, max_file_mb: float) -> None:
    try:
        launch(app, args.host, args.port, args.share, max_file_mb=max_file_mb)
    except OSError as error:
        hint = "choose another one, or leave --port out for the first free one"
        raise ConfigError([Problem(f"--port {args.port or ''}".strip(), str(error), hint=hint)]) from error
    except ValueError as error:
        raise ConfigError([Problem("demo", f"the page cannot be served: {error}")]) from error
