"""Write the media of AV-Odyssey's parquet files, and its questions as data/av_odyssey/av_odyssey.jsonl.

Download av_odyssey_part1.parquet ... part6.parquet of AV-Odyssey/AV_Odyssey_Bench (Hugging Face, 26 GB):

    python -m dataset_prep.av_odyssey --parquet raw/av_odyssey_part*.parquet

writes data/av_odyssey/media/<question>_image_1.jpg ... and a line per question with the fields of the table, with names
of files in place of their bytes. Needs the package pyarrow. Files that are there are not written again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from chatbridge.common.errors import DataError
from chatbridge.common.extras import need
from chatbridge.processors.media_source import head_of
from dataset_prep.annotation_file import AnnotationFile, Record, parser, shown
from dataset_prep.common import arguments
from dataset_prep.common.manifest import part_of

MADE_BY, MEDIA = "dataset_prep.av_odyssey", "media"
COLUMNS = {  # of media -> ending where the first bytes do not tell
    **{f"image_{number}": "jpg" for number in (1, 2, 3, 4)},
    **{f"audio_{number}": "wav" for number in (1, 2, 3, 4)},
    "video_1": "mp4",
}
NEEDED = ("question_id", "question", "options", "answer")
SIGNS = {  # first bytes -> ending
    b"\xff\xd8\xff": "jpg", b"\x89PNG": "png", b"GIF8": "gif", b"RIFF": "wav", b"ID3": "mp3", b"\xff\xfb": "mp3",
    b"\xff\xf3": "mp3", b"fLaC": "flac", b"OggS": "ogg", b"\x1aE\xdf\xa3": "webm",
}  # fmt: skip
AT_ONCE = 4  # rows in memory; one may have 100 MB


def main(given: Sequence[str] | None = None) -> int:
    parsed = parser(__doc__, MADE_BY, out="data/av_odyssey")
    parsed.add_argument("--parquet", type=arguments.existing_file, nargs="+", required=True, metavar="FILE")
    asked = parsed.parse_args(given)
    names = [f"{file.name}, {file.stat().st_size} bytes" for file in asked.parquet]
    made = AnnotationFile(asked.out / "av_odyssey.jsonl", MADE_BY, {}, "lines", files=names, limit=asked.limit)
    found = islice(questions(asked.parquet, asked.out / MEDIA), asked.limit)
    print(made.write(shown(found, "av_odyssey")))
    return 0


def questions(files: Sequence[Path], folder: Path) -> Iterator[Record]:
    """The rows of all tables, after their media are in `folder`. raises DataError for a table of another set"""
    parquet = need("pyarrow.parquet", "reading parquet files")
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        try:
            table = parquet.ParquetFile(file)
        except Exception as error:  # pyarrow raises errors of its own, and of the operating system
            raise DataError(f"{file}: is not a readable parquet file ({error})") from None
        names = table.schema_arrow.names
        if absent := [name for name in NEEDED if name not in names]:
            there = ", ".join(names)[:200]
            raise DataError(f"{file}: has no column {', '.join(absent)}; its columns: {there}; expected AV-Odyssey's")
        for batch in table.iter_batches(batch_size=AT_ONCE):
            yield from (_written(row, folder) for row in batch.to_pylist())


def _written(row: Mapping[str, Any], folder: Path) -> Record:
    """The row with names of files in place of the bytes, which are written."""
    found = dict(row)
    for column, ending in COLUMNS.items():
        content = _bytes(row.get(column))
        found[column] = None
        if content:
            name = f"{row['question_id']}_{column}.{_ending(content, ending)}".replace("/", "_")
            _write(folder / name, content)
            found[column] = name
    return found


def _bytes(value: Any) -> bytes | None:
    """The content of a cell: bytes, or the {"bytes", "path"} of Hugging Face's media columns."""
    return value.get("bytes") if isinstance(value, Mapping) else value


def _ending(content: bytes, usual: str) -> str:
    head = head_of(content, 16)
    if head[4:8] == b"ftyp":
        return "mp4"
    return next((ending for sign, ending in SIGNS.items() if head.startswith(sign)), usual)


def _write(path: Path, content: bytes) -> None:
    if path.is_file() and path.stat().st_size == len(content):
        return
    part = part_of(path)
    part.write_bytes(content)
    part.replace(path)


if __name__ == "__main__":
    arguments.run(main)
