"""Arguments that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from chatbridge.datasets.remote_shards.permissions import add_allow_pipe

MOST = 10**9  # largest count of the command line


def add_options(parser: argparse.ArgumentParser, help: str = "settings that replace those of the file") -> None:
    """--options KEY=VALUE ..."""
    parser.add_argument("--options", nargs="+", default=[], metavar="KEY=VALUE", help=help)


def add_gpu_id(parser: argparse.ArgumentParser) -> None:
    """--gpu-id N"""
    text = "which GPU, counted from 0; default: the first one, or the CPU of a machine without a GPU"
    parser.add_argument("--gpu-id", type=int, metavar="N", help=text)


def add_check(parser: argparse.ArgumentParser) -> None:
    """--check"""
    parser.add_argument("--check", action="store_true", help="build everything without memory, print the plan, stop")


def add_chat_model(parser: argparse.ArgumentParser) -> None:
    """The model of the chat, the demo and the server: --cfg-path, --checkpoint, --gpu-id, --check, --options."""
    parser.add_argument("--cfg-path", metavar="X.yaml", help="the model: a file of eval_configs/ or train_configs/")
    parser.add_argument("--checkpoint", metavar="RUN", help="a run folder or step_* folder with the trained tensors")
    add_gpu_id(parser)
    add_check(parser)
    add_options(parser)


def require_chat_model(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End the command, which `add_chat_model` has arguments of, if no model is named."""
    if args.cfg_path is None and args.checkpoint is None:
        parser.error("give --cfg-path, or --checkpoint with the folder of a run")


def run_arguments(
    arguments: Sequence[str] | None, description: str, has_gpu_id: bool = False, epilog: str | None = None
) -> argparse.Namespace:
    """The command line of training and evaluation.

    has_gpu_id   also --gpu-id, for a command that usually runs as one process
    """
    parser = argparse.ArgumentParser(description=description, epilog=epilog)
    parser.add_argument("config", nargs="?", metavar="X.yaml", help="the configuration")
    parser.add_argument("--cfg-path", metavar="X.yaml", help="the same")
    add_options(parser)
    add_check(parser)
    add_allow_pipe(parser)
    if has_gpu_id:
        add_gpu_id(parser)
    args = parser.parse_args(arguments)
    if (args.config is None) == (args.cfg_path is None):
        parser.error("name one configuration, for example --cfg-path X.yaml")
    args.cfg_path = args.cfg_path or args.config
    return args


def add_config(parser: argparse.ArgumentParser) -> None:
    """The configuration, its options and --allow-pipe of the data commands."""
    parser.add_argument("config", type=Path, metavar="CFG", help="the YAML of a training or an evaluation")
    add_options(parser)
    add_allow_pipe(parser)


def add_model_config(parser: argparse.ArgumentParser) -> None:
    """The configuration and its options of the weights commands."""
    parser.add_argument("config", type=Path, nargs="?", help="a YAML with a model in it")
    parser.add_argument("--cfg-path", type=Path, help="the same, as train.py calls it")
    add_options(parser, "model.language.weights=...")


def whole(low: int, high: int = MOST) -> Callable[[str], int]:
    """The type of an argument: a whole number within these bounds."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected a whole number from {low} to {high}, got {text!r}")
        return value

    return number
