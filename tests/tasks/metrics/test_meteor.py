"""METEOR equals the official program with its tables, and stays below it by a known difference without."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatbridge.common.errors import DataError
from chatbridge.tasks.metrics._english_stem import stem
from chatbridge.tasks.metrics._meteor_alignment import Match, align
from chatbridge.tasks.metrics._meteor_tables import Synonyms, paraphrases
from chatbridge.tasks.metrics._meteor_words import FUNCTION_WORDS, words_of
from chatbridge.tasks.metrics.base import METRICS, Item, Score
from tests.tasks.metrics.caption_goldens import FOLDER

GOLDEN: dict[str, Any] = json.loads((FOLDER / "captions.json").read_text(encoding="utf-8"))
ITEMS = [Item(row["id"], row["prediction"], tuple(row["references"])) for row in GOLDEN["items"]]
OFFICIAL = np.array(GOLDEN["per_item"]["meteor"])


def meteor(items: list[Item], tables: str = "none") -> Score:
    metric: Any = METRICS.get("meteor")
    (score,) = metric(metric.Config(tables=tables)).scores(items)
    return score


def test_words_and_stems_alone() -> None:
    """Fails when the score without tables moves: 76 items are equal, the corpus is 0.0077 lower."""
    found = meteor(ITEMS)
    assert found.value - GOLDEN["scores"]["meteor"] == pytest.approx(-0.00771, abs=1e-5)
    difference = found.per_item - OFFICIAL
    assert (np.abs(difference) < 1e-12).sum() == 76 and difference.max() < 0.04  # a synonym may also break a chunk
    chosen = [3, 3, 50, 82, 90, 105]
    again = meteor([Item(str(k), ITEMS[one].prediction, ITEMS[one].references) for k, one in enumerate(chosen)])
    assert float(found.combine(found.statistics[chosen].sum(axis=0))) == pytest.approx(again.value)


@pytest.mark.slow
def test_equal_to_the_program_with_its_tables() -> None:
    """Fails when one of 106 items, or the corpus, differs from METEOR 1.5 in Java by more than 1e-9."""
    pytest.importorskip("pycocoevalcap")
    found = meteor(ITEMS, tables="pycocoevalcap")
    assert found.value == pytest.approx(GOLDEN["scores"]["meteor"], abs=1e-9)
    np.testing.assert_allclose(found.per_item, OFFICIAL, atol=1e-9)


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("a black-and-white t-shirt", "a black and white t shirt"),
        ("the man 's hat is n't u.s. st. louis", "the man ' s hat is n 't us st. louis"),
        ("dogs. 5 vs. 6 pp. 7 e.g. x", "dogs . 5 vs. 6 pp. 7 eg x"),
        ("1\u00a01/2 5,000 a,b -lrb- x -rrb-", "1 1 / 2 5,000 a , b -lrb- x -rrb-"),
        ("café 中文 слово a...b 1990 's", "café 中 文 слово a ... b 1990 ' s"),
        ("", ""),
    ],
)
def test_words(caption: str, words: str) -> None:
    """Fails when words are parted otherwise than by METEOR's own normalisation (checked in Java)."""
    assert " ".join(words_of(caption)) == words
    assert {"the", "of", "is"} < FUNCTION_WORDS and "dog" not in FUNCTION_WORDS


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("caresses", "caress"), ("ties", "tie"), ("cries", "cri"), ("gas", "gas"), ("gaps", "gap"), ("bus", "bus"),
        ("skies", "sky"), ("news", "news"), ("herring", "herring"), ("agreed", "agre"), ("feed", "feed"),
        ("hopping", "hop"), ("hoping", "hope"), ("luxuriated", "luxuri"), ("beds", "bed"), ("sing", "sing"),
        ("by", "by"), ("say", "say"), ("happily", "happili"), ("generously", "generous"), ("communication", "communic"),
        ("realization", "realiz"), ("rotationally", "rotat"), ("rational", "ration"), ("hopefulness", "hope"),
        ("possibly", "possibl"), ("geology", "geolog"), ("adoption", "adopt"), ("replacement", "replac"),
        ("controlling", "control"), ("youth", "youth"), ("yellow", "yellow"), ("dog's", "dog"), ("at", "at"),
        ("surfers", "surfer"), ("skateboarding", "skateboard"), ("", ""),
    ],
)  # fmt: skip
def test_stems(word: str, expected: str) -> None:
    """Fails when a stem differs from that of the Java class inside METEOR, which was run on these and 214435 words."""
    assert stem(word) == expected


def test_alignment_prefers_matches_then_few_chunks() -> None:
    """Fails when a repeated word is matched so that the captions break into more chunks."""
    here = [[Match(0, 0, 1, 0, 1), Match(0, 0, 1, 2, 1)], [Match(0, 1, 1, 3, 1)]]  # "a cat" in "a dog a cat"
    assert align(here, 4) == ([Match(0, 0, 1, 2, 1), Match(0, 1, 1, 3, 1)], 1)
    here = [[Match(1, 0, 1, 0, 1)], [Match(0, 1, 1, 0, 1)]]  # the exact match counts more than the stem
    assert align(here, 1) == ([Match(0, 1, 1, 0, 1)], 1)
    assert align([[], []], 0) == ([], 0)


def test_tables(tmp_path: Path) -> None:
    """Fails when irregular forms, endings or paraphrases are read differently, or a broken file gives a score."""
    jar, table = tmp_path / "meteor.jar", tmp_path / "paraphrase.gz"
    with zipfile.ZipFile(jar, "w") as files:
        files.writestr("synonym/english.exceptions", "man\nmen\n")
        files.writestr("synonym/english.synsets", "man\n1 2\nguy\n2 3\nbox\n7\nbase\n9\n")
    synonyms = Synonyms(jar)
    assert synonyms.of("men") == {"1", "2"} and synonyms.of("guys") == {"2", "3"} and synonyms.of("boxes") == {"7"}
    assert not synonyms.of("glass") and synonyms.of("based") == {"9"}
    lines = "0.5\na man\none guy\n0.1\na man\nunknown\n0.2\nguy\na man\n"
    table.write_bytes(gzip.compress(lines.encode()))
    assert paraphrases(table, ["a", "man", "one", "guy"]) == {("a", "man"): [("one", "guy")], ("guy",): [("a", "man")]}
    for broken in (gzip.compress(lines.encode())[:-9], b"no table", gzip.compress(b"0.5\na man\n")):
        table.write_bytes(broken)
        with pytest.raises(DataError, match="install pycocoevalcap again"):
            paraphrases(table, ["a"])
    jar.write_bytes(b"no archive")
    with pytest.raises(DataError, match="install pycocoevalcap again"):
        Synonyms(jar)


def test_spice_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when SPICE without Java, or without its parser, ends in a traceback of the package."""
    pytest.importorskip("pycocoevalcap")
    metric: Any = METRICS.get("spice")
    item = Item("1", "a dog", ("a dog",))
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(DataError, match="needs Java"):
        metric(metric.Config()).scores([item])
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/java")
    monkeypatch.setattr("chatbridge.tasks.metrics.spice.MODELS", "missing.jar")
    with pytest.raises(DataError, match="download it once"):
        metric(metric.Config()).scores([item])
