"""Chance level: the score of a guess that uses the frequencies of the reference answers, but no media."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from chatbridge.report.runs import TaskRun
from chatbridge.tasks import Prediction
from chatbridge.tasks.metrics.text import normalise
from chatbridge.tasks.mmbench import SHARED as CIRCULAR_ACCURACY

AND = " and "  # between the parts of an answer such as "circle and rising tone"
MUST_NAME = "must_name"
Group = Callable[[Prediction], tuple[str, ...]]


def chance_of(task: TaskRun, rows: Sequence[Prediction] | None = None) -> float:
    """Chance level of a task, or of some of its rows."""
    return chance(guessed_rows(task, rows), task.kind_field, task.must_name)


def guessed_rows(task: TaskRun, rows: Sequence[Prediction] | None = None) -> Sequence[Prediction]:
    """The rows that one guess each is made for: of a circular evaluation one per question, for which a guess is correct
    if it is for every rotation of its options. `rows`: some of the task's rows; None: all."""
    rows = task.rows if rows is None else rows
    if task.metric != CIRCULAR_ACCURACY:
        return rows
    questions: dict[str, list[Prediction]] = {}
    for row in rows:
        questions.setdefault(str(row["details"].get("base", row["id"])), []).append(row)
    return [
        {
            **copies[0],
            "options": None,
            "references": sorted(set.intersection(*(set(row["references"]) for row in copies))),
        }
        for copies in questions.values()
    ]


def blind_choice(rows: Sequence[Prediction]) -> float:
    """Mean of 1/n over questions with n options each, 0 for one without options."""
    counts = [len(options) for row in rows if isinstance(options := row.get("options"), dict) and options]
    return sum(1 / count for count in counts) / len(rows) if counts else 0.0


def chance(rows: Sequence[Prediction], kind_field: str | None = None, must_name: str = MUST_NAME) -> float:
    """Accuracy of always giving the most frequent reference of each kind of question; of a kind with options at least
    that of choosing blindly among them, since the text of a right option may occur once only.

    A kind counts by the number of its rows, and a row counts for each of its references. The references of captions
    are free text, so captions count by the words that they must name: the guess is the most frequent combination.

    kind_field   field of the annotation with the kind of question; None: all questions are of one kind
    must_name    field of the annotation with the words a caption must name
    """
    kinds: dict[str, list[Prediction]] = {}
    for row in rows:
        kinds.setdefault(kind_of(row, kind_field), []).append(row)
    guesses = (max(_share(one, lambda _: (), must_name), blind_choice(one)) * len(one) for one in kinds.values())
    return sum(guesses) / len(rows) if rows else 0.0


def chance_by_kind(rows: Sequence[Prediction], kind_field: str | None) -> dict[str, float]:
    """kind -> chance level within it; empty when the questions have no kinds."""
    kinds = sorted({kind_of(row, kind_field) for row in rows} - {""})
    return {kind: chance([row for row in rows if kind_of(row, kind_field) == kind], kind_field) for kind in kinds}


def chance_knowing(rows: Sequence[Prediction], kind_field: str | None, part: int) -> float | None:
    """Chance level when one part of each answer "X and Y" is known and the other is guessed.

    part     index of the known part
    returns  None when an answer does not have two parts
    """
    if not rows or not all(any(AND in text for text in row["references"]) for row in rows):
        return None
    return _share(rows, lambda row: (kind_of(row, kind_field), _part(row, part)))


def kind_of(row: Prediction, kind_field: str | None) -> str:
    return str(row["details"].get(kind_field, "")) if kind_field else ""


def correct_answers(row: Prediction, must_name: str = MUST_NAME) -> set[str]:
    """The normalised references; of a caption with words that it must name, those words as one string."""
    if words := row["details"].get(must_name):
        return {" / ".join(normalise(word if isinstance(word, str) else word[0]) for word in words)}
    return {normalise(text) for text in row["references"]}


def _part(row: Prediction, part: int) -> str:
    """One part of an answer, without what follows a comma: "rising tone" of "up and rising tone, yes"."""
    text = next(text for text in row["references"] if AND in text)
    return normalise(text.split(AND, 1)[part].partition(",")[0])


def _share(rows: Sequence[Prediction], group: Group, must_name: str = MUST_NAME) -> float:
    if not rows:
        return 0.0
    groups: dict[tuple[str, ...], list[Prediction]] = {}
    for row in rows:
        groups.setdefault(group(row), []).append(row)
    counts = (_most_frequent(correct_answers(row, must_name) for row in members) for members in groups.values())
    return sum(counts) / len(rows)


def _most_frequent(answers: Iterable[set[str]]) -> int:
    counts = Counter(text for texts in answers for text in texts)
    return max(counts.values(), default=0)
