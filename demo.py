"""Talk with a model in the browser: `python demo.py --cfg-path eval_configs/x.yaml [--checkpoint runs/x]`."""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from chatbridge.common import log
from chatbridge.common.errors import ConfigError, Problem, run_command
from chatbridge.serve.engine import ChatEngine
from chatbridge.serve.examples import find_examples
from chatbridge.serve.gradio_app import build_app, launch
from chatbridge.serve.settings import config_of, task_nodes

logger = log.get_logger("demo")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until Ctrl-C."""
    asked = parse_arguments(arguments)
    log.setup()
    cfg_path = asked.cfg_path or config_of(asked.checkpoint)
    engine = ChatEngine.from_config(cfg_path, asked.options, asked.checkpoint)
    logger.info("\n".join(engine.about))
    serve(build(engine, find_examples(task_nodes(cfg_path, asked.options), engine.modalities)), asked)
    return 0


def parse_arguments(arguments: Sequence[str] | None) -> Namespace:
    parser = argparse.ArgumentParser(description="Talk with a model about pictures, videos and sounds in the browser.")
    parser.add_argument("--cfg-path", metavar="X.yaml", help="the model: a file of eval_configs/ or train_configs/")
    parser.add_argument("--checkpoint", metavar="RUN", help="a run folder or step_* folder with the trained tensors")
    parser.add_argument(
        "--options", nargs="+", default=[], metavar="KEY=VALUE", help="settings that replace those of the file"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets other machines in")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860")
    parser.add_argument("--share", action="store_true", help="also make a public address through gradio's servers")
    asked = parser.parse_args(arguments)
    if asked.cfg_path is None and asked.checkpoint is None:
        parser.error("give --cfg-path, or --checkpoint with the folder of a run")
    return asked


def build(engine: ChatEngine, examples: list) -> Any:
    try:
        return build_app(engine, examples)
    except ModuleNotFoundError as error:
        raise ConfigError([Problem("demo", str(error))]) from error


def serve(app: Any, asked: Namespace) -> None:
    try:
        launch(app, asked.host, asked.port, asked.share)
    except OSError as error:
        hint = "choose another one, or leave --port out for the first free one"
        raise ConfigError([Problem(f"--port {asked.port or ''}".strip(), str(error), hint=hint)]) from error
    except ValueError as error:
        raise ConfigError([Problem("demo", f"the page cannot be served: {error}")]) from error


if __name__ == "__main__":
    run_command(main)
