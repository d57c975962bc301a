"""Metrics of short answers, transcriptions and sentiments."""

from __future__ import annotations

from typing import Any

import jiwer
import numpy as np
import pytest
import torch

from chatbridge.common.errors import ConfigError, DataError
from chatbridge.config.schema import parse
from chatbridge.tasks.metrics.avqa_accuracy import ANSWERS
from chatbridge.tasks.metrics.base import METRICS, Item, Score
from chatbridge.tasks.metrics.word_error_rate import spoken
from chatbridge.tasks.scoring import scores_of


def scored(name: str, lines: list[tuple[str, Any]], problem_at: int | None = None, **settings: Any) -> dict[str, Score]:
    """Score name -> score of (prediction, reference or references)."""
    metric: Any = METRICS.get(name)
    items = [
        Item(str(k), text, (one,) if isinstance(one, str) else tuple(one), problem="lost" if k == problem_at else None)
        for k, (text, one) in enumerate(lines)
    ]
    made = metric(parse(metric.Config, settings))
    found = scores_of(name, made, items)
    assert tuple(score.name for score in found) == made.names
    assert all(score.statistics.shape[0] == len(score.per_item) == len(items) for score in found)
    return {score.name: score for score in found}


def value(name: str, text: str, one: Any, **settings: Any) -> float:
    """The headline score of one item."""
    return next(iter(scored(name, [(text, one)], **settings).values())).value


@pytest.mark.parametrize(
    ("text", "references", "expected"),
    [
        ("Hello  World", ["hello world"], 1.0),
        ("hallo world", ["hello world"], 10 / 11),
        ("hallo world", ["no", "hello world"], 10 / 11),  # the closest reference
        ("ab", ["ax"], 0.5),  # exactly the threshold counts, as in the script of the competition
        ("abc", ["axy"], 0.0),
        ("", ["x"], 0.0),
        ("", [""], 1.0),
    ],
)
def test_anls(text, references, expected):
    """fails when the threshold, the closest reference, case or the length that divides the distance is wrong"""
    assert value("anls", text, references) == pytest.approx(expected)


def test_anls_has_a_threshold_and_counts_unreadable_items():
    """fails when the setting has no effect, or an unreadable item leaves the mean"""
    assert value("anls", "abc", "axy", threshold=0.3) == pytest.approx(1 / 3)
    score = scored("anls", [("a", "a"), ("b", "b")], problem_at=1)["anls"]
    assert score.value == 0.5 and list(score.per_item) == [1, 0]
    with pytest.raises(ConfigError, match="threshold"):
        scored("anls", [], threshold=2)


@pytest.mark.parametrize(
    ("text", "settings", "expected"),
    [("Left.\n", {}, 1), ("the left", {}, 0), ("The left!", {"articles": True}, 1), ("leftmost", {}, 0), ("", {}, 0)],
)
def test_gqa_accuracy(text, settings, expected):
    """fails when generated text is not brought to GQA's form, or more than that is forgiven"""
    assert value("gqa_accuracy", text, "left", **settings) == expected


@pytest.mark.parametrize(
    ("text", "reference", "match", "expected"),
    [
        ("2", "two", "equal", 1),
        ("The Acoustic_Guitar.", "acoustic_guitar", "equal", 1),
        ("12", "more than ten", "equal", 1),
        ("10", "more than ten", "equal", 0),
        ("12", "11", "equal", 0),  # of another data set: not both "more than ten"
        ("I hear the violin.", "violin", "equal", 0),
        ("I hear the violin.", "violin", "named", 1),
        ("I hear the violin and the cello.", "violin", "named", 0),
        ("There are more than ten.", "more than ten", "named", 1),  # "ten" is inside it
        ("There are more than ten.", "ten", "named", 0),
        ("guitar", "acoustic_guitar", "named", 0),
        ("", "no", "named", 0),
    ],
)
def test_avqa_accuracy(text, reference, match, expected):
    """fails when digits, underscores or numbers above ten are not understood, or a sentence with two answers counts"""
    assert value("avqa_accuracy", text, reference, match=match) == expected


