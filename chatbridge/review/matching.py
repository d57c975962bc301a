"""The cases of a review: question, image description, rule and two answers, matched by their ids.

The released script reads its files line by line in parallel, so one missing line compares answers to different
questions. Here every disagreement of the files is reported before anything is requested.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import TypeVar

from chatbridge.common.errors import DataError, nearest
from chatbridge.review.input_files import MOST_SHOWN, ImageContext, ReviewAnswer, ReviewQuestion, Rule, key_of
from chatbridge.review.request_text import request_text

T = TypeVar("T")
COCO_PREFIX = re.compile(r"COCO_(?:train|val|test)20\d\d_")
FALLBACK = "default"  # rule of categories without one, if allowed


@dataclass(frozen=True)
class Case:
    """One question with both answers; `number` counts the questions of the file from 1."""

    number: int
    question: ReviewQuestion
    answers: tuple[ReviewAnswer, ReviewAnswer]
    rule: Rule
    context: ImageContext | None = None

    @property
    def text(self) -> str:
        """The request text."""
        first, second = self.answers
        return request_text(self.question.text, self.context, self.rule, (first.text, second.text))


@dataclass(frozen=True)
class ReviewFiles:
    """The content of all files of a review; `names` are those of the two answer files, for messages.

    contexts   None: a review without image descriptions
    """

    questions: Sequence[ReviewQuestion]
    answers: tuple[Sequence[ReviewAnswer], Sequence[ReviewAnswer]]
    rules: Mapping[str, Rule]
    contexts: Mapping[str, ImageContext] | None
    names: tuple[str, str] = ("answers 1", "answers 2")


def match(files: ReviewFiles, common_only: bool = False, use_default_rule: bool = False) -> list[Case]:
    """The cases in the order of the questions.

    common_only        leave out ids that are not in all three files; else they are an error
    use_default_rule   the rule "default" for categories without one; else they are an error
    raises             DataError with every disagreement
    """
    first, second = ({key_of(one.question_id): one for one in answers} for answers in files.answers)
    problems = [] if common_only else list(_differences(files, (first, second)))
    cases: list[Case] = []
    unruled: dict[str, None] = {}  # categories
    for number, question in enumerate(files.questions, start=1):
        key = key_of(question.id)
        if key not in first or key not in second:
            continue
        rule = files.rules.get(question.category) or (files.rules.get(FALLBACK) if use_default_rule else None)
        if rule is None:
            unruled.setdefault(question.category)
        context, problem = _context_of(question, files.contexts)
        if problem:
            problems.append(problem)
        if rule is not None and not problem:
            cases.append(Case(number, question, (first[key], second[key]), rule, context))
    problems += [_without_rule(category, files.rules) for category in unruled]
    if not problems and not cases:
        problems = ["no question has an answer in both files"]
    if problems:
        raise DataError("the files of the review disagree:\n" + "\n".join(f"  {one}" for one in problems))
    return cases


def chunk(items: Sequence[T], num_chunks: int, index: int) -> Sequence[T]:
    """Part `index` of `num_chunks`; all but the last ones have ceil(len / num_chunks) items, a late one may be empty.

    raises   DataError for a number that is not one of a chunk
    """
    if not 0 <= index < num_chunks:
        raise DataError(f"--chunk-idx is {index}, expected 0 to {num_chunks - 1} with --num-chunks {num_chunks}")
    size = ceil(len(items) / num_chunks)
    return items[index * size : (index + 1) * size]


def _differences(files: ReviewFiles, answers: tuple[Mapping[str, ReviewAnswer], ...]) -> Iterator[str]:
    asked = [key_of(one.id) for one in files.questions]
    hint = "--common-only reviews the ids that all files have"
    for name, found in zip(files.names, answers, strict=True):
        known = set(asked)
        if lost := [key for key in asked if key not in found]:
            yield f"{name}: no answer to {_listed(lost, found)}; {hint}"
        if extra := [key for key in found if key not in known]:
            yield f"{name}: answers to {_listed(extra, asked)}, which the questions do not have; {hint}"


def _listed(ids: Sequence[str], others: Iterable[str]) -> str:
    """The number of questions and their first ids, each with the nearest id of the other file."""
    others = tuple(others)
    shown = []
    for name in ids[:MOST_SHOWN]:
        guess = _nearest_id(name, others)
        shown.append(f"{name!r}" + (f" (nearest: {guess!r})" if guess else ""))
    more = ", ..." if len(ids) > MOST_SHOWN else ""
    return f"{len(ids)} question{'s' if len(ids) > 1 else ''}, {', '.join(shown)}{more}"


def _nearest_id(name: str, others: Sequence[str]) -> str | None:
    """The id that was probably meant: of numbers the closest one, of texts the one with similar letters."""
    if not name.isdecimal():
        return nearest(name, others)
    numbers = [other for other in others if other.isdecimal()]
    return min(numbers, key=lambda other: abs(int(other) - int(name)), default=None)


def _context_of(
    question: ReviewQuestion, contexts: Mapping[str, ImageContext] | None
) -> tuple[ImageContext | None, str | None]:
    """The description of the image of a question, or why there is none. COCO's prefixes of file names do not count."""
    if contexts is None:
        return None, None
    image = question.media.get("image")
    if image is None:
        return None, f"question {question.id!r} has no image, but --context is given; review it with --no-context"
    if (found := contexts.get(image)) is not None:
        return found, None
    plain = {COCO_PREFIX.sub("", name): one for name, one in contexts.items()}
    if (found := plain.get(COCO_PREFIX.sub("", image))) is not None:
        return found, None
    guess = nearest(image, contexts)
    near = f"; nearest: {guess}" if guess else ""
    return None, f"question {question.id!r}: the context file does not describe image {image!r}{near}"


def _without_rule(category: str, rules: Mapping[str, Rule]) -> str:
    guess = nearest(category, rules)
    meant = f"; did you mean {guess}?" if guess else ";"
    return (
        f"category {category!r} has no rule; the rules are {', '.join(rules)}{meant} --default-rule uses {FALLBACK!r}"
    )
