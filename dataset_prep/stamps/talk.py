"""Instruction conversations about one picture or one sound, for training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chatbridge.common.seeds import stream
from dataset_prep.stamps import wordings
from dataset_prep.stamps.balance import exchanged, others
from dataset_prep.stamps.pictures import Stamp
from dataset_prep.stamps.records import Record, audio, conversation, image, text
from dataset_prep.stamps.wordings import either, fill, pick, with_article

KIND_NOUNS = {"space": "thing in space", "sport": "thing for sports", "clothing": "piece of clothing", "food": "food"}
GROUP_NOUNS = {"animal": "an animal", "instrument": "an instrument", "thing": "a thing"}


@dataclass(frozen=True)
class Known:
    """A picture or a sound with its name and its kind, both with an article; "" where the kind is not known."""

    id: str
    modality: str
    path: Path
    name: str
    kind: str
    group: str = ""  # of a sound

    @property
    def part(self) -> Record:
        return (image if self.modality == "image" else audio)(self.path)


def seen(stamps: Sequence[Stamp]) -> list[Known]:
    """The pictures that have a name."""
    return [
        Known(f"{one.key} {one.altered}".strip(), "image", one.path, one.phrase, kind_of(one.category))
        for one in stamps
        if one.name
    ]


def kind_of(category: str) -> str:
    """ "animal" -> "an animal"."""
    return with_article(KIND_NOUNS.get(category, category)) if category else ""


def single(known: Sequence[Known], seed: int, rounds: int = 1) -> Iterator[Record]:
    """Per item and round: a question for the name, a yes, a no, one for the kind, and a conversation of several turns.

    Each name is as often right as wrong, and each kind is asked beside others as often as it is the right one.
    """
    if not known:
        return
    modality, names = known[0].modality, [one.name for one in known]
    kinds = sorted({one.kind for one in known if one.kind})
    for number in range(rounds):
        wrong = exchanged(names, seed, f"{modality} no {number}")
        beside = others(kinds, min(2, len(kinds) - 1), seed, f"{modality} kinds {number}")
        for one, other in zip(known, wrong, strict=True):
            rng = stream(seed, f"talk {modality} {one.id} {number}")
            yield from _about(one, other, beside, rng, number)


def _about(
    one: Known, wrong: str, beside: Mapping[str, Sequence[str]], rng: np.random.Generator, number: int
) -> Iterator[Record]:
    at = f"{one.modality} {one.id} {number}"
    naming, yes, no = _naming(one, rng), _is_it(one, one.name, rng), _is_it(one, wrong, rng)
    kind = [_kind(one, beside[one.kind], rng)] if one.kind else []
    yield _of(f"{at} name", one, [naming])
    yield _of(f"{at} yes", one, [yes])
    yield _of(f"{at} no", one, [no])
    if kind:
        yield _of(f"{at} kind", one, kind)
    turns = [naming, *kind, _is_it(one, one.name, rng), _is_it(one, wrong, rng)]
    yield _of(f"{at} turns", one, [turns[at] for at in rng.permutation(len(turns))[:3]])


def _of(name: str, one: Known, turns: Sequence[tuple[str, str]]) -> Record:
    first, *rest = turns
    return conversation(name, [([one.part, text(first[0])], first[1]), *(([text(a)], b) for a, b in rest)])


def _naming(one: Known, rng: np.random.Generator) -> tuple[str, str]:
    if one.modality == "image":
        asked, answer = pick(wordings.NAME_SEEN, rng)
    else:
        own = wordings.NAME_HEARD_OF[one.group]
        asked, answer = pick(own if rng.random() < 0.4 else wordings.NAME_HEARD, rng)
    return asked, fill(answer, it=one.name)


def _is_it(one: Known, asked: str, rng: np.random.Generator) -> tuple[str, str]:
    words = pick(wordings.IS_SEEN if one.modality == "image" else wordings.IS_HEARD, rng)
    answer = pick(wordings.YES if asked == one.name else wordings.NO, rng)
    return fill(words, it=asked), answer.format(right=one.name)


def _kind(one: Known, wrong: Sequence[str], rng: np.random.Generator) -> tuple[str, str]:
    words = pick(wordings.KIND_SEEN if one.modality == "image" else wordings.KIND_HEARD, rng)
    options = [one.kind, *wrong]
    shuffled = [options[at] for at in rng.permutation(len(options))]
    return fill(words, options=either(shuffled)), f"{wordings.capital(one.kind)}."
