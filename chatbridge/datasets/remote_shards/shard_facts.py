"""The number of samples of each remote shard, known before the shard is downloaded.

Read from the first of these files beside the shard: `manifest.json` (written by dataset_prep), `<shard>.tar.index`
(ChatBridge's side index), `<shard>_stats.json` (written by img2dataset). The numbers are kept in the cache folder, so
the order of a run does not depend on reading them again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from chatbridge.common.errors import DataError
from chatbridge.common.safe_files import replace_text
from chatbridge.datasets.remote_shards.addresses import PIPE, RemoteShard, name_of, shown
from chatbridge.datasets.remote_shards.download import read_small
from chatbridge.datasets.remote_shards.open_stream import FetchError
from chatbridge.datasets.tars.index import HEADER, HEADER_BYTES, MAGIC, index_ending
from chatbridge.datasets.tars.sample_names import index_columns

logger = logging.getLogger(__name__)

REQUESTS = 16  # at a time
MANIFEST_BYTES = 256 << 20
STATS_BYTES = 16 << 20


def remote_shards(
    source: str, addresses: Sequence[str], samples_per_shard: int | None, cache_folder: Path
) -> list[RemoteShard]:
    """The shards with their numbers of samples, and bytes and sha256 if known.

    samples_per_shard   of every shard, from the configuration; None: read them
    raises              DataError when the number is unknown for one of them
    """
    if samples_per_shard is not None:
        return [RemoteShard(address, samples_per_shard) for address in addresses]
    about = "\n".join(
        [MAGIC.decode() + index_columns().mark, *addresses]
    )  # counts of an older scan are asked for again
    mark = hashlib.blake2b(about.encode(errors="surrogatepass"), digest_size=8).hexdigest()
    kept = cache_folder / f"counts.{mark}.json"
    facts = _read_kept(kept)
    if len(facts) != len(addresses):
        logger.info("source %s: reading the number of samples of %d remote shards", source, len(addresses))
        facts = _read_facts(addresses)
        _keep(kept, facts)
    return [RemoteShard(address, *fact) for address, fact in zip(addresses, facts)]


def _read_facts(addresses: Sequence[str]) -> list[list[Any]]:
    remote = [address for address in addresses if not address.startswith(PIPE)]
    manifests = {folder: _manifest(folder) for folder in dict.fromkeys(map(_folder, remote))}
    found = {address: manifests[_folder(address)].get(name_of(address)) for address in remote}
    unlisted = [address for address in remote if found[address] is None]
    reasons: list[str] = []
    with ThreadPoolExecutor(REQUESTS) as pool:
        for address, answer in zip(unlisted, pool.map(_count_beside, unlisted)):
            found[address] = None if isinstance(answer, str) else [answer, None, None]
            reasons += [answer] if isinstance(answer, str) else []
    unknown = [address for address in addresses if found.get(address) is None]
    if unknown:
        tried = f" ({reasons[0]})" if reasons else ""
        raise DataError(
            f"the number of samples is unknown for {len(unknown)} of {len(addresses)} remote shards, first "
            f"{shown(unknown[0])}{tried}. Put a manifest.json or the indexes (python -m chatbridge data index) beside "
            "the shards, or set samples_per_shard"
        )
    return [fact for address in addresses if (fact := found[address]) is not None]


def _manifest(folder: str) -> dict[str, list[Any]]:
    """name -> samples, bytes, sha256 of the shards in a manifest; empty without a manifest."""
    try:
        content = json.loads(read_small(f"{folder}/manifest.json", MANIFEST_BYTES))
        return {
            Path(file["path"]).name: [int(file["samples"]), file.get("bytes"), file.get("sha256")]
            for file in content["files"]
            if file.get("samples") is not None
        }
    except FetchError as error:
        if not error.is_final:
            raise DataError(
                f"{error}; the manifest lists the samples per shard, set samples_per_shard to run without it"
            ) from None
        return {}
    except (ValueError, KeyError, TypeError, AttributeError):
        logger.warning("%s/manifest.json is not a ChatBridge manifest and is ignored", shown(folder))
        return {}


def _count_beside(address: str) -> int | str:
    """The number of samples of one shard from its index or its statistics, or why neither could be read."""
    reasons = []
    stem = address.partition("?")[0].removesuffix(".tar")
    for place, most_bytes, read in (
        (f"{stem}.tar{index_ending()}", HEADER_BYTES, _count_of_index),
        (f"{stem}_stats.json", STATS_BYTES, _count_of_stats),
    ):
        try:
            return read(read_small(place, most_bytes))
        except (FetchError, ValueError, KeyError, TypeError) as error:
            is_read = not isinstance(error, FetchError)
            reasons.append(f"{shown(place)}: not in the expected format" if is_read else str(error))
    return "; ".join(reasons)


def _count_of_index(content: bytes) -> int:
    header = np.frombuffer(content, HEADER)[0]
    if header["magic"] != MAGIC:
        raise ValueError("not an index of this version")
    return int(header["count"])


def _count_of_stats(content: bytes) -> int:
    return int(json.loads(content)["successes"])


def _folder(address: str) -> str:
    return address.partition("?")[0].rpartition("/")[0]


def _read_kept(file: Path) -> list[list[Any]]:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return []


def _keep(file: Path, facts: list[list[Any]]) -> None:
    try:
        replace_text(file, json.dumps(facts))
    except OSError as error:
        raise DataError(f"the cache folder {file.parent} is not writable: {error.strerror}") from None
