"""Questions about one picture and one sound in one conversation.

    both   "Name the thing in the picture and the thing you hear."  Four options, of which two have the right picture
           and two the right sound: chance is 25 %, and a model that uses one of the two media reaches 50 %.
           All four are of things of one half.
    same   "Does the thing in the picture make this sound?"  Chance is 50 %, also with one of the two media.

Every thing is as often right as wrong in either place. A combination that is asked about was in no training
conversation, and of half of the things no training conversation has a picture and a sound together at all; the details
tell (`paired`: known or never). Pictures and sounds of the test are copies or recordings that were not trained on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from chatbridge.common.seeds import stream
from dataset_prep.stamps import wordings
from dataset_prep.stamps.balance import distances, placed, ring
from dataset_prep.stamps.records import Record, audio, image, record, text
from dataset_prep.stamps.wordings import fill, pick

Files = Mapping[str, Sequence[Path]]  # name -> pictures or sounds
ROUNDS = 3  # combinations of every thing, as what is seen and as what is heard


def is_paired(name: str) -> bool:
    """Whether training conversations may have pictures and sounds of this thing together."""
    return hashlib.sha256(f"paired {name}".encode()).digest()[0] % 2 == 0


def training(pictures: Files, sounds: Files, seed: int) -> Iterator[Record]:
    """Conversations of the paired half of the things, among each other."""
    names = [name for name in sorted(pictures) if name in sounds and is_paired(name)]
    order = ring(names, seed, "pairs training")
    for step in distances(min(6, len(order) - 1), len(order), seed, "pairs training"):
        for at, name in enumerate(order):
            heard = order[(at + step) % len(order)]
            rng = stream(seed, f"pair {name} {heard}")
            answer = fill(wordings.BOTH_ANSWER, seen=name, heard=heard)
            media = _media(pick(pictures[name], rng), pick(sounds[heard], rng), rng)
            yield record(f"both {name} {heard}", [*media, text(pick(wordings.BOTH, rng))], answer)
            for other, verdict in ((name, "Yes."), (heard, "No.")):
                media = _media(pick(pictures[name], rng), pick(sounds[other], rng), rng)
                yield record(f"same {name} {other} {step}", [*media, text(pick(wordings.SAME, rng))], verdict)


def test(pictures: Files, sounds: Files, seed: int) -> Iterator[Record]:
    """Questions with held-out pictures and sounds of every thing that has both.

    All names of a question are of the same half: names of the paired half are more likely in an answer about two media
    whatever is seen and heard, which would tell the right option beside one of the other half.
    """
    names = [name for name in sorted(pictures) if name in sounds]
    trained = _trained_pairs(names, seed)
    for half in (False, True):
        order = ring([name for name in names if is_paired(name) == half], seed, f"pairs test {half}")
        yield from _of_half(order, trained, pictures, sounds, seed)


def _of_half(
    order: Sequence[str], trained: set[tuple[str, str]], pictures: Files, sounds: Files, seed: int
) -> Iterator[Record]:
    number = 0
    for turn, (step, other_seen, other_heard) in enumerate(_steps(len(order), seed)):
        for at, name in enumerate(order):
            heard, *wrong = (order[(at + by) % len(order)] for by in (step, other_seen, other_heard))
            if (name, heard) in trained:
                continue
            number += 1
            rng = stream(seed, f"pair test {turn} {name} {heard}")
            media = _media(pick(pictures[name], rng), pick(sounds[heard], rng), rng)
            yield _both(f"both {name} {heard}", media, (name, heard), wrong, number)
            if turn == 0:
                for other, verdict in ((name, "Yes."), (heard, "No.")):
                    media = _media(pick(pictures[name], rng), pick(sounds[other], rng), rng)
                    yield _same(f"same {name} {other}", media, name, other, verdict)


def _steps(size: int, seed: int) -> Iterator[tuple[int, int, int]]:
    """ROUNDS times three different distances on a ring; none for a ring that is too small for them."""
    steps = distances(min(3 * ROUNDS, size - 1), size, seed, "pairs test") if size else []
    yield from zip(steps[0::3], steps[1::3], steps[2::3], strict=False)


def _trained_pairs(names: Sequence[str], seed: int) -> set[tuple[str, str]]:
    """(seen, heard) of the training conversations."""
    paired = [name for name in names if is_paired(name)]
    order = ring(paired, seed, "pairs training")
    if len(order) < 2:
        return set()
    steps = distances(min(6, len(order) - 1), len(order), seed, "pairs training")
    return {(name, order[(at + step) % len(order)]) for step in steps for at, name in enumerate(order)}


def _media(picture: Path, sound: Path, rng: np.random.Generator) -> list[Record]:
    parts = [image(picture), audio(sound)]
    return parts if rng.random() < 0.5 else parts[::-1]


def _both(name: str, media: Sequence[Record], right: tuple[str, str], wrong: Sequence[str], number: int) -> Record:
    def answer(seen: str, heard: str) -> str:
        return fill(wordings.BOTH_ANSWER, seen=seen, heard=heard)

    others = [answer(right[0], wrong[1]), answer(wrong[0], right[1]), answer(wrong[0], wrong[1])]
    options, letter = placed(answer(*right), others, number)
    details = {"kind": "both", "options": options, "answer": letter, "paired": _paired(*right)}
    must = [_head(one) for one in right]
    return record(name, [*media, text(wordings.BOTH[0])], options[letter], details={**details, "must_name": must})


def _same(name: str, media: Sequence[Record], seen: str, heard: str, verdict: str) -> Record:
    options = {"A": "Yes.", "B": "No."}
    letter = next(letter for letter, words in options.items() if words == verdict)
    details = {"kind": "same", "options": options, "answer": letter, "paired": _paired(seen, heard)}
    return record(name, [*media, text(wordings.SAME[0])], verdict, details=details)


def _paired(seen: str, heard: str) -> str:
    return "known" if is_paired(seen) and is_paired(heard) else "never"


def _head(name: str) -> str:
    return name.split()[-1]
