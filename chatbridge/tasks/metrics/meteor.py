"""METEOR 1.5 of captions (Denkowski & Lavie, 2014), without Java."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Literal, NamedTuple

import numpy as np

from chatbridge.common.log import get_logger
from chatbridge.tasks.metrics._captions import captions_of
from chatbridge.tasks.metrics._english_stem import stem
from chatbridge.tasks.metrics._meteor_alignment import Match, align
from chatbridge.tasks.metrics._meteor_tables import Phrase, Synonyms, folder, paraphrases
from chatbridge.tasks.metrics._meteor_words import FUNCTION_WORDS, words_of
from chatbridge.tasks.metrics.base import METRICS, Array, Item, Metric, Score

ALPHA, BETA, GAMMA, DELTA = 0.85, 0.20, 0.60, 0.75  # METEOR 1.5 for English, tuned on rankings
WEIGHTS = (1.0, 0.6, 0.8, 0.6)  # of a match: exact, stem, synonym, paraphrase
Words = tuple[str, ...]
log = get_logger(__name__)


@METRICS.register("meteor")
class Meteor(Metric):
    """METEOR of the corpus, 0 to 1, from the sums over the items; an item counts with its best reference.

    Words match exactly, by their stem, and with `tables` also as synonyms and paraphrases. Without them the score is
    below the official one, with them it is equal to it.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        # none: words and stems only; pycocoevalcap: also synonyms and paraphrases, as published,
        # from the files of that package (Java is not needed)
        tables: Literal["none", "pycocoevalcap"] = "none"

    config: Config

    @property
    def packages(self) -> tuple[str, ...]:
        return () if self.config.tables == "none" else ("pycocoevalcap",)

    @property
    def names(self) -> tuple[str, ...]:
        return ("meteor",)

    def scores(self, items: Sequence[Item]) -> list[Score]:
        captions = captions_of(items)
        predictions = [words_of(caption) for caption in captions.predictions]
        references = [[words_of(one) for one in found] for found in captions.references]
        if self.config.tables == "none":
            log.warning(
                "meteor: words and stems only, 0.003 to 0.008 below the official score where we compared; "
                "the setting `tables: pycocoevalcap` gives the official one (its files, without Java)"
            )
            matcher = _Matcher(None, {})
        else:
            every = frozenset(word for group in (predictions, *references) for caption in group for word in caption)
            matcher = _Matcher(_related(every), _paraphrases(every))
        pairs = zip(predictions, references, strict=True)
        statistics = np.array([matcher.best(words, found) for words, found in pairs], dtype=np.float64).reshape(-1, 6)
        return [Score("meteor", statistics, meteor(statistics), combine=meteor)]


def meteor(sums: Array) -> Array:
    """METEOR of float64[..., 6]: of one pair of captions, or of the sums over many.

    They are weighted matches and weighted words of the prediction and of the reference, chunks, and the mean of the
    matched words of both.
    """
    hits, hits_there, weight, weight_there, chunks, matched = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = hits / weight, hits_there / weight_there
        mean = 1 / ((1 - ALPHA) / precision + ALPHA / recall)
        return np.maximum(0.0, np.nan_to_num(mean * (1 - GAMMA * (chunks / matched) ** BETA)))


