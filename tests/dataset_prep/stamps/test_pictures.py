"""Captions, names and splits of the pictures."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from dataset_prep.stamps import captions, pictures, splits
from dataset_prep.stamps.records import Record
from tests.helpers.mini_stamps import lines, media


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A great blue heron.", ("a", "great blue heron")),
        ("An albino peahen (a female peafowl, or peacock).", ("an", "albino peahen")),
        ("A “Fuji” apple.", ("a", "Fuji apple")),
        ("A pair of cherries.", ("a", "pair of cherries")),
        ("Say cheese!", ("", "")),
        ("A tough car like this one gets you there, and joins in.", ("", "")),
    ],
)
def test_noun_phrase(caption: str, expected: tuple[str, str]) -> None:
    assert pictures.noun_phrase(caption) == expected


def test_variants_and_equal_captions_are_one_thing() -> None:
    found = splits.things(
        {
            "a/frog": "A frog.",
            "a/frog-1": "Another frog.",
            "b/toad": "The frog.",
            "food/fruit/cartoon/Strawberry2": "Some fruit.",
            "food/fruit/strawberry": "A strawberry.",
            "a/cow": "A cow.",
        }
    )
    assert found["a/frog"] == found["a/frog-1"] == found["b/toad"]
    assert found["food/fruit/cartoon/Strawberry2"] == found["food/fruit/strawberry"]
    assert len(set(found.values())) == 3


def test_a_thing_is_in_one_split_and_things_with_a_sound_are_for_training(package: Path) -> None:
    stamps = pictures.read_stamps(package)
    split_of: dict[str, set[str]] = {}
    for stamp in stamps:
        split_of.setdefault(stamp.thing, set()).add(stamp.split)
    assert all(len(found) == 1 for found in split_of.values())
    assert {stamp.split for stamp in stamps if stamp.sound} == {splits.TRAIN}
    assert {stamp.split for stamp in stamps if not stamp.sound} >= {splits.TRAIN, splits.TEST}
    assert not any("alphabets" in stamp.key for stamp in stamps)


def test_shares_of_the_splits() -> None:
    found = Counter(splits.split_of(f"thing {number}") for number in range(4000))
    assert found[splits.TEST] == pytest.approx(4000 * splits.SHARES[splits.TEST], rel=0.15)
    assert found[splits.VALIDATION] == pytest.approx(4000 * splits.SHARES[splits.VALIDATION], rel=0.2)


def test_no_held_out_picture_name_or_sound_is_in_a_training_file(written: tuple[Path, Record]) -> None:
    trained = [one for name in ("captions", "sounds", "talk", "pairs") for one in lines(written, f"{name}_train")]
    paths = {path for one in trained for path in media(one)}
    said = " ".join(json.dumps(one["messages"]) for one in trained)
    for name in ("captions_test", "captions_validation", "picture_choices_test", "sound_choices_test", "sounds_test"):
        assert not paths & {path for one in lines(written, name) for path in media(one)}, name
    assert not paths & {path for one in lines(written, "pair_choices_test") for path in media(one)}
    unseen = [one["messages"][-1]["content"] for one in lines(written, "captions_test")]
    assert unseen
    for caption in unseen:
        assert caption.rstrip(".").lower() not in said.lower()


def test_a_caption_that_names_nothing_is_left_out(package: Path) -> None:
    asked = list(captions.captions(pictures.read_stamps(package), seed=1))
    assert not any("one should wait" in one["messages"][1]["content"] for one in asked)
