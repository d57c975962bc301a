"""Group the images of a pool by k-means over their embeddings; a group is a topic of `sample`.

    python -m dataset_prep.textbind cluster data/textbind/pool --clusters 4096

writes clusters.json into the folder: the images of every group with at least --min-size of them, and words that are
frequent in its captions. The centres are fitted on --fit-on images at most, drawn by --seed; then every image goes to
the nearest centre. scikit-learn's MiniBatchKMeans, or faiss where it is installed (--library chooses).
"""

from __future__ import annotations

import argparse
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from chatbridge.common.errors import DataError
from chatbridge.common.extras import need
from dataset_prep.common import arguments
from dataset_prep.common.manifest import write_json
from dataset_prep.textbind.pool import Pool

NAME = "clusters.json"
WORD = re.compile(r"[^\W\d_]{3,}")
NUM_WORDS = 5  # that describe a group
Nearest = Callable[[np.ndarray], np.ndarray]  # float32[n, W] -> int[n]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("pool", type=arguments.existing_folder, metavar="FOLDER", help="of `embed`")
    add("--clusters", type=arguments.positive, default=4096, metavar="K", help="groups (default: 4096)")
    add("--min-size", type=arguments.positive, default=32, metavar="N", help="smaller groups are dropped (default: 32)")
    add("--fit-on", type=arguments.positive, default=500_000, metavar="N", help="images at most (default: 500000)")
    add("--seed", type=int, default=0, help="of the centres (default: 0)")
    add("--library", choices=("auto", "sklearn", "faiss"), default="auto", help="auto: faiss where it is installed")
    add("--out", type=Path, metavar="FILE.json", help=f"default: {NAME} in the folder")


def run(asked: argparse.Namespace) -> int:
    """raises DataError when there are fewer images than groups, or every group is too small"""
    pool = Pool(asked.pool)
    library = ("faiss" if find_spec("faiss") else "sklearn") if asked.library == "auto" else asked.library
    nearest = fitted(_fit_rows(pool, asked.fit_on, asked.clusters, asked.seed), asked.clusters, asked.seed, library)
    labels = np.concatenate([nearest(x) for x in pool.embeddings()])
    records = list(pool.records())
    groups = defaultdict(list)
    for label, record in zip(labels.tolist(), records, strict=True):
        groups[label].append(record)
    kept = {label: groups[label] for label in sorted(groups) if len(groups[label]) >= asked.min_size}
    if not kept:
        largest = max(map(len, groups.values()))
        raise DataError(
            f"{asked.pool}: the largest of {len(groups)} groups has {largest} images, --min-size is {asked.min_size}; "
            "lower it, or use fewer --clusters"
        )
    path = write_json(asked.out or asked.pool / NAME, _content(asked, library, len(records), groups, kept))
    num_kept = sum(map(len, kept.values()))
    print(f"{path}: {len(kept):,} groups with {num_kept:,} of {len(records):,} images ({library})")
    print(f"  dropped {len(groups) - len(kept):,} groups of fewer than {asked.min_size} images, "
          f"{len(records) - num_kept:,} images in all; {asked.clusters - len(groups):,} groups are empty")  # fmt: skip
    return 0


def _fit_rows(pool: Pool, most: int, num_clusters: int, seed: int) -> np.ndarray:
    """float32[n, W], n at most `most`: rows drawn over the whole pool. raises DataError for fewer than the groups"""
    total = sum(len(x) for x in pool.embeddings())
    if min(total, most) < num_clusters:
        what = f"the pool has {total} images" if total <= most else f"--fit-on is {most}"
        raise DataError(f"{pool.folder}: {what}, but {num_clusters} groups are asked for; lower --clusters")
    if total <= most:
        return np.concatenate(list(pool.embeddings()))
    chosen = np.sort(np.random.default_rng(seed).choice(total, most, replace=False))
    rows, start = [], 0
    for x in pool.embeddings():
        rows.append(x[chosen[(chosen >= start) & (chosen < start + len(x))] - start])
        start += len(x)
    return np.concatenate(rows)


def fitted(rows: np.ndarray, num_clusters: int, seed: int, library: str) -> Nearest:
    """The nearest centre of each embedding, after k-means on `rows`.

    rows   float32[n, W]
    """
    if library == "faiss":
        kmeans = need("faiss", "k-means by faiss").Kmeans(
            rows.shape[1], num_clusters, niter=25, seed=seed, max_points_per_centroid=len(rows)
        )
        kmeans.train(np.ascontiguousarray(rows))
        return lambda x: kmeans.index.search(np.ascontiguousarray(x), 1)[1][:, 0]
    kmeans = need("sklearn.cluster", "k-means").MiniBatchKMeans(
        num_clusters, batch_size=max(1024, 2 * num_clusters), n_init=3, random_state=seed
    )
    kmeans.fit(rows)
    return kmeans.predict


def _content(
    asked: argparse.Namespace,
    library: str,
    num_images: int,
    groups: dict[int, list[dict[str, Any]]],
    kept: dict[int, list[dict[str, Any]]],
) -> dict[str, Any]:
    everywhere = _word_counts(record["caption"] for records in groups.values() for record in records)
    return {
        "pool": str(asked.pool),
        "made_with": {"clusters": asked.clusters, "min_size": asked.min_size, "fit_on": asked.fit_on,
                      "seed": asked.seed, "library": library, "images": num_images},
        "clusters": [
            {
                "cluster": label,
                "size": len(records),
                "words": topic_words([record["caption"] for record in records], everywhere, num_images),
                "images": [record["image_idx"] for record in records],
            }
            for label, records in kept.items()
        ],
    }  # fmt: skip


def topic_words(captions: Sequence[str], everywhere: Counter[str], num_images: int) -> list[str]:
    """Words that more captions of a group have than their share of all captions explains, the strongest first."""
    here = _word_counts(captions)
    expected = {word: everywhere[word] * len(captions) / num_images for word in here}
    return sorted(here, key=lambda word: (expected[word] - here[word], word))[:NUM_WORDS]


def _word_counts(captions: Iterable[str]) -> Counter[str]:
    """Word -> captions that have it."""
    return Counter(word for caption in captions for word in set(WORD.findall(caption.lower())))
