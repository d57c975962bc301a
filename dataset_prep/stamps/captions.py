"""Captions of the stamps as conversations of one picture and one request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from chatbridge.common.seeds import stream
from dataset_prep.stamps.pictures import Stamp
from dataset_prep.stamps.records import Record, image, record, text

ASKED = (
    "What is in the picture?",
    "Describe the picture.",
    "What do you see?",
    "Write a short caption for this picture.",
    "What does this picture show?",
    "Tell me what this is.",
    "Give the picture a caption.",
    "What is shown here?",
)
HELD_OUT_ASKED = ASKED[0]  # every held-out picture is asked in the same words


def captions(stamps: Iterable[Stamp], *, seed: int, held_out: bool = False) -> Iterator[Record]:
    """One conversation per picture. Held-out ones have details, among them the word that an answer must name."""
    for stamp in stamps:
        if not stamp.is_captioned:
            continue
        name = f"{stamp.key} {stamp.altered}".strip()
        if not held_out:
            asked = ASKED[int(stream(seed, f"caption request {name}").integers(len(ASKED)))]
            yield record(name, [image(stamp.path), text(asked)], stamp.sentence)
            continue
        details: Record = {"category": stamp.category or "other", "kind": stamp.kind or "other", "thing": stamp.thing}
        if stamp.head:
            details["must_name"] = [stamp.head]
        yield record(name, [image(stamp.path), text(HELD_OUT_ASKED)], stamp.sentence, details=details)
