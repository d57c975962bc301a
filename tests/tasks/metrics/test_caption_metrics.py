"""BLEU, ROUGE-L and CIDEr equal pycocoevalcap, item by item; METEOR comes as close as it says."""

from __future__ import annotations

import json
import random
from functools import cache
from typing import Any

import numpy as np
import pytest

from chatbridge.common.errors import DataError
from chatbridge.tasks.metrics.base import METRICS, Item, Score
from tests.tasks.metrics.caption_goldens import FOLDER, has_oracle, official_scores

EXACT = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider")


@cache
def golden() -> dict[str, Any]:
    return json.loads((FOLDER / "captions.json").read_text(encoding="utf-8"))


def items_of(rows: list[dict[str, Any]]) -> list[Item]:
    return [Item(row["id"], row["prediction"], tuple(row["references"])) for row in rows]


def scores(name: str, items: list[Item], **settings: Any) -> dict[str, Score]:
    metric = METRICS.get(name)
    config: Any = metric.Config  # type: ignore[attr-defined]
    built = metric(config(**settings))
    found = built.scores(items)
    assert tuple(one.name for one in found) == built.names
    return {one.name: one for one in found}


def exact_scores(items: list[Item]) -> dict[str, Score]:
    return scores("bleu", items) | scores("rouge_l", items) | scores("cider", items)


def check_equal(found: dict[str, Score], oracle: dict[str, Any], within: float = 1e-9) -> None:
    for name in EXACT:
        assert found[name].value == pytest.approx(oracle["scores"][name], abs=within), name
        np.testing.assert_allclose(found[name].per_item, oracle["per_item"][name], atol=within, err_msg=name)


def test_equal_to_the_recorded_oracle() -> None:
    """Fails when a score of 106 items, or of the corpus, differs from pycocoevalcap by more than 1e-9."""
    assert len(golden()["items"]) == 106
    check_equal(exact_scores(items_of(golden()["items"])), golden())


def test_the_names_of_cider() -> None:
    """Fails when cider_d is not what everybody publishes as CIDEr, or the paper's CIDEr equals it."""
    items = items_of(golden()["items"])
    published = scores("cider", items)["cider"]
    assert scores("cider_d", items)["cider_d"].per_item.tolist() == published.per_item.tolist()
    plain = scores("cider", items, plain=True)["cider"]
    repeated = next(k for k, item in enumerate(items) if item.prediction == "a a a a a a a")
    assert plain.per_item[repeated] > published.per_item[repeated]  # repetition and length are punished only there
    same = next(k for k, item in enumerate(items) if item.prediction == "A dog runs.")
    assert plain.per_item[same] == pytest.approx(published.per_item[same])


def test_resampled_bleu_is_bleu_of_the_resample() -> None:
    """Fails when sums of statistics give another value than the items themselves: intervals would be wrong."""
    items = items_of(golden()["items"])
    chosen = [random.Random(0).randrange(len(items)) for _ in items]
    whole = scores("bleu", items)
    again = scores("bleu", [Item(f"{k}", items[one].prediction, items[one].references) for k, one in enumerate(chosen)])
    for name, score in whole.items():
        assert float(score.combine(score.statistics[chosen].sum(axis=0))) == pytest.approx(again[name].value, abs=1e-12)


def test_orders() -> None:
    """Fails when max_n changes the lower orders, or an order outside is accepted."""
    items = items_of(golden()["items"])
    small = scores("bleu", items, max_n=2)
    assert list(small) == ["bleu_2", "bleu_1"] and small["bleu_2"].value == scores("bleu", items)["bleu_2"].value
    for name, setting in (
        ("bleu", {"max_n": 0}),
        ("cider", {"max_n": 10}),
        ("cider_d", {"sigma": 0.0}),
        ("rouge_l", {"beta": -1.0}),
    ):
        config: Any = METRICS.get(name).Config  # type: ignore[attr-defined]
        assert len(config(**setting).problems()) == 1