class _Matcher:
    """Statistics of pairs of captions.

    related  word -> its synonyms among the words of all captions; None: no synonyms
    table    phrase -> its paraphrases; empty: none
    """

    def __init__(self, related: Callable[[str], frozenset[str]] | None, table: Mapping[Phrase, Sequence[Phrase]]):
        self.related, self.table = related, table
        self.lengths: dict[str, set[int]] = {}  # of the phrases that start with a word
        for phrase in table:
            self.lengths.setdefault(phrase[0], set()).add(len(phrase))
        self.stem: Callable[[str], str] = cache(stem)
        self.prepared = lru_cache(maxsize=2)(self._prepared)

    def best(self, prediction: Words, references: Sequence[Words]) -> tuple[float, ...]:
        """Statistics with the reference that gives the highest score, the first of several."""
        found = [self.statistics(prediction, reference) for reference in references]
        return found[int(np.argmax(meteor(np.array(found))))]

    def statistics(self, prediction: Words, reference: Words) -> tuple[float, ...]:
        """The sums of `meteor` for two captions. Captions that match as a whole, in order, have no chunk."""
        chosen, chunks = align(self.matches(prediction, reference), len(prediction))
        hits = sum(
            _weight(reference[k]) * WEIGHTS[m.module] for m in chosen for k in range(m.start, m.start + m.length)
        )
        there = (
            _weight(prediction[k]) * WEIGHTS[m.module] for m in chosen for k in range(m.there, m.there + m.there_length)
        )
        matched, matched_there = sum(m.there_length for m in chosen), sum(m.length for m in chosen)
        if chunks == 1 and matched == len(prediction) and matched_there == len(reference):
            chunks = 0
        weights = sum(map(_weight, prediction)), sum(map(_weight, reference))
        return (sum(there), hits, *weights, chunks, (matched + matched_there) / 2)

    def matches(self, prediction: Words, reference: Words) -> list[list[Match]]:
        """All matches, by the word of the reference with which they start, in the official order."""
        there, here = self.prepared(prediction), self.prepared(reference)
        found = [[Match(0, k, 1, j, 1) for j in there.places.get(word, ())] for k, word in enumerate(reference)]
        if prediction == reference:
            return found
        for k, word in enumerate(reference):
            same_stem = there.stems.get(self.stem(word), ())
            found[k] += [Match(1, k, 1, j, 1) for j in same_stem if prediction[j] != word]
        if self.related is not None:
            for k, word in enumerate(reference):
                if synonyms := self.related(word) & there.places.keys():
                    places = sorted(place for synonym in synonyms for place in there.places[synonym])
                    found[k] += [Match(2, k, 1, j, 1) for j in places]
        for start, length, place, there_length in _paraphrased(here, there):
            found[start].append(Match(3, start, length, place, there_length))
        for place, there_length, start, length in _paraphrased(there, here):
            found[start].append(Match(3, start, length, place, there_length))
        return found

    def _prepared(self, words: Words) -> _Prepared:
        places: dict[str, list[int]] = {}
        stems: dict[str, list[int]] = {}
        for place, word in enumerate(words):
            places.setdefault(word, []).append(place)
            stems.setdefault(self.stem(word), []).append(place)
        phrases: list[tuple[int, int, Sequence[Phrase]]] = []
        for start, word in enumerate(words):
            for length in sorted(self.lengths.get(word, ())):
                others = self.table.get(words[start : start + length]) if start + length <= len(words) else None
                if others:
                    phrases.append((start, length, others))
        return _Prepared(words, places, stems, phrases)


class _Prepared(NamedTuple):
    """A caption with what is looked up in it: where each word is and each stem, and its phrases with paraphrases."""

    words: Words
    places: dict[str, list[int]]
    stems: dict[str, list[int]]
    phrases: list[tuple[int, int, Sequence[Phrase]]]  # start, length, paraphrases


def _paraphrased(here: _Prepared, there: _Prepared) -> Iterator[tuple[int, int, int, int]]:
    """Start and length of a phrase, start and length of its paraphrase in the other caption."""
    for start, length, others in here.phrases:
        for other in others:
            for place in there.places.get(other[0], ()):
                if len(other) == 1 or there.words[place : place + len(other)] == other:
                    yield start, length, place, len(other)


def _weight(word: str) -> float:
    return 1 - DELTA if word in FUNCTION_WORDS else DELTA


@lru_cache(maxsize=1)
def _related(words: frozenset[str]) -> Callable[[str], frozenset[str]]:
    """Word -> the others of `words` that share a synset with it."""
    synonyms = _synonyms()
    members: dict[str, list[str]] = {}
    for word in words:
        for synset in synonyms.of(word):
            members.setdefault(synset, []).append(word)
    return cache(lambda word: frozenset(one for synset in synonyms.of(word) for one in members[synset]) - {word})


@cache
def _synonyms() -> Synonyms:
    return Synonyms(folder() / "meteor-1.5.jar")


@lru_cache(maxsize=1)
def _paraphrases(words: frozenset[str]) -> Mapping[Phrase, Sequence[Phrase]]:
    return paraphrases(folder() / "data" / "paraphrase-en.gz", words)
