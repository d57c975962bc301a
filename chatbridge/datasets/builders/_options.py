"""Answers to choose from, listed after a question in some of the draws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

OPTIONS_HEADER = "\n\nOptions: "


def is_drawn(share: float, rng: np.random.Generator) -> bool:
    """True in `share` of the draws; shares of 0 and 1 take no random number."""
    return share >= 1 or (share > 0 and float(rng.random()) < share)


def with_listed(question: str, options: Sequence[str], header: str) -> str:
    """The question, the header and the options with commas between them."""
    return f"{question.rstrip()}{header}{', '.join(options)}"


def distinct(answers: Sequence[str]) -> tuple[str, ...]:
    """Every answer once, as it is written first; answers that differ in case or outer blanks only are one."""
    found: dict[str, str] = {}
    for answer in answers:
        found.setdefault(answer.strip().lower(), answer.strip())
    return tuple(found.values())


def majority(answers: Sequence[str]) -> str:
    """The most frequent answer, of equally frequent ones the first."""
    return max(answers, key=answers.count)


def shuffled(options: Sequence[str], rng: np.random.Generator) -> tuple[str, ...]:
    """The options in random order: the order of annotators would tell the usual answer."""
    return tuple(options[int(at)] for at in rng.permutation(len(options)))
