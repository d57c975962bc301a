"""From a draw to a decoded sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_media import layout, write_json
from torch import Tensor

from chatbridge.common import seeds
from chatbridge.common.errors import MediaError
from chatbridge.common.schema import parse
from chatbridge.datasets.builders import BUILDERS, Dataset
from chatbridge.datasets.mixture import Mixture
from chatbridge.datasets.reading import Exhausted, Reader, SampleError, read_sample


class Fake:
    """A processor that shows what it was asked: the digits of the file's name and a random number."""

    def __call__(self, ref: Any, rng: np.random.Generator | None = None) -> Tensor:
        name = Path(ref).stem
        if name.startswith("bad"):
            raise MediaError(f"{name} is broken")
        return torch.tensor([float(name[1:]), -1.0 if rng is None else rng.random()])


def source(folder: Path, names: list[str], **fields: Any) -> Dataset:
    image = [{"type": "image", "path": f"{name}.jpg"} for name in names]
    answer = {"role": "assistant", "content": "yes", **fields}
    lines = [{"id": str(n), "messages": [{"role": "user", "content": [part]}, answer]} for n, part in enumerate(image)]
    part = BUILDERS.get("records")
    return part(parse(part.Config, {"file": str(write_json(folder / "r.jsonl", lines))}), "mine")


def reader(dataset: Dataset, **options: Any) -> Reader:
    return Reader(Mixture({"mine": dataset}, {"mine": 1}, 0, 4), layout(), {"image": Fake()}, seed=1, **options)


def test_training_draws_frames_at_random_and_evaluation_does_not(tmp_path: Path):
    """fails when training always takes the middle frame, or evaluation differs from run to run"""
    dataset = source(tmp_path, ["n7"])
    trained = {float(read_sample(dataset, 0, {"image": Fake()}, seeds.stream(0, "t", k)).media[0][1]) for k in range(5)}
    assert len(trained) == 5 and min(trained) >= 0
    evaluated = read_sample(dataset, 0, {"image": Fake()}, seeds.stream(0, "t"), train=False)
    assert evaluated.media[0].tolist() == [7, -1] and evaluated.source == "mine" and evaluated.id == "0"


def test_each_draw_has_its_own_randomness(tmp_path: Path):
    """fails when a sample looks alike in every pass, or differently when the same draw is read again"""
    read = reader(source(tmp_path, ["n1", "n2"]))
    draws = [draw for step in range(3) for draw in read.mixture.draws(step)]
    seen = [float(read(draw).sample.media[0][1]) for draw in draws]
    assert len(set(seen)) == len(draws) == 12
    assert [float(read(draw).sample.media[0][1]) for draw in draws] == seen


def test_a_replacement_is_named_in_the_failure(tmp_path: Path):
    """fails when the ledger cannot say what was broken, why, and what stood in for it"""
    read = reader(source(tmp_path, ["bad0", "n1", "bad2", "n3"]))
    for draw in [draw for step in range(8) for draw in read.mixture.draws(step)]:
        found = read(draw)
        assert found.sample.id in ("1", "3") and found.sample.media[0][0] == int(found.sample.id)
        assert bool(found.failures) == (draw.index in (0, 2))
        for failure in found.failures:
            assert failure.reason == f"bad{failure.id} is broken" and failure.replaced_by == found.sample.id


def test_replacing_ends(tmp_path: Path):
    """fails when a source of broken files is searched without end"""
    read = reader(source(tmp_path, [f"bad{n}" for n in range(50)]), max_attempts=3)
    with pytest.raises(Exhausted, match="3 samples in a row") as caught:
        read(read.mixture.draws(0)[0])
    assert len(caught.value.failures) == 3
    alone = reader(source(tmp_path, ["bad0"]))
    with pytest.raises(Exhausted, match=r"1 samples? in a row"):
        alone(alone.mixture.draws(0)[0])


def test_a_slip_in_a_builder_names_the_sample_even_without_its_id(tmp_path: Path, monkeypatch):
    """fails when the message about a defect fails itself"""
    read = reader(source(tmp_path, ["n1"]))

    def broken(*args: object) -> None:
        raise RuntimeError("slip")

    monkeypatch.setattr(read.mixture.sources["mine"], "record", broken)
    monkeypatch.setattr(read.mixture.sources["mine"], "sample_id", broken)
    with pytest.raises(SampleError, match=r"source 'mine', sample 'index 0' \(index 0, draw 0\): RuntimeError: slip"):
        read(read.mixture.draws(0)[0])
