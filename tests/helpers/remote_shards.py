"""Five small shards with a manifest, and sources that read them from a server, a command or a file system."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import numpy as np

from chatbridge.config.schema import parse
from chatbridge.datasets.builders.web_pairs import WebPairs
from tests.helpers.shard_server import ShardServer
from tests.helpers.tiny_media import pairs, write_tar

SIZES = (5, 3, 7, 4, 6)


def write_shards(folder: Path) -> Path:
    """Five tars of 5, 3, 7, 4 and 6 samples with a manifest; image and caption hold the number of the sample."""
    first, files = 0, []
    for number, size in enumerate(SIZES):
        tar = write_tar(folder / f"{number:03}.tar", pairs(size, first))
        content = tar.read_bytes()
        files.append({"path": tar.name, "samples": size, "bytes": len(content), "sha256": sha256(content).hexdigest()})
        first += size
    (folder / "manifest.json").write_text(json.dumps({"name": "test", "files": files}))
    return folder


def opened(folder: Path, pattern: str, **options: object) -> WebPairs:
    settings = {"shards": pattern, "modality": "image", "cache_folder": str(folder / "cache"), **options}
    return WebPairs(parse(WebPairs.Config, settings), "pairs")


def over_http(server: ShardServer, **options: object) -> WebPairs:
    return opened(server.folder.parent, f"{server.url}/{{000..004}}.tar", **options)


def words(source: WebPairs, index: int) -> str:
    return source.record(index, np.random.default_rng(0)).conversation[1].text


def cached(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "cache").glob("*/*.tar"))
