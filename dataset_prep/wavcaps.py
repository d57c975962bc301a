"""Convert AudioSet-SL or FreeSound of WavCaps, zip files and JSON, to shards of flac + txt + json.

The zip files are split (AudioSet_SL.z01, .z02, ... .zip) and are read directly, without joining or unpacking them.
Audio files are copied byte by byte after a check of their checksum and that they can be decoded.

    pip install -U huggingface_hub
    hf download cvssp/WavCaps --repo-type dataset --local-dir raw/wavcaps \\
        --include "Zip_files/AudioSet_SL/*" "Zip_files/FreeSound/*" "json_files/*"

    python -m dataset_prep.wavcaps audioset_sl --zip raw/wavcaps/Zip_files/AudioSet_SL/AudioSet_SL.zip \\
        --json raw/wavcaps/json_files/AudioSet_SL/as_final.json --out data/audioset_sl

    python -m dataset_prep.wavcaps freesound --zip raw/wavcaps/Zip_files/FreeSound/FreeSound.zip \\
        --json raw/wavcaps/json_files/FreeSound/fsd_final.json --out data/freesound \\
        --exclude raw/wavcaps/json_files/blacklist/blacklist_exclude_all_ac.json

--exclude skips files that are also in AudioCaps and Clotho, whose test sets would otherwise be in the training data.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from chatbridge.common.errors import DataError
from chatbridge.common.extras import need
from chatbridge.common.file_kind import refuse_other_kind
from chatbridge.common.file_names import is_hidden
from chatbridge.datasets.formats.json_fields import BadRecord, Fields, check_fields, file_name_of, kind_of
from chatbridge.datasets.formats.json_stream import section
from chatbridge.processors.decoder_messages import in_words
from dataset_prep.common import arguments
from dataset_prep.common.manifest import sha256
from dataset_prep.common.preparation import Preparation
from dataset_prep.common.shards import Sample, fill_shards, safe_key, shard_parts
from dataset_prep.common.split_zip import SplitZip
from dataset_prep.common.workers import Unusable

SETS = {"audioset_sl": "AudioSet", "freesound": "FreeSound"}  # name of the set -> key in the files for --exclude
ENDINGS = (".flac", ".wav", ".mp3", ".ogg")
MIN_SECONDS = 0.05


@dataclass(frozen=True)
class WavCapsItem:
    """One entry of the JSON with the location of its audio; `member` is empty if the zip does not contain it."""

    id: str
    caption: str
    archive: Path
    member: str
    duration_s: float | None
    fault: str | None = None  # why it cannot be used, except for a missing caption or file


def read_items(json_file: Path, archive: Path, excluded: frozenset[str]) -> tuple[list[WavCapsItem], int]:
    """The entries of the JSON in its order, and the number of excluded ones. raises DataError for a wrong JSON"""
    members = {
        PurePosixPath(name).stem: name
        for name in open_zip(archive).members
        if name.lower().endswith(ENDINGS) and not is_hidden(name)
    }
    found, left_out = [], 0
    for item in section(json_file, "data", ""):
        fault = item.fault or check_fields(item.value, ("id", "caption"))
        if fault:
            raise DataError(f"{json_file}: {item.place}: {fault}")
        try:
            name = Fields(item.value).name("id")
        except BadRecord as error:
            raise DataError(f"{json_file}: {item.place}: {error}") from None
        stem = PurePosixPath(name).stem if name.lower().endswith(ENDINGS) else name
        if excluded & {name, stem}:
            left_out += 1
            continue
        caption, duration = item.value["caption"], item.value.get("duration")
        fault = None if caption is None or isinstance(caption, str) else "its caption is not text"
        text = caption.strip() if isinstance(caption, str) else ""
        found.append(WavCapsItem(stem, text, archive, members.get(stem, ""), duration, fault))
    return found, left_out


def excluded_ids(path: Path | None, key: str) -> frozenset[str]:
    """The ids to exclude from one set, of a file {"FreeSound": [...], "AudioSet": [...]}; empty without a file."""
    if path is None:
        return frozenset()
    refuse_other_kind(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not valid JSON ({error}); download it again") from None
    if not isinstance(content, dict) or not isinstance(content.get(key), list):
        raise DataError(f"{path}: expected an object with a list {key!r}, as in WavCaps' json_files/blacklist")
    names = [file_name_of(name) for name in content[key]]
    if None in names:
        wrong = kind_of(content[key][names.index(None)])
        raise DataError(f"{path}: {key!r} contains {wrong}, expected ids: text or whole numbers")
    return frozenset(name for name in names if name is not None)


def sample(item: WavCapsItem) -> Sample:
    """The unchanged audio file, its caption, and its entry of the JSON. raises Unusable"""
    if item.fault is not None:
        raise Unusable(item.fault)
    if not item.caption:
        raise Unusable("has no caption")
    if not item.member:
        raise Unusable("its audio is not in the zip")
    try:
        content = open_zip(item.archive).read(item.member)
    except ValueError as error:
        raise Unusable("is damaged in the zip", str(error)) from None
    seconds, rate_hz = probe(content)
    about = {"id": item.id, "caption": item.caption, "duration": item.duration_s, "seconds": round(seconds, 3)}
    ending = PurePosixPath(item.member).suffix[1:].lower()
    details = json.dumps({**about, "rate_hz": rate_hz}, ensure_ascii=False)
    return safe_key(item.id), {ending: content, "txt": item.caption, "json": details}


def probe(content: bytes) -> tuple[float, int]:
    """Length in seconds and sample rate in Hz of an audio file. raises Unusable for an unreadable or empty one"""
    soundfile: Any = need("soundfile", "reading audio files")
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as stream:
            first = stream.read(frames=min(stream.frames, stream.samplerate), dtype="int16")
            seconds, rate_hz = stream.frames / stream.samplerate, stream.samplerate
    except RuntimeError as error:
        raise Unusable("cannot be decoded", in_words(str(error))) from None
    if seconds < MIN_SECONDS or not len(first):
        raise Unusable("is empty", f"{seconds:.3f} s")
    return seconds, rate_hz


@cache
def open_zip(path: Path) -> SplitZip:
    """The zip, whose directory is read once per process; forked workers inherit it."""
    return SplitZip(path)


def main(given: Sequence[str] | None = None) -> int:
    parser = arguments.parser(__doc__, "dataset_prep.wavcaps", "data/NAME")
    parser.set_defaults(out=None)
    parser.add_argument("name", choices=sorted(SETS))
    parser.add_argument(
        "--zip", type=arguments.existing_file, required=True, help="name.zip, with its .z01 ... in the same folder"
    )
    parser.add_argument("--json", type=arguments.existing_file, required=True, help="as_final.json or fsd_final.json")
    parser.add_argument("--exclude", type=arguments.existing_file, help="one of WavCaps' json_files/blacklist/*.json")
    parser.add_argument(
        "--per-shard", type=arguments.positive, default=1000, help="audio files per tar (default: 1000)"
    )
    asked = parser.parse_args(given)
    out = asked.out or Path("data") / asked.name
    found, left_out = read_items(asked.json, asked.zip.resolve(), excluded_ids(asked.exclude, SETS[asked.name]))
    made_with = {
        "json": {"name": asked.json.name, "sha256": sha256(asked.json)},
        "exclude": asked.exclude.name if asked.exclude else None,
        "per_shard": asked.per_shard,
        "limit": asked.limit,
    }
    with Preparation(out, asked.name, "dataset_prep.wavcaps", made_with) as made:
        if left_out:
            made.skip("", "is on the list of --exclude", count=left_out)
        fill_shards(made, shard_parts(found[: asked.limit], asked.per_shard), sample, asked.workers)
    print(made.report())
    return 130 if made.stops else 0


if __name__ == "__main__":
    arguments.run(main)
