"""`limit`: which samples of a source a run uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatbridge.common import seeds
from chatbridge.config.schema import parse
from chatbridge.datasets.builders import BUILDERS, Dataset
from tests.helpers.tiny_media import pairs, write_json, write_tar


def opened(folder: Path, builder: str, records: list[Any], **options: Any) -> Dataset:
    part: Any = BUILDERS.get(builder)
    key = "file" if builder == "records" else "annotations"
    return part(parse(part.Config, {key: str(write_json(folder / "a.json", records)), **options}), "mine")


def test_a_limit_takes_a_sample_of_all(tmp_path: Path):
    """fails when a limit takes the first samples of the file, differs from run to run, or misnames its samples"""
    lines = [{"messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": str(k)}]}
             for k in range(200)]  # fmt: skip

    def taken(**options: Any) -> list[int]:
        source = opened(tmp_path, "records", lines, limit=20, **options)
        found = [int(source.record(k, seeds.stream(0, "t")).conversation[-1].text) for k in range(len(source))]
        assert [source.sample_id(k) for k in range(len(source))] == [f"a.json#{k}" for k in found]
        return found

    assert taken() == taken(limit_seed=0) == sorted(set(taken())) and max(taken()) > 100
    assert taken(limit_seed=1) != taken() and len(taken(limit_seed=1)) == 20
    assert taken(limit_seed=None) == list(range(20))
    with pytest.raises(IndexError):
        opened(tmp_path, "records", lines, limit=20).sample_id(20)


def test_a_limit_over_tars_keeps_its_windows(tmp_path: Path):
    """fails when a limited source of several tars repeats a sample, or its order leaves some out"""
    for number in range(3):
        write_tar(tmp_path / f"{number}.tar", pairs(10, first=10 * number))
    part: Any = BUILDERS.get("web_pairs")
    options = {"shards": str(tmp_path / "{0..2}.tar"), "modality": "image", "limit": 12, "window_shards": 1}
    source = part(parse(part.Config, options), "pairs")
    names = [source.sample_id(k) for k in range(12)]
    assert len(set(names)) == 12 and {name.partition("/")[0] for name in names} == {"0.tar", "1.tar", "2.tar"}
    order = source.shuffle(3)
    assert sorted(int(k) for k in order.indices(np.arange(12))) == list(range(12))
