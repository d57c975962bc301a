"""Tars of pairs in the webdataset and img2dataset layout: 000123.jpg + 000123.txt (or .json) are one sample.

The ending of a file decides whether it is media (conversation/modalities.py lists the endings) or text:
    txt    the caption                json   an object; `caption_field` is the caption or a list of which one is drawn
The key of a sample is the name up to its last ending, dots included; datasets/tars/sample_names.py has the rules. Files
that belong to no sample (`a.cls`, `a.seg.png` beside `a.jpg`, `._a.jpg`) are counted and named in the log of the run,
by `chatbridge data check` and by `chatbridge data index`.
Samples are addressed by index through a side index (datasets/tars/index.py). A sample without its media or its text is
a failure of that sample, which is logged and replaced.

Remote shards are downloaded into a cache (datasets/remote_shards) and read there in the same way. They come in windows:
the order is a bounded shuffle, exact for any number of workers and ranks. Every machine of a run downloads every shard
it reads once per pass.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from chatbridge.common.errors import DataError, MediaError, Problem
from chatbridge.common.text_repair import repaired
from chatbridge.config.schema import NameIn, Range, Unit
from chatbridge.conversation.messages import Conversation, Media, Message, assistant, user
from chatbridge.conversation.modalities import MODALITIES
from chatbridge.conversation.text_cleaning import CLEANERS
from chatbridge.datasets.builders._annotated_media import MEDIA_OF_TAG
from chatbridge.datasets.builders._prompts import read_prompts, request_problem, with_request
from chatbridge.datasets.builders._tar_members import TarMembers, captions_in, key_of
from chatbridge.datasets.builders.base import BUILDERS, Dataset, DatasetConfig, Record, draw
from chatbridge.datasets.order.shuffle import Shuffle
from chatbridge.datasets.remote_shards.addresses import PIPE, expand_remote, is_remote, shard_problems
from chatbridge.datasets.remote_shards.cache import ShardCache, default_cache_folder
from chatbridge.datasets.remote_shards.cache_space import GB
from chatbridge.datasets.remote_shards.permissions import refuse_without_remote_access
from chatbridge.datasets.remote_shards.shard_facts import remote_shards
from chatbridge.datasets.remote_shards.source import RemoteShards
from chatbridge.datasets.remote_shards.window_shuffle import WindowShuffle
from chatbridge.datasets.tars.index import IndexRow, TarIndex
from chatbridge.datasets.tars.local_shards import LocalShards
from chatbridge.datasets.tars.open_files import OpenFiles
from chatbridge.datasets.tars.parallel_indexing import index_tars
from chatbridge.datasets.tars.patterns import expand
from chatbridge.datasets.tars.sample_names import LeftOut

logger = logging.getLogger(__name__)

WINDOW_SHARDS = 4  # of remote sources: two windows of LAION's shards fit into 10 GB
FAR = 1.25  # samples_per_shard over the samples found in a shard, or the other way round, that is reported
REPAIRED = "its caption held half an emoji or a zero character, replaced by U+FFFD"
MOST_OUTLINED = 4096  # samples whose text is kept from their outline to their reading
MOST_NAMING = 100  # tars whose files in no sample are named
MOST_SHOWN = 20  # tars that cannot be read, in one message


@BUILDERS.register("web_pairs")
class WebPairs(Dataset):
    @dataclass(frozen=True, kw_only=True)
    class Config(DatasetConfig):
        # paths of tars, with {000..331} and * as in a shell; or addresses, http(s)://, s3://, ..., pipe:command
        shards: str | tuple[str, ...]
        modality: Annotated[str, NameIn(MODALITIES)]  # which media file of a sample is used
        text: Literal["auto", "txt", "json"] = "auto"  # where the caption is; auto: the txt, without one the json
        caption_field: str = "caption"  # field of the json that holds the caption or a list of captions
        clean: bool = True  # lower case and strip as stage 1 did
        cleaner: Literal["chatbridge", "minigpt4"] = "chatbridge"  # whose stage 1: they strip different characters
        # JSON: tag -> requests, one of which is drawn and asked with the media; tags are ti-cap, tv-cap and ta-cap. The
        # media are at the marker of a request (<image>, <video>, <audio>), without one before it. null: media alone
        prompts: Path | None = None
        index_folder: Path | None = None  # for indexes that cannot be written beside their tar; null: the user's cache
        # shuffle the shards, and samples inside windows of this many; null: local samples as a whole, remote ones by 4
        window_shards: Annotated[int, Range(low=1)] | None = None
        # of remote shards; null: as in the manifest.json, <shard>.tar.index or <shard>_stats.json beside them
        samples_per_shard: Annotated[int, Range(low=1)] | None = None
        cache_folder: Path | None = None  # where remote shards are kept; null: the user's cache
        cache_gb: Annotated[float, Unit("GB"), Range(above=0)] = (
            50.0  # size of that cache; the oldest shards are removed first
        )

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
            if self.prompts is not None:
                problem = request_problem(self.prompts, self.prompt_tag, self.modality)
                yield from () if problem is None else (problem,)
            if not MODALITIES.get(self.modality).endings.members:
                message = f"{self.modality!r} is registered without endings of files in tar shards"
                yield Problem("modality", message, hint="give its Endings `members`, for example ('npy',)")
            if self.samples_per_shard is not None and not self.is_remote:
                yield Problem("samples_per_shard", "is for remote shards; local ones are counted", hint="leave it out")

        @property
        def prompt_tag(self) -> str:
            """The tag of the requests for a caption; "" where no tag names the modality alone."""
            return next((f"{tag}-cap" for tag, kinds in MEDIA_OF_TAG.items() if kinds == (self.modality,)), "")

        @property
        def is_remote(self) -> bool:
            return any(is_remote(pattern) for pattern in self.patterns)

    config: Config

    def __init__(self, config: Config, name: str):
        super().__init__(config, name)
        self.modalities = frozenset(config.modalities)
        self._files = OpenFiles()
        self._outlined: dict[int, tuple[IndexRow, tuple[str, ...]]] = {}  # samples that are outlined and not read yet
        self._requests = () if config.prompts is None else read_prompts(config.prompts)[config.prompt_tag]
        self._members = TarMembers(self._files, config.modality, config.text)
        self._shards = self._remote_shards() if config.is_remote else self._local_shards()
        self._ends = list(accumulate(self._shards.counts))
        self._settle(self._ends[-1] if self._ends else 0, str(config.shards), in_order=config.is_remote)
        if not config.is_remote and (left := self.note()):
            logger.info("source %s: %s", name, left)

    def shuffle(self, seed: int) -> Shuffle:
        """Remote shards are read window by window, so that only a few are needed at a time."""
        shards = self._shards
        if self.config.window_shards is None and isinstance(shards, LocalShards):
            return super().shuffle(seed)
        # without a limit nothing is listed: a source may hold hundreds of millions of samples
        ends = np.minimum(self._ends, len(self)) if self._chosen is None else np.searchsorted(self._chosen, self._ends)
        counts = np.diff(ends, prepend=0).tolist()
        follow = shards.follow if isinstance(shards, RemoteShards) else None
        return WindowShuffle(self.name, counts, self.config.window_shards or WINDOW_SHARDS, seed, follow)

    def doubt(self) -> str | None:
        """A `samples_per_shard` far from the real number: samples repeat, or are never read."""
        stated = self.config.samples_per_shard
        here = self._shards.available() if stated and isinstance(self._shards, RemoteShards) else {}
        counts = {number: index.count for number, index in here.items()}
        held = sum(counts.values()) / max(len(counts), 1)
        if not stated or not held or max(stated / held, held / stated) <= FAR:
            return None
        effect = "samples repeat within a pass" if stated > held else "the others are never read"
        return (
            f"source {self.name}: {len(counts)} of its shards are here and hold {held:,.0f} samples each, "
            f"samples_per_shard is {stated:,}: {effect}; set samples_per_shard: {max(1, round(held))}"
        )

    def note(self) -> str | None:
        found = LeftOut()
        having = [index for index in self._shards.available().values() if index.left_out]
        for index in having[:MOST_NAMING]:
            found.update(index.left().kinds)
        if len(having) > MOST_NAMING:
            found.add("in further tars", (), sum(index.left_out for index in having[MOST_NAMING:]))
        return str(found) if having else None

    def commands(self) -> tuple[str, ...]:
        patterns = self.config.patterns
        return tuple(pattern.removeprefix(PIPE).strip() for pattern in patterns if pattern.startswith(PIPE))

    def sample_id(self, index: int) -> str:
        number, inside = self._position(index)
        try:
            shard = self._shards.open(number)
            return f"{self._shards.name(number)}/{key_of(self._row(number, inside, shard))}"
        except MediaError:  # a shard that cannot be downloaded
            return f"{self._shards.name(number)}/sample {inside}"

    def meant_by(self, name: str) -> Sequence[str]:
        """Earlier releases gave shards of one name in two folders the same name: the samples `00000.tar/7` may mean."""
        tar, _, key = name.partition("/")
        alike = [number for number, own in self._shards.names.items() if own.rpartition("/")[2] == tar]
        if not alike or any(name.startswith(f"{own}/") for own in self._shards.names.values()):
            return (name,)
        here = self._shards.available()
        return [
            f"{self._shards.name(number)}/{key}"
            for number in alike
            if number not in here or (here[number].rows()["key"] == key.encode(errors="surrogatepass")).any()
        ]

    def record(self, index: int, rng: np.random.Generator) -> Record:
        number, inside = self._position(index)
        shard = self._shards.open(number)
        if (known := self._outlined.pop(index, None)) is not None:
            row, captions = known
            media = self._members.read_media(shard, row)
        else:
            row = self._row(number, inside, shard)
            media, text, kind = self._members.read(shard, row)
            captions = self._captions(row, text, kind)
        messages = (self._asked(media, rng), assistant(repaired(draw(captions, rng))))
        name, references = f"{self._shards.name(number)}/{key_of(row)}", tuple(map(repaired, captions))
        return Record(name, messages, references, repaired=None if references == captions else REPAIRED)

    def outline(self, index: int, rng: np.random.Generator) -> Conversation:
        """Reads the text alone, not the bytes of the media file."""
        number, inside = self._position(index)
        shard = self._shards.open(number)
        row = self._row(number, inside, shard)
        captions = self._captions(row, *self._members.read_text(shard, row))
        if len(self._outlined) >= MOST_OUTLINED:  # other ranks read most of them
            del self._outlined[next(iter(self._outlined))]
        self._outlined[index] = row, captions
        return self._asked(b"", rng), assistant(repaired(draw(captions, rng)))

    def _asked(self, media: bytes, rng: np.random.Generator) -> Message:
        """The turn of the user: the media, with a request where there are any."""
        item = Media(self.config.modality, media)
        return user(*with_request(item, draw(self._requests, rng))) if self._requests else user(item)

    def _captions(self, row: IndexRow, content: bytes, kind: str) -> tuple[str, ...]:
        clean = CLEANERS[self.config.cleaner] if self.config.clean else str.strip
        texts = [clean(text) for text in captions_in(content, kind, self.config.caption_field)]
        if any(texts):
            return tuple(text for text in texts if text)
        raise MediaError(f"the caption of {key_of(row)} is empty")

    def _position(self, index: int) -> tuple[int, int]:
        """Number of the shard of a sample, and its number in the shard."""
        index = self._stored(index)
        number = bisect_right(self._ends, index)
        return number, index - (self._ends[number - 1] if number else 0)

    def _row(self, number: int, inside: int, shard: TarIndex) -> IndexRow:
        return self._members.row(shard, self._shards.row(number, inside, shard))

    def _local_shards(self) -> LocalShards:
        """raises   DataError with every tar that cannot be read"""
        tars = expand(self.config.patterns)[0]
        indexed = index_tars(tars, self.config.index_folder, progress=f"source {self.name}")
        reasons = [one.reason for one in indexed if one.reason is not None]
        if reasons:
            more = [f"... and {len(reasons) - MOST_SHOWN} more"] if len(reasons) > MOST_SHOWN else []
            raise DataError("\n    ".join([*reasons[:MOST_SHOWN], *more]))
        indexes = [one.index for one in indexed if one.index is not None]
        for index in indexes:
            if index.fault is not None:
                logger.warning("source %s: %s %s", self.name, index.tar, index.fault)
        return LocalShards(indexes)

    def _remote_shards(self) -> RemoteShards:
        """raises   DataError when the number of samples in the shards cannot be determined"""
        config = self.config
        refuse_without_remote_access(config.patterns)
        folder = config.cache_folder or default_cache_folder()
        shards = remote_shards(self.name, expand_remote(config.patterns)[0], config.samples_per_shard, folder)
        cache = ShardCache(folder, config.cache_gb * GB, time.time())
        most_open = 2 * (config.window_shards or WINDOW_SHARDS)
        return RemoteShards(shards, cache, config.samples_per_shard is not None, most_open, self._files.forget)
