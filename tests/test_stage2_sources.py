"""The 14 sources of stage 2: as published, and every one read from a miniature of its real layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chatbridge.common.config import load

ROOT = Path(__file__).parents[1]
BUILDER_OF = {"qa": "questions", "cap": "captions", "rea": "dialogues", "det": "dialogues", "conv": "dialogues"}


def shipped() -> dict[str, dict[str, Any]]:
    return load(ROOT / "configs/mixtures/multis.yaml")[0]["data"]["sources"]


def test_the_mix_is_the_published_one(shared: Path):
    """fails when a source, its files, tag, frames, clips, batch or share differs from the published mix file"""
    mix = json.loads((shared / "data/multis_mix_stage2.json").read_text())["data_cfg"]["train"]
    total, sources = sum(entry["steps"] for entry in mix), shipped()
    weights = sum(source["weight"] for source in sources.values())
    assert len(mix) == len(sources) == 14
    for entry in mix:
        files = entry["datasets"][0]
        source = dict(sources[files["name"].replace("-", "_")])
        assert source.pop("weight") / weights == entry["steps"] / total
        pictures = "image_folder" if files["datatype"] == "image" else "video_folder"
        assert source == without_none(
            {
                "name": BUILDER_OF[entry["task"].split("-")[1].removeprefix("short")],
                "tag": entry["task"],
                "annotations": _placed(files["txt"]),
                pictures: _placed(files.get("video")),
                "audio_folder": _placed(files.get("audio")),
                "batch": entry["batch_size"],
                "frames": entry.get("video_sample_num"),
                "clips": entry.get("audio_sample_num"),
            }
        )


def without_none(mapping: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if value is not None}


def _placed(path: str | None) -> str | None:
    return path and path.replace("./dataset/MULTIS/", "data/multis/").rstrip("/")


def test_the_run_is_the_published_one():
    """fails when a hyperparameter of stage 2 changes, or it starts from anything but stage 1"""
    config = load(ROOT / "train_configs/chatbridge_instruct.yaml")[0]
    run = config["run"]
    assert run["optimizer"] == {"lr": 1e-5, "weight_decay": 0.05}
    assert run["schedule"] == {
        "kind": "lavis_cosine", "warmup_steps": 500, "warmup_lr": 1e-6, "min_lr": 8e-7, "epoch_steps": 2000
    }  # fmt: skip
    assert (run["max_steps"], run["clip_norm"], config["data"]["max_tokens"]) == (5 * 2000, None, 220)
    assert config["model"]["bridges"]["perceiver"]["dropout"] == 0.1
    assert (config["data"]["mix"], config["model"]["trainable"]) == ("step", ["bridges.*"])
    stage1 = ROOT / "train_configs/chatbridge_pretrain.yaml"
    if stage1.is_file():
        assert run["init_from"] == load(stage1)[0]["run"]["output_dir"]


@pytest.mark.parametrize("ranks, accumulate", [(8, 1), (1, 8), (4, 2), (2, 1), (16, 1)])
def test_batches_divide_on_usual_machines(ranks: int, accumulate: int):
    """fails when a batch of the mix cannot be spread over the machines that the run's comments name"""
    assert all(source["batch"] % (ranks * accumulate) == 0 for source in shipped().values())
