"""Questions whose texts do not tell the answer."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from dataset_prep.stamps import balance, pairs, text_baseline
from dataset_prep.stamps.records import Record, record, text
from tests.helpers.mini_stamps import HEARD, SEEN_ONLY, lines, media


def test_every_name_is_wrong_as_often_as_it_is_right() -> None:
    names = [f"name {number}" for number in range(17)]
    found = balance.others(names, 3, 5, "test")
    assert Counter(other for wrong in found.values() for other in wrong) == dict.fromkeys(names, 3)
    assert all(name not in wrong and len(set(wrong)) == 3 for name, wrong in found.items())
    with pytest.raises(ValueError, match="3 wrong options need more than 3 names, there are 3"):
        balance.others(names[:3], 3, 5, "test")


def test_yes_and_no_are_equally_frequent_for_every_name(written: tuple[Path, Record]) -> None:
    count: dict[str, Counter[str]] = {}
    for one in lines(written, "talk_train"):
        if " yes" in one["id"] or " no" in one["id"].removesuffix(" 0"):
            asked = one["messages"][0]["content"][-1]["text"]
            name = max((name for name in [*HEARD, *SEEN_ONLY] if re.search(rf"\b{name}\b", asked)), key=len, default="")
            count.setdefault(f"{media(one).pop().endswith('.wav')} {name}", Counter())[one["id"].split()[-1]] += 1
    assert len(count) > 20
    for name, found in count.items():
        if name.split(" ", 1)[1] in HEARD:
            assert found["yes"] == found["no"], name


def test_exchanged_names_keep_their_number() -> None:
    names = ["a"] * 5 + ["b"] + ["c", "d"] * 2 + ["a", "e"]
    found = balance.exchanged(names, 3, "test")
    assert Counter(found) == Counter(names)
    assert all(own != other for own, other in zip(names, found, strict=True))
    with pytest.raises(ValueError, match="'a' is the name of 3 of 4"):
        balance.exchanged(["a", "a", "a", "b"], 3, "test")


def test_options_of_a_pair(written: tuple[Path, Record]) -> None:
    asked = [one for one in lines(written, "pair_choices_test") if one["details"]["kind"] == "both"]
    letters = Counter(one["details"]["answer"] for one in asked)
    assert max(letters.values()) - min(letters.values()) <= 1
    for one in asked:
        options = one["details"]["options"]
        seen, heard = zip(*(option.rstrip(".").lower().split(" and ") for option in options.values()), strict=True)
        at = list(options).index(one["details"]["answer"])
        assert seen.count(seen[at]) == heard.count(heard[at]) == 2
        assert len(set(options.values())) == 4
        assert {pairs.is_paired(name) for name in (*seen, *heard)} == {one["details"]["paired"] == "known"}


def test_pairs_of_the_test_are_new(written: tuple[Path, Record]) -> None:
    trained, test = lines(written, "pairs_train"), lines(written, "pair_choices_test")
    told = {one["messages"][1]["content"] for one in trained}
    for one in test:
        if one["details"]["kind"] == "both":
            assert one["messages"][-1]["content"] not in told
    together = {
        name for one in trained for name in HEARD if any(Path(path).stem.startswith(name) for path in media(one))
    }
    assert together
    assert all(pairs.is_paired(f"a {name}") for name in together)
    never = {one["details"]["paired"] for one in test}
    assert never == {"known", "never"}
    verdicts = Counter(one["messages"][-1]["content"] for one in test if one["details"]["kind"] == "same")
    assert verdicts["Yes."] == verdicts["No."] > 0


def test_text_baseline_is_at_chance_and_finds_a_leak(written: tuple[Path, Record]) -> None:
    for name, found in written[1]["text_only"].items():
        spread = (found["chance"] * (1 - found["chance"]) / found["questions"]) ** 0.5
        assert found["text_only"] <= found["chance"] + 3 * spread, name
        assert found["word_prior"] <= found["chance"] + 3 * spread, name
    leak = [record("x", [text(f"Is it loud {word}?")], word.title()) for word in ("yes", "no") for _ in range(5)]
    options = {"A": "Yes", "B": "No"}
    test = [
        {**one, "details": {"kind": "k", "options": options, "answer": "AB"[at >= 5]}} for at, one in enumerate(leak)
    ]
    assert text_baseline.text_baseline(leak, test)["k"] == (1.0, 0.5, 10)
