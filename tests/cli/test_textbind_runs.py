"""TextBind's two shipped stages on its own records, with parts of a tiny size: tars with requests, then drawings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from chatbridge.cli import train
from chatbridge.models.loading import read_state
from tests.helpers.mini_textbind import dialogues
from tests.helpers.mini_world import MiniWorld
from tests.helpers.preloaded_processes import run_ranks
from tests.helpers.textbind_release import QFORMER
from tests.helpers.tiny_media import jpeg, pairs, write_json, write_tar
from tests.helpers.tiny_models import VISION
from tests.helpers.train_runs import records

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
STAGES = tuple(ROOT / f"train_configs/textbind_stage{number}.yaml" for number in (1, 2))
STEPS = 2


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> MiniWorld:
    """With tars, and train.json: three records, of which one misses an image, and one with a marker too many."""
    made = MiniWorld(tmp_path_factory.mktemp("world"))
    write_tar(made.folder / "00000.tar", pairs(6))
    write_tar(made.folder / "01255.tar", pairs(3))
    (made.folder / "textbind").mkdir()
    for number in (490272, 1, 2):
        (made.folder / f"textbind/{number}.png").write_bytes(jpeg(side=32))
    faulty = dialogues("")[0]
    faulty["conversation"][0]["content"] += "<image>"
    write_json(made.folder / "train.json", [*dialogues(""), faulty])
    return made


def options(world: MiniWorld, output: Path, **more: Any) -> list[str]:
    """What makes a stage run in the miniature world: smaller parts, two steps, its own files."""
    vision = {**VISION, "weights": None}
    parts = {"encoders.vision": vision, "bridges.qformer": {**QFORMER, "weights": None}}
    given = {f"model.{node}.{key}": value for node, sizes in parts.items() for key, value in sizes.items()}
    given |= {"model.language.weights": str(world.folder / "lm"), "model.language.architecture": None,
              "data.num_workers": 0, "run.output_dir": str(output), "run.max_steps": STEPS, "run.micro_batch": 2,
              "run.accumulate": 1, "run.save_every": 1, "run.log_every": 1, "run.device": "cpu",
              "run.optimizer.lr": 0.01, "run.schedule.warmup_steps": 1}  # fmt: skip
    return [f"{key}={json.dumps(value)}" for key, value in (given | more).items()]


def stage_1(world: MiniWorld) -> dict[str, Any]:
    return {"data.sources.textbind_cc_sbu.shards": str(world.folder / "00000.tar")}


def stage_2(world: MiniWorld, first: Path) -> dict[str, Any]:
    source = {"annotations": str(world.folder / "train.json"), "image_folder": str(world.folder / "textbind"),
              "faulty": "skip", "failure_budget": 0.9}  # fmt: skip
    return {"run.init_from": str(first), **{f"data.sources.textbind.{key}": value for key, value in source.items()}}


@pytest.fixture(scope="module")
def runs(world: MiniWorld, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The run folders of both stages; the second one was stopped after a step and resumed."""
    folder = tmp_path_factory.mktemp("runs")
    first, second = folder / "stage1", folder / "stage2"
    given = options(world, first, **stage_1(world))
    assert train.main(["--cfg-path", str(STAGES[0]), "--options", *given]) == 0
    whole = {"run.parallel": "replicate", "run.sharding.offload": "none"}
    given = options(world, second, **stage_2(world, first), **whole)
    assert train.main(["--cfg-path", str(STAGES[1]), "--options", *given, "run.stop_at=1"]) == 0
    assert train.main(["--cfg-path", str(STAGES[1]), "--options", *given]) == 0
    return first, second


def trained(run: Path, step: int = STEPS) -> dict[str, torch.Tensor]:
    return read_state(run / f"checkpoints/step_{step:06}/model.safetensors")


def test_each_stage_trains_its_own_tensors(runs: tuple[Path, Path]):
    """fails when a stage trains other parts than published, or stage 2 does not start from stage 1"""
    first, second = map(trained, runs)
    assert {name.partition(".")[0] for name in first} == {"bridges"}
    assert {name.partition(".")[0] for name in second} == {"bridges", "language", "added_tokens"}
    tokens = {
        f"added_tokens.{side}.{name}" for side in ("embedding", "head") for name in ("<image>", "<start>", "<end>")
    }
    assert tokens <= set(second) and first.keys() < second.keys()
    before = trained(runs[1], 1)
    moved = [name for name in ("added_tokens.head.<start>", "added_tokens.head.<end>") if not torch.equal(
        before[name], second[name])]  # fmt: skip
    assert moved == ["added_tokens.head.<start>", "added_tokens.head.<end>"]


def test_drawings_of_the_records_reach_the_loss(runs: tuple[Path, Path]):
    """fails when captions are not supervised, or a missing image and a faulty record are not told"""
    lines = [records(run) for run in runs]
    assert all(len(one) == STEPS and all(0 < line["loss"] < 20 for line in one) for one in lines)
    log = (runs[1] / "run.log").read_text()
    assert "records left out: 1 (record 3: turn 0: its text has 2 <image> and 'image_list' 1 name)" in log
    failures = [json.loads(line) for line in (runs[1] / "failures.jsonl").read_text().splitlines()]
    assert failures and all("404.png" in line["reason"] for line in failures)


def test_the_second_stage_spread_over_two_ranks(world: MiniWorld, runs: tuple[Path, Path], tmp_path: Path):
    """fails when the shipped stage (parallel: shard) cannot train on drawings, or its losses differ from one rank's"""
    given = options(world, tmp_path / "run", **stage_2(world, runs[0]),
                    **{"run.micro_batch": 1, "run.sharding.offload": "none"})  # fmt: skip
    command = ["-m", "chatbridge", "train", "--cfg-path", str(STAGES[1]), "--options", *given]
    done = run_ranks(command, 2, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    pairs_ = zip(records(tmp_path / "run"), records(runs[1]), strict=True)
    assert all(one["loss"] == pytest.approx(other["loss"], rel=2e-3) for one, other in pairs_)
