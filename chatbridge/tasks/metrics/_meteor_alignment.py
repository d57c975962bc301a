"""METEOR's alignment of two captions: the one with most matches, then with the fewest chunks (Denkowski & Lavie, 2014).

The search is the official one, its beam, its order and its rounding included, so that equal captions align equally.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

BEAM = 40
_ORDER = itemgetter(0, 1, 2)


class Match(NamedTuple):
    """Words of the reference from `start` on match words of the prediction from `there` on.

    module  which way of matching: 0 exact, 1 stem, 2 synonym, 3 paraphrase
    """

    module: int
    start: int
    length: int
    there: int
    there_length: int


# A partial alignment: minus the words matched (those without an exact match count half, rounded down), chunks and
# distance, by which paths are ordered; where its last match ends in the prediction (-1: the word before has none);
# the position in the reference; bits of the words used in reference and prediction; its matches, the last first
Path = tuple[int, int, int, int, int, int, int, Any]


def align(matches: Sequence[Sequence[Match]], num_there: int) -> tuple[list[Match], int]:
    """The best alignment and its number of chunks.

    matches    those that start at each word of the reference
    num_there  words of the prediction
    """
    fixed = _certain(matches, num_there)
    if sum(map(len, matches)) == len(fixed):
        return list(fixed.values()), _chunks(fixed.values())
    used = sum(_bits(one.start, one.length) for one in fixed.values())
    used_there = sum(_bits(one.there, one.there_length) for one in fixed.values())
    paths: list[Path] = [(0, 0, 0, -1, 0, used, used_there, None)]
    for current, here in enumerate(matches):
        if len(paths) > 1:
            paths.sort(key=_ORDER)
        following: list[Path] = []
        for path in paths[:BEAM]:
            if path[5] >> current & 1:
                if current < path[4]:
                    following.append(path)
                elif path[4] in fixed:
                    one = fixed[path[4]]
                    following.append(_with(path, one, path[2] + abs(one.start - one.there)))
            else:
                _branch(path, here, following)
        paths = following or paths[:1]
    chosen = _in_order(min(paths, key=_closed))
    return chosen, _chunks(chosen)


def _closed(path: Path) -> tuple[int, int, int]:
    return path[0], path[1] + (path[3] != -1), path[2]


def _branch(path: Path, here: Sequence[Match], following: list[Path]) -> None:
    """Add a path for every match of the current word that is free, and one that leaves the word out."""
    matched, chunks, distance, last_end, position, used, used_there, chosen = path
    for one in here:
        if not (used & _bits(one.start, one.length) or used_there & _bits(one.there, one.there_length)):
            following.append(_with(path, one, distance))
            distance += abs(one.start - one.there)  # officially on the path left behind, with every match that is tried
    following.append((matched, chunks + (last_end != -1), distance, -1, position + 1, used, used_there, chosen))


def _with(path: Path, one: Match, distance: int) -> Path:
    """The path with one more match."""
    matched, chunks, _, last_end, _, used, used_there, chosen = path
    module, start, length, there, there_length = one
    return (
        matched - (length + there_length if module == 0 else length // 2 + there_length // 2),
        chunks + (last_end != -1 and last_end != there),
        distance,
        there + there_length,
        start + length,
        used | _bits(start, length),
        used_there | _bits(there, there_length),
        (one, chosen),
    )


def _in_order(path: Path) -> list[Match]:
    found: list[Match] = []
    chain = path[7]
    while chain:
        found.append(chain[0])
        chain = chain[1]
    return found[::-1]


def _certain(matches: Sequence[Sequence[Match]], num_there: int) -> dict[int, Match]:
    """Matches that no other one overlaps, by their word of the reference."""
    counts, counts_there = [0] * len(matches), [0] * num_there
    for here in matches:
        for _, start, length, there, there_length in here:
            for place in range(start, start + length):
                counts[place] += 1
            for place in range(there, there + there_length):
                counts_there[place] += 1
    found: dict[int, Match] = {}
    for start, here in enumerate(matches):
        if len(here) == 1:
            one = here[0]
            places, places_there = (
                counts[start : start + one.length],
                counts_there[one.there : one.there + one.there_length],
            )
            if places.count(1) == one.length and places_there.count(1) == one.there_length:
                found[start] = one
    return found


def _chunks(chosen: Iterable[Match]) -> int:
    """Runs of matches that are next to each other in both captions."""
    chunks, end, end_there = 0, -1, -1
    for _, start, length, there, there_length in chosen:
        chunks += start != end or there != end_there
        end, end_there = start + length, there + there_length
    return chunks


def _bits(start: int, length: int) -> int:
    return (1 << length) - 1 << start
