"""Tars of any shape, and what a source reads from them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np

from chatbridge.common.errors import DataError, MediaError
from chatbridge.config.schema import parse
from chatbridge.datasets.builders.web_pairs import WebPairs


def opened(tar: Path | str, **options: object) -> WebPairs:
    return WebPairs(parse(WebPairs.Config, {"shards": str(tar), "modality": "image", **options}), "pairs")


def read(source: WebPairs, index: int) -> tuple[bytes, str] | str:
    """Image and caption of a sample, or the reason why there are none."""
    try:
        turns = source.record(index, np.random.default_rng(0)).conversation
    except MediaError as error:
        return str(error)
    return turns[0].media[0].ref, turns[1].text


def outcomes(tar: Path, **options: object) -> list[tuple[bytes, str] | str]:
    source = opened(tar, **options)
    return [read(source, index) for index in range(len(source))]


def outcomes_or_refusal(tar: Path) -> list[tuple[bytes, str] | str] | str:
    try:
        return outcomes(tar)
    except DataError as error:
        return str(error)


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def file(name: str, content: bytes | str) -> tuple[tarfile.TarInfo, bytes]:
    content = content.encode() if isinstance(content, str) else content
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info, content


def pack(tar: Path, members: list, format: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(tar, "w", format=format) as archive:
        for member in members:
            info, content = member if isinstance(member, tuple) else (member, b"")
            archive.addfile(info, io.BytesIO(content))
    return tar


def keys(tar: Path) -> list[str]:
    source = opened(tar)
    return [source.sample_id(index).partition("/")[2] for index in range(len(source))]
