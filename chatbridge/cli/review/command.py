"""`chatbridge review ACTION ...`: dispatch to the actions."""

from __future__ import annotations

from collections.abc import Sequence

from chatbridge.cli.dispatch import dispatch
from chatbridge.common.errors import DataError

ACTIONS = {  # name -> (module with main(arguments), what it does)
    "answers": ("chatbridge.cli.review.answers", "answer the questions of a review file with a trained model"),
    "judge": (
        "chatbridge.cli.review.judge",
        "let a judge compare two files of answers, by any OpenAI-compatible server",
    ),
    "grade": ("chatbridge.cli.review.grade", "let a judge grade each answer of a file of predictions"),
    "summary": ("chatbridge.cli.review.summary", "mean scores per category of judged answers"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one action; the others are not imported."""
    try:
        return dispatch("chatbridge review", ACTIONS, arguments, "ACTION")
    except ModuleNotFoundError as error:
        if error.name == "openai":  # a message with the extra to install, not a traceback
            raise DataError(str(error)) from None
        raise
