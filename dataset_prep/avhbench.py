"""Join AVHBench's files, one per video, to data/avhbench/QA.json.

Download AVHBench_v0 (the address is in the readme of kaist-ami/AVHBench) and unpack it:

    python -m dataset_prep.avhbench --json AVHBench_v0/json

A release with one QA.json is read as it is, without this command.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from chatbridge.common.errors import DataError
from chatbridge.datasets.formats.avhbench import avhbench_captions, avhbench_questions
from chatbridge.datasets.formats.json_stream import rows
from dataset_prep.annotation_file import AnnotationFile, Record, parser
from dataset_prep.common import arguments
from dataset_prep.common.manifest import sha256

MADE_BY = "dataset_prep.avhbench"


def main(given: Sequence[str] | None = None) -> int:
    parsed = parser(__doc__, MADE_BY, out="data/avhbench")
    parsed.add_argument("--json", type=Path, required=True, metavar="FOLDER", help="the files <video>.json")
    asked = parsed.parse_args(given)
    files = sorted(asked.json.glob("*.json"))
    if not files:
        raise DataError(f"{asked.json}: has no .json file; expected AVHBench_v0/json with a file per video")
    names = hashlib.sha256("".join(f"{file.name} {sha256(file)}\n" for file in files).encode()).hexdigest()
    made = AnnotationFile(asked.out / "QA.json", MADE_BY, {}, files=f"{len(files)}, {names}", limit=asked.limit)
    print(made.write(islice(joined(files), asked.limit)))
    return 0


def joined(files: Sequence[Path]) -> Iterator[Record]:
    """The records of all files. raises DataError that names the first record that is none of AVHBench's"""
    for file in files:
        for reader in (avhbench_questions, avhbench_captions):
            fault = next((one for one in reader(file) if one.fault is not None), None)
            if fault is not None:
                raise DataError(f"{file}: {fault.place}: {fault.fault}")
        yield from (value.value for value in rows(file))


if __name__ == "__main__":
    arguments.run(main)
