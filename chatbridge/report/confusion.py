"""Confusion matrices: correct answers against given answers, per kind of question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from chatbridge.report.chance import AND, kind_of
from chatbridge.tasks import Prediction
from chatbridge.tasks.base import confusion
from chatbridge.tasks.metrics.text import normalise

LARGEST = 12  # answers in a matrix; rarer ones share a row and a column
SPLIT_FROM = 7  # distinct correct answers from which each part of an answer gets a matrix of its own
OTHER = "(other)"
Pairs = list[tuple[str, str]]  # (correct answer, given answer)


@dataclass(frozen=True)
class Confusion:
    """The matrix of one kind of question: correct answer -> given answer -> count, and the order of the columns."""

    kind: str  # "" = the questions have no kinds
    table: dict[str, dict[str, int]]
    columns: tuple[str, ...]


def confusions(rows: Sequence[Prediction], kind_field: str | None, parts: Sequence[str] = ()) -> list[Confusion]:
    """A matrix per kind. Columns are the answers that are correct for some question, then other given answers; rare
    answers and whole sentences share the column "(other)".

    kind_field   field of the annotation with the kind of question; None: all questions are of one kind
    parts        names of the parts of an answer "X and Y"; with many distinct answers each part gets its own matrix
    """
    kinds: dict[str, Pairs] = {}
    for row in rows:
        if row["references"]:
            kinds.setdefault(kind_of(row, kind_field), []).append((row["references"][0], row["prediction"]))
    return [_matrix(name, pairs) for kind in sorted(kinds) for name, pairs in _split(kind, kinds[kind], parts)]


def _split(kind: str, pairs: Pairs, parts: Sequence[str]) -> list[tuple[str, Pairs]]:
    """The kind with its pairs, or each part of its answers."""
    whole = [(normalise(correct), normalise(given)) for correct, given in pairs]
    is_small = len({correct for correct, _ in whole}) < SPLIT_FROM
    if is_small or not parts or not all(AND in correct for correct, _ in pairs):
        return [(kind, whole)]
    return [(f"{kind}: {name}", [_part(pair, at) for pair in pairs]) for at, name in enumerate(parts[:2])]


def _part(pair: tuple[str, str], at: int) -> tuple[str, str]:
    correct, given = pair
    found = given.split(AND, 1)
    return normalise(correct.split(AND, 1)[at]), normalise(found[at]) if at < len(found) else OTHER


def _matrix(kind: str, pairs: Iterable[tuple[str, str]]) -> Confusion:
    pairs = list(pairs)
    corrects, givens = Counter(correct for correct, _ in pairs), Counter(given for _, given in pairs)
    names = [name for name, _ in corrects.most_common(LARGEST)]
    longest = max(map(len, names))  # a much longer answer is a sentence or a repetition, not another short answer
    others = [name for name, _ in givens.most_common() if name not in names and len(name) <= longest + 8]
    names += others[: LARGEST - len(names)]
    table = confusion((_shown(correct, names), _shown(given, names)) for correct, given in pairs)
    rows = sorted(table, key=_other_last)
    given = {name for line in table.values() for name in line}
    columns = (
        [name for name in rows if name != OTHER] + sorted(given - set(rows) - {OTHER}) + [OTHER] * (OTHER in given)
    )
    return Confusion(kind, {name: table[name] for name in rows}, tuple(columns))


def _shown(answer: str, names: Sequence[str]) -> str:
    return answer if answer in names else OTHER


def _other_last(name: str) -> tuple[bool, str]:
    return name == OTHER, name
