"""Shuffle records and write the training, validation and test files.

    python -m dataset_prep.textbind split data/textbind/all.reform.json --out data/textbind

writes train.json, val.json and test.json: the records are shuffled by --seed; the first --validation ones are the
validation file, the next --test ones the test file, and all others the training file. Each record is in exactly one.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from chatbridge.common.errors import DataError
from dataset_prep.common import arguments
from dataset_prep.common.manifest import write_json
from dataset_prep.textbind.record_files import read_records


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("records", type=arguments.existing_file, metavar="FILE.json", help="a list of records, or one per line")
    add("--out", type=Path, required=True, metavar="FOLDER", help="where the three files are written")
    add("--validation", type=arguments.count, default=100, metavar="N", help="records (default: 100)")
    add("--test", type=arguments.count, default=100, metavar="N", help="records (default: 100)")
    add("--seed", type=int, default=10086, help="of the order (default: 10086, as released)")


def run(asked: argparse.Namespace) -> int:
    """raises DataError when no record is left to train on"""
    records = read_records(asked.records)
    held_out = asked.validation + asked.test
    if held_out >= len(records):
        raise DataError(
            f"{asked.records}: has {len(records)} records, but --validation and --test take {held_out}, which leaves "
            "none to train on; make them smaller"
        )
    random.Random(asked.seed).shuffle(records)
    parts = {"val": records[: asked.validation], "test": records[asked.validation : held_out],
             "train": records[held_out:]}  # fmt: skip
    for path in (asked.out / f"{name}.json" for name in parts):
        if path.exists() and path.samefile(asked.records):
            raise DataError(f"{path} is the file that is split; choose another --out")
    for name, part in parts.items():
        print(f"{write_json(asked.out / f'{name}.json', part)}: {len(part):,} records")
    return 0
