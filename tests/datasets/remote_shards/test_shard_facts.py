"""The number of samples per shard, from the files beside it or from the configuration."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from chatbridge.common.errors import ConfigError, DataError, MediaError
from chatbridge.datasets.remote_shards.addresses import shown
from tests.helpers.remote_shards import SIZES, opened, over_http
from tests.helpers.shard_server import serving

pytestmark = pytest.mark.usefixtures("no_waiting")


def test_counts_come_from_files_beside_the_shards(shards: Path, tmp_path: Path):
    """fails when img2dataset's statistics are not read, an unknown count is taken as 0, or a restart reads again"""
    (shards / "manifest.json").unlink()
    for number, size in enumerate(SIZES):
        stats = {"count": 10, "successes": size, "failed_to_download": 10 - size}
        (shards / f"{number:03}_stats.json").write_text(json.dumps(stats))
    with serving(shards) as server:
        assert len(over_http(server)) == len(over_http(server)) == sum(SIZES)
        assert server.asked["001_stats.json"] == 1
        (shards / "003_stats.json").unlink()
        with pytest.raises(DataError, match=r"unknown for 1 of 2 remote shards, first .*/003.tar"):
            opened(tmp_path, f"{server.url}/00{{2,3}}.tar")
        with pytest.raises(DataError, match="set samples_per_shard"):
            opened(tmp_path, f"pipe:curl {server.url}/000.tar")


def test_a_truncated_shard_does_not_repeat_its_first_samples(shards: Path, tmp_path: Path):
    """fails when the missing samples of a truncated shard are silently replaced by its first ones"""
    source = opened(tmp_path, f"pipe:head -c 4000 {shards}/000.tar", samples_per_shard=5)
    reasons = []
    for index in range(5):
        try:
            reasons.append(source.record(index, np.random.default_rng(0)).id)
        except MediaError as error:
            reasons.append(str(error))
    assert reasons[0] == "000.tar/00000" and "000.tar is damaged at byte" in reasons[-1]
    assert [reasons.count(f"000.tar/{index:05}") <= 1 for index in range(5)] == [True] * 5


def test_a_wrong_number_of_samples_per_shard_is_reported(shards: Path, tmp_path: Path):
    """fails when samples repeat within a pass, or are never read, without a message"""
    pattern = f"file://{shards}/{{000..004}}.tar"  # of 5, 3, 7, 4 and 6
    effects = {"repeat": 20, "never read": 3, None: 6}
    for effect, said in effects.items():
        source = opened(tmp_path / str(said), pattern, samples_per_shard=said)
        assert source.doubt() is None, "nothing was fetched"
        for first in range(0, len(source), said):
            source.record(first, np.random.default_rng(0))
        doubt = source.doubt()
        assert doubt is None if effect is None else effect in str(doubt) and "set samples_per_shard: 5" in str(doubt)


def test_patterns_are_checked_before_any_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """fails when a missing package or a wildcard is found only after an hour"""
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as if it were not installed
    for pattern, message in (
        ("s3://bucket/{0..3}.tar", "pip install -e '.[remote]'"),
        ("https://host/*.tar", "cannot be listed"),
        ("htps://host/1.tar", "htps"),
    ):
        with pytest.raises(ConfigError) as caught:
            opened(tmp_path, pattern)
        assert message in " ".join(str(caught.value).split())
    assert shown("https://me:secret@host/a/1.tar?signature=secret") == "https://host/a/1.tar"