@pytest.mark.parametrize("name", ["bleu", "rouge_l", "cider", "cider_d"])
def test_references_that_cannot_be_compared(name: str) -> None:
    """Fails when an item without references, or with punctuation as references, becomes a score or a traceback."""
    good = Item("1", "a dog", ("a dog",))
    with pytest.raises(DataError, match="no reference: item '2'"):
        scores(name, [good, Item("2", "a dog")])
    with pytest.raises(DataError, match="without a single word: items '3', '4'"):
        scores(name, [good, Item("3", "a dog", ("?", "")), Item("4", "a dog", ("...",))])


def test_unreadable_items_stay() -> None:
    """Fails when an item with a problem is scored by its text, or leaves the denominator."""
    items = [
        Item("1", "a dog runs", ("a dog runs", "?")),
        Item("2", "a cat runs", ("a cat runs", "?"), problem="media"),
    ]
    found = exact_scores(items)
    assert found["rouge_l"].value == pytest.approx(0.5) and found["rouge_l"].measured == 2
    assert found["cider"].per_item[1] == 0 and found["bleu_1"].per_item[1] < 1e-6
    assert scores("cider", items[:1])["cider"].value == 0  # one item: every n-gram is in all documents, as officially


def test_nothing_known_of_an_item() -> None:
    """Fails when an item whose annotation could not be read leaves the denominator, or stops the scoring."""
    items = [Item("1", "a dog runs", ("a dog runs",)), Item("2", "", problem="media")]
    found = exact_scores(items) | scores("meteor", items)
    assert all(score.measured == 2 for score in found.values())
    assert found["rouge_l"].value == pytest.approx(0.5) and found["bleu_1"].value < 1  # one word is missing


def test_empty_corpus_of_predictions() -> None:
    """Fails when no prediction has a word and a division or an index breaks."""
    found = exact_scores([Item("1", "", ("a dog",)), Item("2", "?", ("a cat", "cats"))])
    assert all(score.value == pytest.approx(0, abs=1e-6) for score in found.values())


@pytest.mark.filterwarnings("error")
def test_prompts_of_a_question_are_one_document() -> None:
    """Fails when CIDEr of a prompt changes because the questions were asked with another prompt too."""
    texts = [("a red unseen dog", "a red dog"), ("a blue cat", "the blue cat"), ("two men", "men on a hill")]
    alone = [Item(f"{n}", said, (wanted,)) for n, (said, wanted) in enumerate(texts)]
    both = []
    for n, (said, wanted) in enumerate(texts):
        both.append(Item(f"{n}", said, (wanted,), {"item": n, "prompt": 1}))
        both.append(Item(f"{n}@2", "a hill", (wanted,), {"item": n, "prompt": 2}))
    for name in ("cider", "cider_d"):
        found = scores(name, both)[name].per_item[::2]
        np.testing.assert_allclose(found, scores(name, alone)[name].per_item, rtol=1e-12)


def test_captions_of_one_word_and_no_captions() -> None:
    """Fails when no caption has two words, or there is no caption, and an order has no n-gram."""
    same, other = scores("cider", [Item("1", "dog", ("dog",)), Item("2", "dog", ("cat",))])["cider"].per_item
    assert same > other == 0
    assert scores("cider", [])["cider"].measured == 0


@pytest.mark.slow
@pytest.mark.skipif(not has_oracle(), reason="needs pycocoevalcap and Java")
def test_equal_to_the_oracle_itself() -> None:
    """Fails when random captions of the golden's words score differently than pycocoevalcap does today."""
    number = random.Random(5)
    words = sorted({word for row in golden()["items"] for text in row["references"] for word in text.split()})

    def caption() -> str:
        return " ".join(number.choice(words) for _ in range(number.randint(0, 14)))

    rows = [
        {
            "id": f"{k}",
            "prediction": caption(),
            "references": ["a dog " + caption() for _ in range(number.randint(1, 6))],
        }
        for k in range(400)
    ]
    check_equal(exact_scores(items_of(rows)), official_scores(rows, meteor=False))
