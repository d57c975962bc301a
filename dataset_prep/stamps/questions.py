"""Questions with options about held-out pictures and sounds, as the task `choice` reads them.

Options are not shown in the prompt: the task measures how likely each is as the answer. The wrong options of a question
come from a ring of names (stamps.balance), so that the texts alone give 25 %.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dataset_prep.stamps import wordings
from dataset_prep.stamps.balance import others, placed
from dataset_prep.stamps.records import Record, record, text
from dataset_prep.stamps.talk import Known

WRONG = 3  # options besides the right one


def naming(known: Sequence[Known], details: Mapping[str, Mapping[str, Any]], seed: int) -> Iterator[Record]:
    """Which of four names; the names are asked equally often, in rounds of one item per name.

    details   id of an item -> what else an evaluation groups by
    """
    if not known:
        return
    asked = "What is in the picture?" if known[0].modality == "image" else "What do you hear?"
    for number, items in enumerate(_rounds(known)):
        if len(items) <= WRONG:
            return
        wrong = others([one.name for one in items], WRONG, seed, f"naming {known[0].modality} {number}")
        for at, one in enumerate(items):
            options, letter = placed(_sentence(one.name), [_sentence(name) for name in wrong[one.name]], at)
            own = {"kind": "name", "options": options, "answer": letter, **details[one.id]}
            yield record(f"name {one.id}", [one.part, text(asked)], options[letter], details=own)


def kinds(known: Sequence[Known], details: Mapping[str, Mapping[str, Any]], seed: int) -> Iterator[Record]:
    """Which of four kinds, for as many items of every kind as the rarest usable kind has."""
    by_kind: dict[str, list[Known]] = {}
    for one in known:
        if one.kind:
            by_kind.setdefault(one.kind, []).append(one)
    usable = {kind: items for kind, items in by_kind.items() if len(items) >= FEWEST}
    if len(usable) <= WRONG:
        return
    wrong = others(list(usable), WRONG, seed, "kinds")
    most = min(len(items) for items in usable.values())
    for at, one in enumerate(one for items in usable.values() for one in items[:most]):
        options, letter = placed(_sentence(one.kind), [_sentence(kind) for kind in wrong[one.kind]], at)
        own = {"kind": "kind", "options": options, "answer": letter, **details[one.id]}
        asked = "What kind of thing is in the picture?"
        yield record(f"kind {one.id}", [one.part, text(asked)], options[letter], details=own)


FEWEST = 3  # items of a kind that is asked about


def _rounds(known: Sequence[Known]) -> Iterator[list[Known]]:
    """The first item of every name, then the second ones, and so on."""
    by_name: dict[str, list[Known]] = {}
    for one in known:
        by_name.setdefault(one.name, []).append(one)
    for number in range(max(map(len, by_name.values()), default=0)):
        yield [items[number] for items in by_name.values() if len(items) > number]


def _sentence(name: str) -> str:
    return f"{wordings.capital(name)}."
