"""Questions whose text does not tell the answer.

Names are put on a ring in random order; the wrong names of a question are those at fixed distances from the right one.
So every name is as often a wrong option as it is the right one, and every yes has its no: whoever reads the texts only
is at chance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from string import ascii_uppercase

from chatbridge.common.seeds import stream


def ring(names: Sequence[str], seed: int, purpose: str) -> list[str]:
    """The different names in an order that depends on the seed and the purpose alone."""
    unique = sorted(set(names))
    return [unique[at] for at in stream(seed, f"ring {purpose}").permutation(len(unique))]


def distances(count: int, size: int, seed: int, purpose: str) -> list[int]:
    """`count` different distances on a ring of `size` names, none of which is 0. raises ValueError for too few names"""
    if count >= size:
        raise ValueError(f"{purpose}: {count} wrong options need more than {count} names, there are {size}")
    return [1 + int(at) for at in stream(seed, f"distances {purpose}").permutation(size - 1)[:count]]


def others(names: Sequence[str], count: int, seed: int, purpose: str) -> dict[str, list[str]]:
    """Name -> `count` other names; each name is in as many of the lists."""
    order = ring(names, seed, purpose)
    steps = distances(count, len(order), seed, purpose)
    return {name: [order[(at + step) % len(order)] for step in steps] for at, name in enumerate(order)}


def exchanged(names: Sequence[str], seed: int, purpose: str) -> list[str]:
    """For every name another one; each name is among them as often as in `names`.

    raises ValueError if one name is more than half of them
    """
    if not names:
        return []
    (common, most), size = Counter(names).most_common(1)[0], len(names)
    if 2 * most > size:
        raise ValueError(f"{purpose}: {common!r} is the name of {most} of {size}, so not all have another name")
    place = {name: at for at, name in enumerate(ring(names, seed, purpose))}
    order = sorted(range(size), key=lambda at: place[names[at]])  # those of one name beside each other
    step = most + int(stream(seed, f"exchange {purpose}").integers(size - 2 * most + 1))
    found = list(names)
    for at, own in enumerate(order):
        found[own] = names[order[(at + step) % size]]
    return found


def placed(right: str, wrong: Sequence[str], position: int) -> tuple[dict[str, str], str]:
    """(letter -> option, letter of the right one), which is at `position` modulo the number of options.

    Questions that are numbered one after another have the right option equally often at every position.
    """
    options = list(wrong)
    at = position % (len(wrong) + 1)
    options.insert(at, right)
    return dict(zip(ascii_uppercase, options, strict=False)), ascii_uppercase[at]
