"""What somebody scores who neither sees nor hears, but knows the questions and how often each answer is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from chatbridge.tasks import Prediction
from chatbridge.tasks.metrics.text import normalise

KIND = "kind"  # field of the annotation that says what a question asks for
JOINT = " and "  # between what is seen and what is heard in the answer to a joint question


def chance(rows: Sequence[Prediction]) -> float:
    """Accuracy of always giving the most frequent right answer of each kind of question.

    Kinds weigh as they occur. A row counts for every reference it has. Captions, whose references are free, count by
    the words they must name: the guess is the combination that is right most often.
    """
    return _share(rows, lambda row: (kind_of(row),))


def chance_by_kind(rows: Sequence[Prediction]) -> dict[str, float]:
    """kind -> the same within it; empty when the questions have no kinds."""
    kinds = sorted({kind_of(row) for row in rows} - {""})
    return {kind: chance([row for row in rows if kind_of(row) == kind]) for kind in kinds}


def chance_knowing(rows: Sequence[Prediction], part: int) -> float | None:
    """The same for somebody who knows one half of each answer "seen and heard": what is left to guess is the other.

    part     0: knows what is seen, 1: knows what is heard
    returns  None when not all answers have two halves
    """
    if not rows or not all(any(JOINT in text for text in row["references"]) for row in rows):
        return None
    return _share(rows, lambda row: (kind_of(row), _half(row, part)))


def kind_of(row: Prediction) -> str:
    return str(row["details"].get(KIND, ""))


def right_answers(row: Prediction) -> set[str]:
    """Normalised; for captions with words that must be named, those words in one string."""
    if words := row["details"].get("must_name"):
        return {" / ".join(normalise(word if isinstance(word, str) else word[0]) for word in words)}
    return {normalise(text) for text in row["references"]}


def _half(row: Prediction, part: int) -> str:
    """What is seen, or what is heard without the verdict that may follow it: "up and rising tone, yes"."""
    text = next(text for text in row["references"] if JOINT in text)
    return normalise(text.split(JOINT, 1)[part].partition(",")[0])


def _share(rows: Sequence[Prediction], group: Callable[[Prediction], tuple[str, ...]]) -> float:
    if not rows:
        return 0.0
    groups: dict[tuple[str, ...], list[Prediction]] = {}
    for row in rows:
        groups.setdefault(group(row), []).append(row)
    return sum(_most_frequent(right_answers(row) for row in members) for members in groups.values()) / len(rows)


def _most_frequent(answers: Iterable[set[str]]) -> int:
    counts = Counter(text for texts in answers for text in texts)
    return max(counts.values(), default=0)
