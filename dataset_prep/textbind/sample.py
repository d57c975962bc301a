"""Draw the images of each conversation: a group of `cluster` first, then several of its images.

    python -m dataset_prep.textbind sample data/textbind/pool --number 10000 --out data/textbind/samples.jsonl

A line is {"id", "cluster", "image": ["<img0> caption </img0>", ...], "image_idx", "url", "file"}. No conversation has
two images of one caption, and an image is used once (--repeats: once per conversation) also with regard to the files
named with --besides, so a later round draws other images. The draws depend on the clusters, --seed and these files.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatbridge.common.errors import DataError
from dataset_prep.common import arguments
from dataset_prep.textbind.cluster import NAME
from dataset_prep.textbind.image_tags import tagged
from dataset_prep.textbind.pool import Pool
from dataset_prep.textbind.record_files import Record, read_records, write_lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("pool", type=arguments.existing_folder, metavar="FOLDER", help="of `embed` and `cluster`")
    add("--clusters", type=arguments.existing_file, metavar="FILE", help=f"default: {NAME} in the folder")
    add("--number", type=arguments.positive, required=True, metavar="N", help="conversations")
    add("--out", type=Path, required=True, metavar="SAMPLES.jsonl")
    add("--images", type=arguments.positive, nargs=2, default=[3, 5], metavar=("LOW", "HIGH"),
        help="of a conversation (default: 3 5)")  # fmt: skip
    add("--choose", choices=("uniform", "size"), default="uniform",
        help="groups: each alike, or by their number of unused images (default: uniform)")  # fmt: skip
    add("--repeats", action="store_true", help="an image may be used in several conversations")
    add("--besides", type=arguments.existing_file, nargs="+", default=[], metavar="FILE",
        help="earlier samples, whose images are not used")  # fmt: skip
    add("--seed", type=int, default=0, help="of the draws, and part of the ids (default: 0)")


def run(asked: argparse.Namespace) -> int:
    """1 when the images do not suffice. raises DataError for wrong clusters"""
    low, high = asked.images
    if low > high:
        raise DataError(f"--images {low} {high}: the first is the smallest number of images, the second the largest")
    clusters = asked.clusters or asked.pool / NAME
    arguments.refuse_own_input(asked.out, clusters, *asked.besides)
    used = {name for path in asked.besides for name in _used(path)}
    records = {str(record["image_idx"]): record for record in Pool(asked.pool).records()}
    groups = _groups(clusters, records, used)
    sampler = Sampler(groups, low, high, asked.choose, asked.repeats, asked.seed)
    samples = [{"id": f"{asked.seed}-{number:06d}", **sample} for number, sample in zip(range(asked.number), sampler)]
    write_lines(asked.out, samples)
    shown = {name for sample in samples for name in map(str, sample["image_idx"])}
    num_groups = len({sample["cluster"] for sample in samples})
    print(f"{asked.out}: {len(samples):,} samples of {num_groups:,} groups, {len(shown):,} images")
    if len(samples) < asked.number:
        print(f"  {asked.number - len(samples):,} fewer than asked for: no group has {low} unused images with "
              "different captions; use --repeats, or a larger pool")  # fmt: skip
    return 0 if len(samples) == asked.number else 1


def _used(path: Path) -> Iterator[str]:
    """The images of earlier samples. raises DataError for another file"""
    for number, record in enumerate(read_records(path), start=1):
        if not isinstance(record.get("image_idx"), list):
            raise DataError(f"{path}: record {number} has no list image_idx; name a file of `sample` or `ask`")
        yield from map(str, record["image_idx"])


def _groups(path: Path, records: Mapping[str, Record], used: set[str]) -> dict[int, list[Record]]:
    """cluster -> its images that are not used."""
    try:
        clusters = json.loads(path.read_text(encoding="utf-8"))["clusters"]
        names = {int(one["cluster"]): [str(number) for number in one["images"]] for one in clusters}
    except FileNotFoundError:
        raise DataError(f"there is no {path}; make it with `cluster`") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: is not a file of `cluster` ({type(error).__name__}: {error})") from None
    absent = [name for group in names.values() for name in group if name not in records]
    if absent:
        raise DataError(
            f"{path}: {len(absent)} of its images are not in the pool, the first is {absent[0]}; repeat `cluster`"
        )
    return {label: [records[name] for name in group if name not in used] for label, group in names.items()}


@dataclass
class Sampler:
    """An endless series of samples, which ends when no group has enough images.

    groups    cluster -> records of the pool
    low, high   images of a sample
    choose    "uniform" or "size": how a group is drawn
    """

    groups: Mapping[int, Sequence[Record]]
    low: int
    high: int
    choose: str = "uniform"
    repeats: bool = False
    seed: int = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        rng = random.Random(self.seed)
        open_groups: dict[int, deque[Record]] = {}
        for label, group in self.groups.items():
            shuffled = list(group)
            rng.shuffle(shuffled)
            open_groups[label] = deque(shuffled)
        while open_groups:
            label = self._group(rng, open_groups)
            chosen = self._take(rng, open_groups[label])
            if len(chosen) < self.low:
                del open_groups[label]
                continue
            yield _sample(label, chosen)

    def _group(self, rng: random.Random, groups: Mapping[int, deque[Record]]) -> int:
        labels = list(groups)
        if self.choose == "uniform":
            return rng.choice(labels)
        return rng.choices(labels, [max(1, len(groups[label])) for label in labels])[0]

    def _take(self, rng: random.Random, group: deque[Record]) -> list[Record]:
        """Images with different captions from the front of a shuffled group; passed ones go to its end."""
        wanted = rng.randint(self.low, self.high)
        if self.repeats:
            group = deque(rng.sample(group, len(group)))
        chosen: list[Record] = []
        for _ in range(len(group)):
            if len(chosen) == wanted:
                break
            record = group.popleft()
            if any(record["caption"].lower() == other["caption"].lower() for other in chosen):
                group.append(record)
            else:
                chosen.append(record)
        return chosen


def _sample(label: int, records: Sequence[Record]) -> dict[str, Any]:
    return {
        "cluster": label,
        "image": tagged([record["caption"] for record in records]),
        **{key: [record[key] for record in records] for key in ("image_idx", "url", "file")},
    }
