"""Tars of pairs in the webdataset and img2dataset layout: 000123.jpg + 000123.txt (or .json) are one sample.

The media file and the text that follow the name of the modality:
    image  jpg jpeg png webp       video  mp4 webm mkv avi mov       audio  wav flac mp3 ogg m4a
    txt    the caption             json   an object; `caption_field` is the caption or a list of which one is drawn
Samples are addressed by index through a side index (datasets/tar_index.py). A sample without its media or its text is
a failure of that sample: written down and replaced, never an end of the run and never silent.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from chatbridge.common.errors import DataError, MediaError, Problem
from chatbridge.conversation.messages import Media, assistant, user
from chatbridge.conversation.text import CLEANERS
from chatbridge.datasets.builders.base import BUILDERS, Dataset, DatasetConfig, Record, draw
from chatbridge.datasets.files import FilePieces
from chatbridge.datasets.shards import expand, shard_problems
from chatbridge.datasets.tar_index import ENDINGS, SLOTS, WHOLE, TarIndex, find_index, open_index, row_type

logger = logging.getLogger(__name__)


@BUILDERS.register("web_pairs")
class WebPairs(Dataset):
    @dataclass(frozen=True, kw_only=True)
    class Config(DatasetConfig):
        shards: str | tuple[str, ...]  # paths of tars, with {000..331} and * as in a shell
        modality: Literal["image", "video", "audio"]  # which media file of a sample is used
        text: Literal["auto", "txt", "json"] = "auto"  # where the caption is; auto: the txt, without one the json
        caption_field: str = "caption"  # field of the json that holds the caption or a list of captions
        clean: bool = True  # lower case and strip as stage 1 did
        cleaner: Literal["chatbridge", "minigpt4"] = "chatbridge"  # whose stage 1: they strip different signs
        index_folder: Path | None = None  # for indexes that cannot stand beside their tar; null: the user's cache

        @property
        def patterns(self) -> tuple[str, ...]:
            return (self.shards,) if isinstance(self.shards, str) else self.shards

        @property
        def modalities(self) -> tuple[str, ...]:
            return (self.modality,)

        def problems(self) -> Iterator[Problem]:
            if not self.patterns:
                yield Problem("shards", "is an empty list")
            yield from shard_problems(self.patterns)

    config: Config

    def __init__(self, config: Config, name: str):
        super().__init__(config, name)
        self.modalities = frozenset(config.modalities)
        self._shards = _open_shards(name, expand(config.patterns)[0], config.index_folder)
        self._ends = np.cumsum([shard.count for shard in self._shards], dtype=np.int64)
        self._files = FilePieces()
        self._settle(int(self._ends[-1]) if self._shards else 0, str(config.shards))

    def sample_id(self, index: int) -> str:
        shard, row = self._find(index)
        return f"{shard.tar.name}/{_key(row)}"

    def record(self, index: int, rng: np.random.Generator) -> Record:
        shard, row = self._find(index)
        media = self._member(shard, row, self.config.modality)
        if media is None:
            raise MediaError(
                f"the tar has no {self.config.modality} of {_key(row)} ({', '.join(ENDINGS[self.config.modality])})"
            )
        captions = self._captions(shard, row)
        messages = (user(Media(self.config.modality, media)), assistant(draw(captions, rng)))
        return Record(f"{shard.tar.name}/{_key(row)}", messages, captions)

    def _captions(self, shard: TarIndex, row: np.void) -> tuple[str, ...]:
        kinds = ("txt", "json") if self.config.text == "auto" else (self.config.text,)
        for kind in kinds:
            content = self._member(shard, row, kind)
            if content is not None:
                texts = _texts(content, kind, self.config.caption_field)
                clean = CLEANERS[self.config.cleaner] if self.config.clean else str.strip
                texts = [clean(text) for text in texts]
                if any(texts):
                    return tuple(text for text in texts if text)
                raise MediaError(f"the caption of {_key(row)} is empty")
        raise MediaError(f"the tar has no text of {_key(row)} ({' or '.join(kinds)})")

    def _find(self, index: int) -> tuple[TarIndex, np.void]:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)} in source {self.name!r}")
        number = int(np.searchsorted(self._ends, index, side="right"))
        shard = self._shards[number]
        inside = index - int(self._ends[number]) + shard.count
        content = self._files.read(shard.file, shard.row_at(inside), shard.row_bytes)
        if len(content) < shard.row_bytes:
            raise DataError(f"{shard.file}: was changed while it was in use; start again")
        return shard, np.frombuffer(content, row_type(shard.key_bytes))[0]

    def _member(self, shard: TarIndex, row: np.void, kind: str) -> bytes | None:
        slot = SLOTS.index(kind)
        at, size = int(row["at"][slot]), int(row["size"][slot])
        if at < 0:
            return None
        try:
            content = self._files.read(shard.tar, at, size)
        except OSError as error:
            raise MediaError(f"{shard.tar}: cannot be read: {error.strerror}") from None
        if len(content) < size:
            raise MediaError(f"{shard.tar} breaks off inside the {kind} of {_key(row)}")
        return content


def _open_shards(name: str, tars: list[Path], index_folder: Path | None) -> list[TarIndex]:
    """Indexes of all tars. Processes that open a source at once begin at different tars and share the work."""
    found = {tar: find_index(tar, index_folder) for tar in tars}
    missing = [tar for tar in tars if found[tar] is None]
    if missing:
        logger.info("source %s: indexing %d of %d tars", name, len(missing), len(tars))
    first = os.getpid() % max(len(missing), 1)
    for tar in missing[first:] + missing[:first]:
        found[tar] = open_index(tar, index_folder)
    shards = [shard for shard in found.values() if shard is not None]
    for shard in shards:
        if shard.damage != WHOLE:
            logger.warning("source %s: %s is damaged at byte %d; %d samples before it are used",
                           name, shard.tar, shard.damage, shard.count)  # fmt: skip
    return shards


def _texts(content: bytes, kind: str, field: str) -> list[str]:
    try:
        text = content.decode("utf-8-sig")
        value: Any = json.loads(text).get(field) if kind == "json" else text
    except (ValueError, AttributeError):
        raise MediaError(f"its {kind} is no {'JSON object' if kind == 'json' else 'UTF-8 text'}") from None
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise MediaError(f"its json has no text in {field!r}")
    return texts


def _key(row: np.void) -> str:
    return bytes(row["key"]).decode("utf-8", "replace")
