"""Steps from worker processes: the same for any number of workers, ranks and any first step."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chatbridge.common.errors import ConfigError
from chatbridge.config.schema import parse
from chatbridge.datasets.build_mixture import build_mixture
from chatbridge.datasets.config import DataConfig
from chatbridge.datasets.loader import build_loader
from tests.helpers.loader_data import PROCESSORS, assert_same, data, ids, loader, open_sources
from tests.helpers.tiny_media import layout, write_json


def _source(config: DataConfig, name: str, folder: Path) -> dict[str, Any]:
    choice = config.sources[name]
    return {"name": choice.name, "annotations": f"{folder}/sounds.json", "tag": "ta-qa", "audio_folder": str(folder)}


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_the_result(tmp_path: Path, workers: int):
    """fails when steps arrive out of order, or a random choice depends on the worker"""
    config = data(tmp_path)
    alone = list(loader(config))
    assert len(alone) == 6 and all(len(step) == 2 and len(batch.sources) == 4 for step in alone for batch in step)
    assert {"pictures", "sounds"} == {source for step in alone for batch in step for source in batch.sources}
    assert_same(list(loader(config, num_workers=workers)), alone)


def test_spawned_workers_do_the_same(tmp_path: Path):
    """fails when something in the loader cannot be pickled"""
    config = data(tmp_path)
    with loader(config, num_workers=1, stop_step=2, start_method="spawn") as spawned:
        assert_same(list(spawned), list(loader(config, stop_step=2)))


def test_a_later_start_continues_the_run(tmp_path: Path):
    """fails when a resumed run has different samples, prompts or frames than the uninterrupted one"""
    config = data(tmp_path)
    whole = list(loader(config, num_workers=2))
    assert_same(list(loader(config, start_step=3, num_workers=1)), whole[3:])
    assert_same(list(loader(config, start_step=6)), [])


@pytest.mark.parametrize("world, accumulate", [(2, 1), (1, 2), (2, 2), (4, 1)])
def test_one_process_equals_several(tmp_path: Path, world: int, accumulate: int):
    """fails when 1 process x 8 and 2 processes x 4 have different steps, or one sample differently"""
    config = data(tmp_path)
    whole = list(loader(config, micro_batch=8, accumulate=1))
    size = 8 // (world * accumulate)
    ranks = [list(loader(config, world, size, accumulate, rank=rank)) for rank in range(world)]
    for number, step in enumerate(whole):
        parts = [batch for micro in range(accumulate) for rank in ranks for batch in [rank[number][micro]]]
        assert [name for part in parts for name in part.sample_ids] == list(step[0].sample_ids)
        targets = torch.cat([part.target for part in parts])
        assert targets.equal(step[0].target)
        for modality, media in step[0].media.items():
            assert torch.cat([part.media[modality] for part in parts if modality in part.media]).equal(media)


def test_samples_differ_between_passes_and_seeds(tmp_path: Path):
    """fails when every pass draws the same question of a record, or the seed does not matter"""
    config = data(tmp_path)
    only = data(tmp_path, sources={"sounds": {**_source(config, "sounds", tmp_path)}})
    steps = list(loader(only, micro_batch=5, accumulate=1, stop_step=8))
    lengths = {tuple(batch.ids[batch.sample_ids.index("s0")].tolist()) for (batch,) in steps}
    assert len(lengths) >= 2, "one record, two questions"
    other = list(loader(only, micro_batch=5, accumulate=1, stop_step=8, seed=6))
    assert ids(steps) == ids(other) and any(not a.ids.equal(b.ids) for (a,), (b,) in zip(steps, other))


def test_the_global_generators_are_not_used(tmp_path: Path):
    """fails when loading data advances the generator of dropout, so that a resumed run differs"""
    config = data(tmp_path)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    for workers in (0, 1):
        list(loader(config, num_workers=workers))
    assert torch.get_rng_state().equal(before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002


def workers_alive() -> list[multiprocessing.process.BaseProcess]:
    return [child for child in multiprocessing.active_children() if child.is_alive()]


def test_workers_end_with_the_loop(tmp_path: Path):
    """fails when worker processes survive a break, an exception or close"""
    config = data(tmp_path)
    before = len(workers_alive())
    with loader(config, num_workers=2, stop_step=10**6) as steps:
        iterator = iter(steps)
        next(iterator)
        assert len(workers_alive()) == before + 2
    until = time.monotonic() + 60
    while len(workers_alive()) > before and time.monotonic() < until:
        time.sleep(0.05)
    assert len(workers_alive()) == before
    assert len(steps) == 10**6


def test_ctrl_c_does_not_kill_the_workers(tmp_path: Path):
    """fails when Ctrl-C, which the terminal sends to all processes, loses the batches of the last steps"""
    with loader(data(tmp_path), num_workers=1, stop_step=10) as steps:
        iterator = iter(steps)
        next(iterator)
        for child in workers_alive():
            os.kill(child.pid or 0, signal.SIGINT)
        assert len(list(iterator)) == 9


def test_the_batch_must_fit_the_ranks(tmp_path: Path):
    """fails when the loader silently reads a different number of conversations than the mixture draws"""
    config = data(tmp_path)
    mixture = build_mixture(config, open_sources(config), 0, 8)
    with pytest.raises(ValueError, match="8 conversations per step; micro_batch 4 x accumulate 1 x 1 ranks need 4"):
        build_loader(mixture, layout(), PROCESSORS, micro_batch=4, stop_step=1, seed=0)


def test_the_data_section_reports_all_its_problems(tmp_path: Path):
    """fails when a misspelled builder, key, weight or template is not reported with the others"""
    sources = {
        "a": {"name": "web_pair", "shards": "x"},
        "b": {"name": "captions", "annotations": "none.json", "tag": "ti", "image_foldr": str(tmp_path)},
        "c": {"name": "records", "file": str(tmp_path / "no.jsonl"), "weight": -1},
    }
    with pytest.raises(ConfigError) as caught:
        parse(DataConfig, {"sources": sources, "mix": "steps"}, path="data")
    text = " ".join(str(caught.value).split())
    for words in ("did you mean web_pairs?", "did you mean image_folder?", "data.sources.c.weight", "data.mix"):
        assert words in text
    good = {"r": {"name": "records", "file": str(write_json(tmp_path / "r.jsonl", [])), "weight": 0}}
    with pytest.raises(ConfigError, match="did you mean vicuna_v0"):
        parse(DataConfig, {"sources": good, "template": "vicuna_v1"})
    with pytest.raises(ConfigError, match="all weights are 0"):
        parse(DataConfig, {"sources": good})
    with pytest.raises(ConfigError, match="at least 1 item"):
        parse(DataConfig, {"sources": {}})
