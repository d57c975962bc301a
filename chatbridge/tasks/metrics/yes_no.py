"""Yes or no in a generated answer, as the official tool of MME reads it."""

from __future__ import annotations

VERDICTS = ("yes", "no", "other")
START = 4  # characters of an answer that are looked at


def yes_or_no(answer: str) -> str:
    """ "yes", "no" or "other": which word is within the first four characters, in any case; "yes" is looked for first.

    The rule is crude on purpose: "not" is a no, "know" too, and a blank before the word costs one of the characters.
    Source: eval_tool/calculation.py of MME (BradyFU/Awesome-Multimodal-Large-Language-Models), also in lmms-eval.
    """
    start = answer.lower()[:START]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


def one_line(answer: str) -> str:
    """The answer in one column of one line: every run of blanks, tabs and line breaks is a blank."""
    return " ".join(answer.split())
