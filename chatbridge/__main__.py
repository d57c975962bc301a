"""`chatbridge COMMAND ...`, the same as `python -m chatbridge COMMAND ...`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from chatbridge.cli.dispatch import dispatch
from chatbridge.common.errors import run_command

COMMANDS = {  # name -> (module with main(arguments), its description)
    "train": ("chatbridge.cli.train", "train a model that a YAML file describes"),
    "cache": ("chatbridge.cli.cache", "store the outputs of frozen encoders once, for the training steps to read"),
    "plan": ("chatbridge.cli.plan", "predict memory, operations and hours of a training, without its files"),
    "chat": ("chatbridge.cli.chat", "chat with a model in the terminal, or ask it one question"),
    "demo": ("chatbridge.cli.demo", "chat with a model in the browser"),
    "compare": ("chatbridge.cli.compare", "compare two evaluations: where they differ, how sure that is, which items"),
    "data": ("chatbridge.cli.data.command", "check the data of a run, show a sample, count tokens, index shards"),
    "evaluate": ("chatbridge.cli.evaluate", "evaluate a trained model on tasks"),
    "export": ("chatbridge.cli.export", "write what a run trained for transformers, peft or another configuration"),
    "generate": ("chatbridge.cli.generate", "answer a file of questions without reference answers"),
    "migrate": (
        "chatbridge.cli.migrate.command",
        "rewrite a configuration of LAVIS, MiniGPT-4 or ChatBridge as one of ours",
    ),
    "report": ("chatbridge.cli.report", "write results, loss curves and examples of a run to one page"),
    "review": (
        "chatbridge.cli.review.command",
        "answers to a question file, scored by a judge (GPT-assisted evaluation)",
    ),
    "score": ("chatbridge.cli.score", "score a file of predictions, or an evaluation again, with any metrics"),
    "runs": ("chatbridge.cli.runs", "list training runs and compare their settings and curves"),
    "serve": ("chatbridge.cli.serve", "serve a model through the chat API of OpenAI"),
    "weights": ("chatbridge.cli.weights.command", "inspect, check, convert and download weights files"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command with the remaining arguments; the other commands are not imported."""
    return dispatch("chatbridge", COMMANDS, arguments, "COMMAND")


def run() -> NoReturn:
    """Run the console script `chatbridge`: mistakes of the user are printed as messages, without a traceback."""
    run_command(main)


if __name__ == "__main__":
    run()
