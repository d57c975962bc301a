"""Convert the data sets of TextBind's second stage to its records, one file for each source.

    python -m dataset_prep.textbind blend platypus --list raw/platypus/train.parquet
    python -m dataset_prep.textbind blend shikra --list raw/shikra/GPT4GEN_BoxCoT_train.jsonl ...
    python -m dataset_prep.textbind blend llava --list raw/llava/llava_instruct_150k.json
    python -m dataset_prep.textbind blend joined --list data/textbind/blend/*.json

platypus, minigpt4, shikra, llava, multi_instruct, mim (TextBind's own train.json) and alpaca_gpt4 write
data/textbind/blend/<source>.json, which configs/mixtures/textbind_blend.yaml names: `weight: size` draws from all of
them as from one list. `joined` writes one file from several, in the order of the released one, for other programs.

A record whose image does not exist is skipped and listed in <source>.skipped.jsonl. LLaVA's images are found by their
number among any release of COCO. --released reproduces the errors of the released conversion: glued words in Shikra,
the last turn of TextBind's conversations left out, markers without an image.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

from chatbridge.common.errors import DataError
from chatbridge.datasets.formats.json_fields import BadRecord, Fields
from chatbridge.datasets.formats.json_stream import JsonValue, section
from dataset_prep.annotation_file import AnnotationFile, shown
from dataset_prep.common import arguments
from dataset_prep.common.input_files import files_below
from dataset_prep.image_index import ImageIndex
from dataset_prep.textbind.blend_sources import SOURCES, Source

MADE_BY = "dataset_prep.textbind.blend"
JOINED = "joined"
Find = Callable[[str], str | None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", choices=(*SOURCES, JOINED), help="the source that the files are")
    add("--list", type=arguments.existing_file, nargs="+", required=True, metavar="FILE", help="its published files")
    add("--images", type=Path, metavar="FOLDER", help="where its images are (default: as on its card)")
    add("--out", type=Path, default=Path("data/textbind/blend"), metavar="FOLDER",
        help="of the written files (default: data/textbind/blend)")  # fmt: skip
    add("--released", action="store_true", help="with the errors of the released conversion")
    add("--limit", type=arguments.positive, metavar="N", help="use only the first N records")


def run(asked: argparse.Namespace) -> int:
    """raises DataError for files that cannot be read, and when no record can be used"""
    inputs = {f"list {path.name}" if len(asked.list) > 1 else "list": path for path in asked.list}
    if len(inputs) != len(asked.list):
        raise DataError("--list names several files of one name; rename them, the manifest lists them by name")
    if asked.source == JOINED:
        return _join(asked, inputs)
    source = SOURCES[asked.source]
    if asked.images is not None and source.images is None:
        raise DataError(f"--images is not used: {asked.source} is text-only")
    find, image_dir, num_images = _images(asked.source, source, asked.images)
    made = AnnotationFile(asked.out / f"{asked.source}.json", MADE_BY, inputs, image_dir=image_dir,
                          images=num_images, released=asked.released, limit=asked.limit)  # fmt: skip
    values = (value for path in asked.list for value in shown(_values(path, source), asked.source))
    records = _records(values, source, find, image_dir, made, asked.released)
    print(made.write(islice(records, asked.limit)))
    if source.released and not asked.limit:
        print(f"  the released blend has {source.released:,} records of it")
    return 0


def _records(
    values: Iterable[JsonValue], source: Source, find: Find, image_dir: str | None, made: AnnotationFile, released: bool
) -> Iterator[dict[str, Any]]:
    """The valid records whose images exist, with the names of the files."""
    for value in values:
        if value.fault is not None:
            made.skip(value.place, "is malformed", value.fault)
            continue
        try:
            record = source.record(Fields(value.value), image_dir, released)
        except BadRecord as error:
            made.skip(value.place, "is malformed", str(error))
            continue
        missing = _put_names(record, find)
        if missing is None:
            yield record
        else:
            made.skip(value.place, "its image does not exist", missing)


def _put_names(record: dict[str, Any], find: Find) -> str | None:
    """Replace the names of the images by those of the existing files; returns the first name without a file."""
    for turn in record["conversation"]:
        found = [find(str(name)) for name in turn.get("image_list") or ()]
        if None in found:
            return str(turn["image_list"][found.index(None)])
        turn["image_list"] = found
    return None


def _images(name: str, source: Source, folder: Path | None) -> tuple[Find, str | None, int]:
    """The search for the file of a name, the folder that the records name, and the number of images."""
    if source.images is None:
        return lambda name: name, None, 0
    folder = folder or Path(source.images)
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder} with the images of {name}; unpack them, or name it with --images")
    if source.is_coco:
        index = ImageIndex(folder, prefer=("train2014", "val2014", "train2017"))
        return index.find, str(folder), len(index)
    there = {path.as_posix() for path in files_below(folder)}
    return lambda name: name if name in there else None, str(folder), len(there)


def _values(path: Path, source: Source) -> Iterator[JsonValue]:
    """The records of a file. raises DataError"""
    return _parquet(path) if path.suffix == ".parquet" else section(path, source.section)


def _parquet(path: Path) -> Iterator[JsonValue]:
    try:
        parquet: Any = import_module("pyarrow.parquet")
    except ImportError:
        hint = "pip install pyarrow, or convert it to JSON lines"
        raise DataError(f"{path}: pyarrow is needed to read parquet; {hint}") from None
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for number, row in enumerate(batch.to_pylist()):
                    yield JsonValue(f"row {number}", "", number, row)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as parquet: {error}") from None


def _join(asked: argparse.Namespace, inputs: dict[str, Path]) -> int:
    """One list of several files of records, the sources in the order of the released one."""
    if asked.images is not None or asked.released:
        raise DataError("--images and --released belong to the conversion of a source, joined copies records")
    order = list(SOURCES)
    paths: Sequence[Path] = sorted(asked.list, key=lambda path: order.index(path.stem) if path.stem in order else 99)
    made = AnnotationFile(asked.out / f"{JOINED}.json", MADE_BY, inputs, limit=asked.limit)

    def records() -> Iterator[dict[str, Any]]:
        for value in (value for path in paths for value in shown(section(path, ""), path.stem)):
            if value.fault is None and isinstance(value.value, dict) and "conversation" in value.value:
                yield value.value
            else:
                made.skip(value.place, "is malformed", value.fault or "has no 'conversation'")

    print(made.write(islice(records(), asked.limit)))
    return 0
