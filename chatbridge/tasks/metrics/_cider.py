"""CIDEr and CIDEr-D (Vedantam et al., 2015): the mean cosine of TF-IDF vectors of n-grams, times ten."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from chatbridge.tasks.metrics._captions import Captions, Ints
from chatbridge.tasks.metrics.base import Array, Item
from chatbridge.tasks.metrics.shared import asked_item

SCALE = 10.0


def cider_of_items(
    captions: Captions, items: Sequence[Item], max_n: int, clip: bool, sigma: float | None = None
) -> Array:
    """float64[I]: the score of each prediction against its references, about 0 to 10.

    An n-gram weighs its count times ln(items / items whose references have it), so a score depends on the other items.
    The lines of one question that is asked with several prompts are one item there: each has the score that it has with
    its prompt alone.

    clip   an n-gram repeated in the prediction counts as often as in the reference at most (CIDEr-D)
    sigma  of the Gaussian penalty on the difference of lengths (CIDEr-D); None: no penalty
    """
    num_items = len(captions.predictions)
    owner = captions.owner[num_items:]
    questions = np.unique([asked_item(item.id, item.details) for item in items], return_inverse=True)[1]
    cosines = sum((_cosines(captions, questions, order, clip) for order in range(1, max_n + 1)), np.zeros(len(owner)))
    if sigma is not None:
        num_pairs = np.maximum(0, captions.lengths - 1)  # the official code counts word pairs as the length
        difference = num_pairs[:num_items][owner] - num_pairs[num_items:]
        cosines = cosines * np.exp(-(difference**2) / (2 * sigma**2))
    num_references = np.bincount(owner, minlength=num_items)
    return np.bincount(owner, weights=cosines, minlength=num_items) / max_n / num_references * SCALE


def _cosines(captions: Captions, questions: Ints, order: int, clip: bool) -> Array:
    """float64[references]: of the prediction's and the reference's vector of n-grams of one order.

    questions   int64[I], which question a line asks, from 0
    """
    grams, num_items = captions.grams(order), len(captions.predictions)
    kinds = max(grams.kinds, 1)
    owner = captions.owner[grams.caption]
    own = grams.caption < num_items
    keys = owner * kinds + grams.gram
    asked = questions[owner[~own]] * kinds + grams.gram[~own]
    documents = np.bincount(np.unique(asked) % kinds, minlength=kinds)  # questions whose references have the n-gram
    num_questions = int(questions.max(initial=0)) + 1
    weights = grams.count * (np.log(num_questions) - np.log(np.maximum(1, documents)))[grams.gram]
    norms = np.sqrt(np.bincount(grams.caption, weights=weights**2, minlength=len(captions.lengths)))

    predicted_keys, predicted = keys[own], weights[own]
    if not len(predicted_keys):
        return np.zeros(len(captions.lengths) - num_items)
    place = np.minimum(np.searchsorted(predicted_keys, keys[~own]), len(predicted_keys) - 1)
    here = np.where(predicted_keys[place] == keys[~own], predicted[place], 0.0)
    there = weights[~own]
    products = (np.minimum(here, there) if clip else here) * there
    dots = np.bincount(grams.caption[~own] - num_items, weights=products, minlength=len(captions.lengths) - num_items)
    scale = norms[:num_items][captions.owner[num_items:]] * norms[num_items:]
    return np.divide(dots, scale, out=dots.astype(np.float64), where=scale != 0)  # bincount of nothing gives integers
