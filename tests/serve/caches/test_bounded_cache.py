"""Caches bounded in bytes: which values stay, and what many threads may do to them."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from chatbridge.processors.image import ImageProcessor
from chatbridge.processors.limits import MB, ChatLimits
from chatbridge.serve.caches.bounded_cache import BoundedCache, tensor_bytes
from chatbridge.serve.uploads.upload_reader import UploadReader
from tests.helpers.serve_parts import write_files


def test_what_was_used_longest_ago_goes_first() -> None:
    """Fails when a cache exceeds its limit, drops what was just used, or keeps a value that is too large alone."""
    cache: BoundedCache[str, str] = BoundedCache(10 / MB, len)
    for key in "abc":
        cache.put(key, key * 3)
    assert cache.get("a") == "aaa"
    cache.put("d", "dddd")
    assert [cache.get(key) for key in "abcd"] == ["aaa", None, "ccc", "dddd"]
    cache.put("a", "a" * 11)
    assert cache.get("a") is None and cache.counts().num_bytes == 7
    assert (cache.counts().hits, cache.counts().misses, cache.counts().num_entries) == (4, 2, 2)
    cache.forget()
    assert cache.get("c") is None and cache.counts().num_bytes == 0


def test_many_threads_may_use_a_cache() -> None:
    """Fails when values are crossed, or the number of bytes is not that of what is held."""
    cache: BoundedCache[int, bytes] = BoundedCache(400 / MB, len)

    def use(seed: int) -> int:
        rng, hits = random.Random(seed), 0
        for _ in range(1500):
            key = rng.randrange(40)
            found = cache.get(key)
            assert found is None or found == bytes([key]) * (key + 1)
            hits += found is not None
            cache.put(key, bytes([key]) * (key + 1))
        return hits

    with ThreadPoolExecutor(8) as pool:
        hits = sum(pool.map(use, range(8)))
    counts = cache.counts()
    held = [key + 1 for key in range(40) if cache.get(key) is not None]
    assert counts.num_bytes == sum(held) <= 400 and counts.num_entries == len(held)
    assert (counts.hits, counts.hits + counts.misses) == (hits, 12000)


def test_the_bytes_of_tensors_are_those_of_their_memory() -> None:
    """Fails when a view counts less than the memory that it keeps, or shared memory counts twice."""
    whole = torch.zeros(100, dtype=torch.float64)
    assert tensor_bytes({"a": [whole[:1], whole[50:]]}, (whole,)) == 800


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> UploadReader:
    return UploadReader({"image": ImageProcessor(28)}, ChatLimits(), num_fork_servers=1)


def test_a_file_that_comes_again_is_not_decoded_again(reader: UploadReader, tmp_path: Path) -> None:
    """Fails when the same bytes under another name are decoded again, or changed bytes under the same name are not;
    or when the name of another file is shown."""
    file = write_files(tmp_path / "up")["image"]
    other = file.with_name("other.jpg")
    other.write_bytes(file.read_bytes())
    first, second = reader.attach(file), reader.attach(other, "image")
    again = reader.attach(other)
    assert again.path == other and again.media == first.media and again.media[0].ref is first.media[0].ref
    assert second.media[0].ref is not first.media[0].ref, "read as what its content is, and as what the caller says"
    data = file.read_bytes()
    assert reader.read("image", data) is reader.read("image", bytes(data))
    assert torch.equal(reader.read("image", file).tensor, first.media[0].ref.tensor)  # pyright: ignore
    assert (reader.kept.counts().hits, reader.kept.counts().misses) == (2, 4)
    file.write_bytes(data[:-200])
    with pytest.raises(Exception, match=r"photo\.jpg"):
        reader.attach(file)
    file.write_bytes(data)
    assert reader.attach(file).media == first.media