def test_avqa_has_its_42_answers():
    """fails when an answer of the data set is lost"""
    assert len(set(ANSWERS)) == 42


POPE = [  # answer, correct, what the official script reads
    ("Yes, there is.", "yes", "yes"),
    ("No", "yes", "no"),
    ("yes. No doubt", "yes", "yes"),  # the first sentence alone
    ("There is not, no.", "no", "no"),
    ("NO", "no", "yes"),  # three spellings only
    ("no\n", "no", "yes"),  # words are separated by blanks only
    ("", "no", "yes"),
    ("It is a dog", "yes", "yes"),
    ("no,", "no", "no"),
]


def test_yes_no_f1_equals_the_script_of_pope():
    """fails when an answer is read in another way than by the script, or a score is computed in another way"""
    found = scored("yes_no_f1", [(text, correct) for text, correct, _ in POPE])
    pairs = [(read, correct) for _, correct, read in POPE]
    tp, fp = pairs.count(("yes", "yes")), pairs.count(("yes", "no"))
    tn, fn = pairs.count(("no", "no")), pairs.count(("no", "yes"))
    precision, recall = tp / (tp + fp), tp / (tp + fn)
    expected = {
        "accuracy": (tp + tn) / len(pairs),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall),
        "yes_ratio": (tp + fp) / len(pairs),
        "unanswered": 2 / len(pairs),
    }
    assert {name: score.value for name, score in found.items()} == pytest.approx(expected)
    assert list(found["accuracy"].per_item) == [float(read == correct) for read, correct in pairs]
    resampled = found["f1"].statistics[[0, 0, 1]].sum(axis=0)  # two hits and a miss
    assert float(found["f1"].combine(resampled)) == pytest.approx(0.8)


def test_yes_no_f1_counts_what_is_no_answer():
    """fails when an unreadable question or, by the strict rule, an answer without yes and no is left out or correct"""
    lines = [("yes", "yes"), ("a dog", "no"), ("Yes or no?", "yes"), ("I don't think so", "no"), ("", "yes")]
    found = scored("yes_no_f1", lines, rule="strict")
    assert list(found["accuracy"].per_item) == [1, 0, 1, 1, 0] and found["unanswered"].value == pytest.approx(2 / 5)
    assert found["recall"].value == pytest.approx(2 / 3) and found["accuracy"].measured == 5
    lost = scored("yes_no_f1", [("yes", "yes"), ("", "yes"), ("", "no")], problem_at=1)
    assert list(lost["accuracy"].per_item) == [1, 0, 0] and lost["recall"].value == 0.5
    never = scored("yes_no_f1", [("no", "yes"), ("no", "no")])
    assert never["precision"].value == never["f1"].value == 0 and never["accuracy"].value == 0.5
    with pytest.raises(DataError, match=r"item '0': references are \['cat'\], expected yes or no"):
        scored("yes_no_f1", [("yes", "cat")])


def test_word_error_rate_equals_jiwer_over_all_items():
    """fails when rates are averaged instead of errors, or the rate of an item is not its own"""
    lines = [("the cat sat", "a cat sat down"), ("hello", "hello world"), ("x y z w", "x")]
    found = scored("word_error_rate", lines)
    answers, references = [text for text, _ in lines], [one for _, one in lines]
    assert found["word_error_rate"].value == pytest.approx(jiwer.wer(references, answers))
    assert found["character_error_rate"].value == pytest.approx(jiwer.cer(references, answers))
    assert list(found["word_error_rate"].per_item) == pytest.approx([jiwer.wer(r, a) for a, r in lines])
    assert found["word_error_rate"].per_item[2] == 3 and not found["word_error_rate"].higher_is_better


def test_word_error_rate_takes_the_closest_reference_and_all_words_of_a_lost_item():
    """fails when punctuation or case costs errors, a farther reference counts, or a lost item has no errors"""
    assert value("word_error_rate", "Its a DOG!", ["no", "its a dog"]) == 0
    assert value("word_error_rate", "Dog", ["dog"], normalise=False) == 1
    assert spoken("It\u2019s, the \u0926\u093f\u0928! 'ok' \u2014") == "it's the \u0926\u093f\u0928 ok"
    lost = scored("word_error_rate", [("a b", "a b"), ("c d", "c d")], problem_at=1)["word_error_rate"]
    assert lost.value == 0.5 and list(lost.per_item) == [0, 1]
    with pytest.raises(DataError, match="item '0': no reference has words"):
        scored("word_error_rate", [("a", ["...", ""])])


