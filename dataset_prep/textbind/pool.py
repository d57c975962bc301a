"""The pool: images with captions and addresses, and an embedding of each, in one .npz per part of the source."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from chatbridge.common.errors import DataError, some
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.datasets.tars.patterns import expand
from dataset_prep.textbind.image_tags import ASSISTANT, HUMAN
from dataset_prep.textbind.record_files import read_records

MARKS = re.compile(rf"</?img\d+>|{HUMAN}|{ASSISTANT}")
RECORDS = ("image_idx", "caption", "url", "file")


@dataclass(frozen=True)
class Pair:
    """One image of the source.

    image_idx  its number, or in tars its name, unique in the pool
    file       where it is: a path, or `shard.tar/key.jpg`
    content    of a file in a tar
    fault      why it cannot be used
    """

    image_idx: int | str
    caption: str = ""
    url: str = ""
    file: str = ""
    content: bytes | None = None
    fault: str | None = None

    @property
    def record(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in RECORDS}


Embed = Callable[[Sequence[Pair]], "list[np.ndarray | str]"]  # an embedding, or why there is none
Part = tuple[str, Callable[[], Iterator[Pair]]]  # (name of its file in the pool, its pairs)


def list_parts(path: Path, images: Path | None, per_file: int, limit: int | None) -> list[Part]:
    """The parts of a list of {"image", "caption", "url", "image_idx"}.

    images   the folder of relative paths (default: that of the list)
    """
    records = read_records(path)[:limit]
    numbers = [record.get("image_idx", number) for number, record in enumerate(records)]
    if len(set(map(str, numbers))) < len(numbers):
        raise DataError(f"{path}: an image_idx occurs more than once; each names a file of its own")
    folder = images or path.parent
    pairs = [_listed(number, record, folder) for number, record in zip(numbers, records, strict=True)]
    starts = range(0, len(pairs), per_file)
    return [(f"{number:05d}.npz", partial(iter, pairs[at : at + per_file])) for number, at in enumerate(starts)]


def _listed(number: int | str, record: dict[str, Any], folder: Path) -> Pair:
    caption, image = record.get("caption"), record.get("image")
    if fault := caption_fault(caption):
        return Pair(number, fault=fault)
    if not isinstance(image, str):
        return Pair(number, fault="has no image")
    return Pair(number, " ".join(str(caption).split()), str(record.get("url") or ""), str(folder / image))


def caption_fault(caption: object) -> str | None:
    """Why a caption cannot be given to the language model; None if it can."""
    if not isinstance(caption, str) or not caption.strip():
        return "has no caption"
    return "its caption contains a tag or a role of a conversation" if MARKS.search(caption) else None


def tar_parts(patterns: Sequence[str]) -> list[Part]:
    """One part per tar in the layout of img2dataset: KEY.jpg, KEY.txt, KEY.json with the address.

    raises   DataError for a pattern without files, or two tars of the same name
    """
    paths, problems = expand(patterns)
    if problems or not paths:
        raise DataError("\n".join(problems) or f"no tar matches {some(patterns)}")
    stems = [path.stem for path in paths]
    if repeated := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise DataError(f"several tars are named {some(repeated)}; an image is named by its tar and key")
    return [(f"{path.stem}.npz", partial(_in_tar, path)) for path in paths]


def _in_tar(path: Path) -> Iterator[Pair]:
    from webdataset.tariterators import group_by_keys

    try:
        with tarfile.open(path) as tar:
            members = ({"fname": one.name, "data": _content(tar, one), "__url__": str(path)}
                       for one in tar if one.isfile())  # fmt: skip
            for sample in group_by_keys(members):
                yield _of_sample(path, sample)
    except (tarfile.TarError, ValueError) as error:  # webdataset: two files of one name
        raise DataError(f"{path}: cannot be read: {error}; download it again") from None


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    return stream.read() if stream else b""


def _of_sample(path: Path, sample: dict[str, Any]) -> Pair:
    key = f"{path.stem}_{Path(sample['__key__']).name}"
    ending = next((one for one in MODALITIES.get("image").endings.members if one in sample), None)
    try:
        about = json.loads(sample.get("json") or b"{}")
    except ValueError:
        about = {}
    about = about if isinstance(about, dict) else {}
    text = sample["txt"].decode("utf-8", "replace") if "txt" in sample else str(about.get("caption") or "")
    if ending is None:
        return Pair(key, fault="has no image")
    if fault := caption_fault(text):
        return Pair(key, fault=fault)
    file = f"{path}/{sample['__key__']}.{ending}"
    return Pair(key, " ".join(text.split()), str(about.get("url") or ""), file, sample[ending])


# ---------------------------------------------------------------- files of the pool


def unit(x: np.ndarray) -> np.ndarray:
    """float[n, W] -> rows of length 1; rows of zeros stay."""
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(length > 0, length, 1.0)


def write_part(path: Path, embeddings: np.ndarray, pairs: Sequence[Pair]) -> None:
    """Write the part of a pool.

    embeddings   float[n, W], stored as float16
    """
    records = json.dumps([pair.record for pair in pairs], ensure_ascii=False).encode()
    with path.open("wb") as stream:
        np.savez(stream, x=embeddings.astype(np.float16), records=np.frombuffer(records, np.uint8))


class Pool:
    """The parts of a folder that `embed` made. raises DataError without any"""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths = sorted(folder.glob("*.npz")) if folder.is_dir() else []
        if not self.paths:
            raise DataError(f"{folder}: has no .npz files; make them with `embed`")

    def embeddings(self) -> Iterator[np.ndarray]:
        """float32[n, W] of each part, in order. raises DataError when their widths differ"""
        width = None
        for path in self.paths:
            x = self._read(path, "x").astype(np.float32)
            width = x.shape[1] if width is None else width
            if x.shape[1] != width:
                raise DataError(f"{path}: embeddings have {x.shape[1]} values, those before have {width}")
            yield x

    def records(self) -> Iterator[dict[str, Any]]:
        """{"image_idx", "caption", "url", "file"} of every image, in the order of the embeddings."""
        for path in self.paths:
            yield from json.loads(self._read(path, "records").tobytes())

    def _read(self, path: Path, name: str) -> np.ndarray:
        try:
            with np.load(io.BytesIO(path.read_bytes())) as file:
                return file[name]
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise DataError(f"{path}: is not a part of a pool ({error}); remove it and repeat `embed`") from None
