"""How well the answers of an evaluation can be guessed from the texts alone.

A naive Bayes classifier over the words of the question, trained on the training conversations, chooses among the
options of each question. Data whose texts tell the answers would let it, and a language model, be right without media.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from dataset_prep.stamps.records import Record

SMOOTHING = 0.5


def text_baseline(training: Iterable[Record], test: Sequence[Record]) -> dict[str, tuple[float, float, int]]:
    """Kind of question -> (share that is right, chance, number of questions)."""
    answers: Counter[str] = Counter()
    words: dict[str, Counter[str]] = {}
    vocabulary: set[str] = set()
    for asked, answer in _turns(training):
        answers[answer] += 1
        counts = words.setdefault(answer, Counter())
        counts.update(found := _words(asked))
        vocabulary.update(found)
    right: dict[str, float] = defaultdict(float)
    total: Counter[str] = Counter()
    chance: dict[str, float] = defaultdict(float)
    for one in test:
        details = one["details"]
        asked = _words(_text(one["messages"][-2]["content"]))
        scores = {
            letter: _score(_normal(option), asked, answers, words, len(vocabulary))
            for letter, option in details["options"].items()
        }
        best = [letter for letter, score in scores.items() if score == max(scores.values())]
        kind = details["kind"]
        total[kind] += 1
        chance[kind] += 1 / len(scores)
        right[kind] += (details["answer"] in best) / len(best)
    return {kind: (right[kind] / total[kind], chance[kind] / total[kind], total[kind]) for kind in total}


def word_prior(training: Iterable[Record], test: Sequence[Record]) -> dict[str, float]:
    """Kind of question -> share that is right when the option is chosen whose words are the most frequent ones in the
    training answers to questions with the same media."""
    counts: dict[str, Counter[str]] = {}
    for one in training:
        for asked, answer in zip(one["messages"][0::2], one["messages"][1::2], strict=True):
            counts.setdefault(_media(asked["content"]), Counter()).update(_words(answer["content"]))
    right: dict[str, list[float]] = {}
    for one in test:
        details, known = one["details"], counts.get(_media(one["messages"][-2]["content"]), Counter())
        scores = {
            letter: sum(math.log(known[word] + SMOOTHING) for word in _words(option))
            for letter, option in details["options"].items()
        }
        best = [letter for letter, score in scores.items() if score == max(scores.values())]
        right.setdefault(details["kind"], []).append((details["answer"] in best) / len(best))
    return {kind: sum(found) / len(found) for kind, found in right.items()}


def _media(content: str | Sequence[Record]) -> str:
    """The media of a message, in any order."""
    return "" if isinstance(content, str) else " ".join(sorted(part["type"] for part in content))


def _score(
    option: str, asked: Sequence[str], answers: Counter[str], words: dict[str, Counter[str]], size: int
) -> float:
    counts = words.get(option, Counter())
    total = counts.total() + SMOOTHING * max(1, size)
    return math.log(answers[option] + SMOOTHING) + sum(math.log((counts[word] + SMOOTHING) / total) for word in asked)


def _turns(training: Iterable[Record]) -> Iterable[tuple[str, str]]:
    for one in training:
        messages = one["messages"]
        for asked, answer in zip(messages[0::2], messages[1::2], strict=True):
            yield _text(asked["content"]), _normal(answer["content"])


def _text(content: str | Sequence[Record]) -> str:
    """The text of a message, with the order of the media before it."""
    if isinstance(content, str):
        return content
    return " ".join(part["text"] if part["type"] == "text" else f"media{part['type']}" for part in content)


def _normal(answer: str) -> str:
    """Answers that say the same: "Yes, it is a dog." is "yes", "This is a dog." stays as it is."""
    return re.split(r"[.,]", answer.lower())[0]


def _words(asked: str) -> list[str]:
    return re.findall(r"\w+", asked.lower())