def test_sentiment_accuracy():
    """fails when a number or a word is read wrongly, a denied or missing word is not counted as unanswered, or neutral
    references count for two classes"""
    lines = [
        ("Positive.", "1.667"),
        ("The speaker is negative", "-3.0"),
        ("neutral", "0.0"),
        ("-0.3", "negative"),
        ("positive", "neutral"),
        ("not positive", "negative"),
        ("positive or negative", "positive"),
        ("happy", "positive"),
    ]
    found = scored("sentiment_accuracy", lines)
    assert list(found["sentiment_accuracy"].per_item) == [1, 1, 1, 1, 0, 0, 0, 0]
    assert found["sentiment_accuracy_2"].measured == 6 and found["sentiment_accuracy_2"].value == 0.5
    assert found["sentiment_unanswered"].value == pytest.approx(3 / 8)
    with pytest.raises(DataError, match="expected negative, neutral, positive or a number"):
        scored("sentiment_accuracy", [("positive", "joy")])


@pytest.mark.parametrize("name", ["anls", "gqa_accuracy", "avqa_accuracy", "yes_no_f1", "sentiment_accuracy"])
def test_an_item_of_which_nothing_is_known_stays_in_the_denominator(name):
    """fails when an unreadable question without references ends the scoring, or is left out"""
    metric: Any = METRICS.get(name)
    items = [Item("0", "positive" if "senti" in name else "yes", ("positive" if "senti" in name else "yes",)),
             Item("1", "", (), problem="the record is broken")]  # fmt: skip
    headline = metric(metric.Config()).scores(items)[0]
    assert headline.value == 0.5 and list(headline.per_item) == [1, 0]


def test_a_transcription_of_which_nothing_is_known_is_one_missing_word():
    """fails when it ends the scoring, or costs nothing"""
    metric: Any = METRICS.get("word_error_rate")
    score = metric(metric.Config()).scores([Item("0", "a b", ("a b",)), Item("1", "", (), problem="broken")])[0]
    assert score.value == pytest.approx(1 / 3)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    """The folder of a tiny random BERT."""
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "dog", "cat", "runs"]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=16, **sizes)).save_pretrained(folder)
    return str(folder)


def test_embedding_similarity(encoder):
    """fails when a text is not similar to itself, padding counts in the mean, the closest reference is not taken, or an
    empty or lost answer has a similarity"""
    lines = [("a red dog", ["cat runs", "a red dog"]), ("cat", "a red dog runs"), ("", "dog"), ("dog", "dog")]
    name = "embedding_similarity"
    together = scored(name, lines, problem_at=3, encoder=encoder, batch_size=8)[name].per_item
    alone = scored(name, lines, problem_at=3, encoder=encoder, batch_size=1)[name].per_item
    np.testing.assert_allclose(together, alone, atol=1e-6)  # batches differ in padding only
    assert together[0] == pytest.approx(1) and 0 <= together[1] < 0.999 and list(together[2:]) == [0, 0]
    first = scored(name, lines, encoder=encoder, pooling="first")[name].per_item
    assert abs(first[1] - together[1]) > 1e-4


def test_an_encoder_that_is_not_there_is_named(tmp_path):
    """fails when a missing or unusable encoder is reported late, or by a traceback"""
    with pytest.raises(ConfigError, match="there is no folder"):
        scored("embedding_similarity", [("a", "b")], encoder=str(tmp_path / "missing"))
    with pytest.raises(ConfigError, match=r"has no config.json"):
        scored("embedding_similarity", [("a", "b")], encoder=str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataError, match=r"cannot be loaded: .*expected the folder of a transformers encoder"):
        scored("embedding_similarity", [("a", "b")], encoder=str(tmp_path))
