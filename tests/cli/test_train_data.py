"""Training on data that is missing, broken, too small or does not fit the configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chatbridge.common.errors import ConfigError, DataError
from tests.helpers.mini_world import MiniWorld
from tests.helpers.tiny_media import jpeg
from tests.helpers.train_runs import records, run, run_processes


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> MiniWorld:
    return MiniWorld(tmp_path_factory.mktemp("world"))


def test_too_few_samples_for_the_run_are_reported_before_it_starts(world, tmp_path):
    """fails when max_passes of all sources is found too small after the model was built, or leaves a run folder"""
    config = world.experiment(tmp_path / "run", max_steps=30)
    for source in config["data"]["sources"].values():
        source["max_passes"] = 2
    with pytest.raises(ConfigError, match="max_passes leaves too little data") as error:
        run(config, tmp_path)
    assert "run.max_steps to at most 12" in " ".join(str(error.value).split())
    assert not (tmp_path / "run").exists()


def test_batches_that_do_not_divide_among_ranks_are_a_mistake(world, tmp_path):
    """fails when an invalid batch of a source ends a run in its first step instead of before it"""
    config = world.experiment(tmp_path / "run", accumulate=3)
    config["data"]["mix"] = "step"
    for name, batch in (("video_cap", 16), ("image_qa", 8), ("audio_qa", 6)):
        config["data"]["sources"][name]["batch"] = batch
    with pytest.raises(ConfigError) as error:
        run(config, tmp_path)
    message = " ".join(str(error.value).split())
    assert "data.sources.video_cap.batch (" in message and "15 or 18 would work" in message
    assert "data.sources.image_qa.batch" in message and "audio_qa" not in message and "2 problems" in message


def test_media_limits_apply_to_files(world, tmp_path):
    """fails when data.media or evaluation.media has no effect"""
    config = world.experiment(tmp_path / "asked", max_steps=2)
    config["evaluation"] = {"tasks": {"image_qa": world.tasks()["image_qa"]}, "media": {"max_pixels": 100}}
    assert run(config, tmp_path) == 0
    results = json.loads((tmp_path / "asked/evaluation/step_000002/metrics.json").read_text())
    assert results["image_qa"]["unreadable"] == 6
    config = world.experiment(tmp_path / "run")
    config["data"]["sources"] = {"image_qa": world.source("questions", "ti-qa")}
    config["data"]["media"] = {"max_pixels": 100}
    with pytest.raises(DataError, match="6 samples in a row cannot be used"):
        run(config, tmp_path)
    config["data"]["media"] = {"max_pixel": 100, "max_seconds": 0}
    with pytest.raises(ConfigError) as error:
        run(config, tmp_path)
    assert "data.media.max_pixel" in str(error.value) and "data.media.max_seconds" in str(error.value)


def test_open_sources_of_one_batch_need_equal_frames(world, tmp_path):
    """fails when records with videos of two frames and captions with three share a batch"""
    config = world.experiment(tmp_path / "run")
    video = {"type": "video", "path": str(world.folder / "videos/v0.mp4")}
    line = {"messages": [{"role": "user", "content": [video]}, {"role": "assistant", "content": "red"}]}
    (tmp_path / "r.jsonl").write_text(json.dumps(line))
    config["data"]["sources"] = {
        "records": {"name": "records", "file": str(tmp_path / "r.jsonl")},
        "video_cap": world.source("captions", "tv-cap", frames=3),
    }
    with pytest.raises(ConfigError) as error:
        run(config, tmp_path)
    assert "different frames into one batch (2: records; 3: video_cap)" in " ".join(str(error.value).split())


def test_broken_files_are_replaced_and_logged(world, tmp_path):
    """fails when one broken image ends the run, or is not in the failure log"""
    config = world.experiment(tmp_path / "run", max_steps=6)
    config["data"]["sources"] = {"broken": _broken_source(world, tmp_path, num_broken=1)}
    assert run(config, tmp_path) == 0
    failures = [json.loads(line) for line in (tmp_path / "run/failures.jsonl").read_text().splitlines()]
    assert failures and all(one["source"] == "broken" and one["replaced_by"] for one in failures)
    assert sum(record["failures"] for record in records(tmp_path / "run")) == len(failures)


def test_samples_in_quarantine_are_replaced_and_counted_apart(world, tmp_path):
    """fails when the list is not read, counts against the budget, or prevents a resume"""
    config = world.experiment(tmp_path / "run", max_steps=6)
    config["data"]["sources"] = {"broken": _broken_source(world, tmp_path, num_broken=1)}
    assert run(config, tmp_path, "run.stop_at=2") == 0
    listed = write_jsonl(tmp_path / "quarantine.jsonl", {"source": "broken", "id": "i0", "reason": "half an image"})
    config["data"] |= {"quarantine": str(listed)}
    config["data"]["sources"]["broken"]["failure_budget"] = 0.5
    assert run(config, tmp_path) == 0
    failures = [json.loads(line) for line in (tmp_path / "run/failures.jsonl").read_text().splitlines()]
    assert {one["kind"] for one in failures} == {"failed", "quarantined"} and {one["id"] for one in failures} == {"i0"}
    assert sum(record["failures"] for record in records(tmp_path / "run")[2:]) == 0
    (tmp_path / "quarantine.jsonl").write_text("i0")
    with pytest.raises(DataError, match=r"quarantine\.jsonl, line 1"):
        run(config, tmp_path)


def test_too_many_broken_files_end_the_run_with_the_list(world, tmp_path):
    """fails when the failure budget is not enforced, or one of two ranks ends in a traceback"""
    config = world.experiment(tmp_path / "run", max_steps=60, save_every=60)
    config["data"]["sources"] = {"broken": _broken_source(world, tmp_path, num_broken=2)}  # step 1 keeps the budget
    done = run_processes(config, tmp_path, num_processes=2)
    assert done.returncode != 0
    assert "source 'broken'" in done.stderr and "failure_budget" in done.stderr
    assert 'train.py", line' not in done.stderr, "our traceback, not torchrun's"
    assert list((tmp_path / "run/checkpoints").glob("step_*/manifest.json")), "the steps before are lost"


def test_unreadable_data_is_distinguished_from_an_invalid_setting(world, tmp_path):
    """fails when a source with only broken files hangs, or replaces samples without end"""
    config = world.experiment(tmp_path / "run")
    config["data"]["sources"] = {"broken": _broken_source(world, tmp_path, num_broken=6)}
    with pytest.raises(DataError, match="6 samples in a row cannot be used"):
        run(config, tmp_path)


def _broken_source(world: MiniWorld, folder: Path, num_broken: int) -> dict[str, Any]:
    for number in range(6):
        content = jpeg(40 * number, side=32)
        path = folder / "images" / f"i{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content[: len(content) // 2 if number < num_broken else None])
    return {**world.source("questions", "ti-qa"), "image_folder": str(folder / "images")}


def write_jsonl(path: Path, *entries: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path
