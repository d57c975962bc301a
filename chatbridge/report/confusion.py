"""Which answers are taken for which, per kind of question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from chatbridge.report.chance import JOINT, KIND, kind_of
from chatbridge.tasks import Prediction
from chatbridge.tasks.base import confusion
from chatbridge.tasks.metrics.text import normalise

MOST = 12  # answers a matrix shows; the rarest of more are put together
HALVED_FROM = 7  # right answers of a joint question from which each half gets a matrix of its own
OTHER = "(other)"


@dataclass(frozen=True)
class Confusion:
    """The matrix of one kind of question: right answer -> given answer -> count, and the order of the columns."""

    kind: str
    table: dict[str, dict[str, int]]
    columns: tuple[str, ...]


def confusions(rows: Sequence[Prediction]) -> list[Confusion]:
    """A matrix per kind. First the answers that are right somewhere, then others that were given; rare ones and whole
    sentences share the column "(other)".

    A joint question with many right answers ("circle and rising tone") gets a matrix for each half of its answers.
    """
    kinds: dict[str, list[tuple[str, str]]] = {}
    for row in rows:
        if row["references"]:
            kinds.setdefault(kind_of(row), []).append((row["references"][0], row["answer"]))
    found = []
    for kind in sorted(kinds):
        for name, pairs in _parts(kind, kinds[kind]):
            found.append(_matrix(name, pairs))
    return found


def _parts(kind: str, pairs: list[tuple[str, str]]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The kind as it is, or its halves."""
    whole = [(normalise(right), normalise(given)) for right, given in pairs]
    if len({right for right, _ in whole}) < HALVED_FROM or not all(JOINT in right for right, _ in pairs):
        return [(kind, whole)]
    names = kind.split(JOINT) if kind.count(JOINT) == 1 else [f"{kind}, seen", f"{kind}, heard"]
    return [(f"{kind}: {name}", [_half(pair, at) for pair in pairs]) for at, name in enumerate(names)]


def _half(pair: tuple[str, str], at: int) -> tuple[str, str]:
    right, given = pair
    halves = given.split(JOINT, 1)
    return normalise(right.split(JOINT, 1)[at]), normalise(halves[at]) if at < len(halves) else OTHER


def _matrix(kind: str, pairs: Iterable[tuple[str, str]]) -> Confusion:
    pairs = list(pairs)
    rights, givens = Counter(right for right, _ in pairs), Counter(given for _, given in pairs)
    names = [name for name, _ in rights.most_common(MOST)]
    longest = max(map(len, names))  # what is much longer is no answer of another question, but words gone astray
    others = [name for name, _ in givens.most_common() if name not in names and len(name) <= longest + 8]
    names += others[: MOST - len(names)]
    table = confusion((_shown(right, names), _shown(given, names)) for right, given in pairs)
    rows = sorted(table, key=_other_last)
    given = {name for line in table.values() for name in line}
    columns = (
        [name for name in rows if name != OTHER] + sorted(given - set(rows) - {OTHER}) + [OTHER] * (OTHER in given)
    )
    return Confusion(kind or f"(no {KIND})", {name: table[name] for name in rows}, tuple(columns))


def _shown(answer: str, names: Sequence[str]) -> str:
    return answer if answer in names else OTHER


def _other_last(name: str) -> tuple[bool, str]:
    return name == OTHER, name
