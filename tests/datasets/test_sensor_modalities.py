"""Depth maps, thermal images and motion beside images, video and audio, through one ImageBind: from data files and tar
shards to the commands of data, a training, its evaluation, its report and a chat.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from chatbridge.cli import cache, plan, report, train
from chatbridge.cli.data import check, index, show, stats
from chatbridge.common.errors import ConfigError, MediaError
from chatbridge.config.schema import parse
from chatbridge.experiment.data import open_data
from chatbridge.experiment.open import open_config
from chatbridge.experiment.roots import Experiment
from chatbridge.models.encoders.imagebind import ImageBind
from chatbridge.models.language import GenerateOptions
from chatbridge.serve.engine import ChatEngine
from chatbridge.serve.session import ask
from tests.helpers.media_files import write_video
from tests.helpers.mini_world import write_language_model, write_yaml
from tests.helpers.tiny_media import jpeg, wav, write_json, write_tar
from tests.helpers.tiny_models import IMAGEBIND

KINDS = ("image", "video", "audio", "depth", "thermal", "imu")
PIECES = {"video": 3, "audio": 3}
COUNT = 4


class SensorWorld:
    """A file of each kind, records over all of them, pairs in a tar, and a run."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run, self.media = folder, folder / "run", folder / "media"
        write_language_model(folder / "lm")
        torch.manual_seed(0)
        settings = {key: value for key, value in IMAGEBIND.items() if key != "name"}
        save_file(ImageBind(parse(ImageBind.Config, settings)).state_dict(), folder / "bind.safetensors")
        self.media.mkdir()
        (self.media / "image.jpg").write_bytes(jpeg(120, side=32))
        write_video(self.media / "video.mp4", num_frames=8, size=32)
        (self.media / "audio.wav").write_bytes(wav(300.0, seconds=0.3))
        Image.fromarray((metres(2) * 1000).astype(np.uint16)).save(self.media / "depth.depth.png")
        Image.fromarray(np.full((20, 30), 90, np.uint8)).save(self.media / "thermal.thermal.png")
        np.savetxt(self.media / "imu.imu.csv", np.random.default_rng(0).normal(size=(50, 6)), delimiter=",")
        self.files = {kind: next(self.media.glob(f"{kind}.*")) for kind in KINDS}
        write_json(folder / "all.jsonl", [*(one(kind, kind) for kind in KINDS), one("three", *KINDS[3:])])
        maps = [(f"{number}.depth.npy", npy(metres(number))) for number in range(COUNT)]
        write_tar(folder / "pairs.tar", [*maps, *((f"{number}.txt", "a red circle .") for number in range(COUNT))])
        self.config = write_yaml(folder / "all.yaml", self.experiment())

    def experiment(self) -> dict[str, Any]:
        routes: dict[str, Any] = {kind: {"encoder": "bind", "bridge": "linear"} for kind in KINDS}
        for kind, count in PIECES.items():
            routes[kind]["pieces"] = {"count": count, "merge": "mean"}
        records = {"name": "records", "file": str(self.folder / "all.jsonl"), "root": str(self.media)}
        pairs = {"name": "web_pairs", "shards": str(self.folder / "pairs.tar"), "modality": "depth"}
        return {
            "model": {
                "encoders": {"bind": {**IMAGEBIND, "weights": str(self.folder / "bind.safetensors")}},
                "bridges": {"linear": {"name": "linear"}},
                "language": {"name": "causal_lm", "weights": str(self.folder / "lm"), "template": "vicuna_v0"},
                "routes": routes,
                "trainable": ["bridges.*"],
            },
            "data": {"sources": {"scenes": records, "pairs": pairs}, "max_tokens": 200, "num_workers": 0},
            "run": {"output_dir": str(self.run), "max_steps": 2, "micro_batch": 4, "log_every": 1, "device": "cpu",
                    "optimizer": {"lr": 0.01}, "schedule": {"warmup_steps": 1}},
            "evaluation": {"tasks": {
                "qa": {"name": "vqa", "dataset": records, "max_new_tokens": 3},
                "without": {"name": "vqa", "dataset": records, "max_new_tokens": 3, "drop_media": ["thermal"]},
            }},
        }  # fmt: skip


def metres(number: int) -> np.ndarray:
    return np.linspace(1 + number, 3 + number, 12 * 16, dtype=np.float32).reshape(12, 16)


def npy(values: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, values)
    return out.getvalue()


def one(name: str, *kinds: str) -> dict[str, Any]:
    files = {"image": "image.jpg", "video": "video.mp4", "audio": "audio.wav", "depth": "depth.depth.png",
             "thermal": "thermal.thermal.png", "imu": "imu.imu.csv"}  # fmt: skip
    parts = [{"type": kind, "path": files[kind]} for kind in kinds]
    said = {"role": "assistant", "content": "a red circle ."}
    asked = [*parts, {"type": "text", "text": "what color is it ?"}]
    return {"id": name, "answers": ["red"], "messages": [{"role": "user", "content": asked}, said]}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> SensorWorld:
    return SensorWorld(tmp_path_factory.mktemp("sensors"))


def test_data_check_reads_all_of_them(world: SensorWorld, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Fails when an intact file of a kind is reported, or a damaged one is not, with its name and reason."""
    assert check.main([str(world.config), "--workers", "1"]) == 0, capsys.readouterr().out
    broken = world.experiment()
    (world.media / "bad.imu.csv").write_text("1,2,3\n")
    (world.media / "bad.depth.png").write_bytes(jpeg(4))
    bad = [one("imu", "imu"), one("depth", "depth")]
    for record, name in zip(bad, ("bad.imu.csv", "bad.depth.png"), strict=True):
        record["messages"][0]["content"][0]["path"] = name
    write_json(tmp_path / "bad.jsonl", bad)
    broken["data"]["sources"]["scenes"]["file"] = str(tmp_path / "bad.jsonl")
    path = write_yaml(tmp_path / "bad.yaml", broken)
    capsys.readouterr()
    assert check.main([str(path), "--workers", "1", "--source", "scenes"]) == 1
    said = capsys.readouterr().out
    assert "bad.imu.csv: it has 3 columns, expected six columns" in said
    assert "bad.depth.png: it is an image of mode RGB, not a map of distances" in said


def test_tars_are_indexed_with_them(world: SensorWorld, capsys: pytest.CaptureFixture) -> None:
    """Fails when files of a sensor in a tar belong to no sample."""
    assert index.main([str(world.config)]) == 0
    assert f"{COUNT} samples (depth {COUNT}, txt {COUNT})" in capsys.readouterr().out


@pytest.mark.parametrize("number", [1, 2, 4, 5])  # each draws in a way of its own
def test_data_show_draws_each(world: SensorWorld, tmp_path: Path, capsys: pytest.CaptureFixture, number: int) -> None:
    """Fails when a kind has no picture, or its tokens are not counted: one per item, whatever its pieces."""
    asked = [str(world.config), str(number), "--source", "scenes", "--out", str(tmp_path)]
    assert show.main(asked) == 0
    kind, said = KINDS[number], capsys.readouterr().out
    assert f"<{kind}x1>" in said or f"<{kind}>" in said
    assert (tmp_path / f"{kind}_0.png").is_file(), said
    with Image.open(tmp_path / f"{kind}_0.png") as picture:
        assert picture.width > 20


def test_what_a_route_cannot_make_is_reported(world: SensorWorld, tmp_path: Path) -> None:
    """Fails when a number of pieces that is no whole clip reaches the loader, or a map is said to have pieces."""
    wrong = world.experiment()
    wrong["model"]["routes"]["video"]["pieces"]["count"] = 4
    wrong["model"]["routes"]["depth"]["pieces"] = {"count": 2, "merge": "mean"}
    said = problems_of(write_yaml(tmp_path / "wrong.yaml", wrong))
    assert "multiple of 3, such as 3" in said["model.routes.video.pieces.count"]
    assert "reads 1 per depth" in said["model.routes.depth.pieces.count"]
    own = world.experiment()
    own["data"]["sources"]["scenes"]["pieces"] = {"video": 4}
    said = problems_of(write_yaml(tmp_path / "own.yaml", own))
    assert "multiple of 3, such as 3" in said["data.sources.scenes.pieces.video"]


def problems_of(path: Path) -> dict[str, str]:
    with pytest.raises(ConfigError) as error:
        open_data(open_config(Experiment, path))
    return {problem.path: problem.message for problem in error.value.problems}


@pytest.mark.slow
def test_a_run_over_all_of_them(world: SensorWorld, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Fails when a kind does not reach the loss, an answer, the report, the feature cache, the plan or a chat."""
    assert plan.main([str(world.config)]) == 0
    assert stats.main([str(world.config)]) == 0
    assert train.main(["--cfg-path", str(world.config)]) == 0
    steps = [json.loads(line) for line in (world.run / "metrics.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [1, 2]
    rows = (world.run / "evaluation/step_000002/predictions_qa.jsonl").read_text().splitlines()
    assert len(rows) == len(KINDS) + 1 and not any("problem" in json.loads(row) for row in rows)
    assert report.main([str(world.run), "--out", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert "without the thermal image" in page and 'alt="depth.depth.png"' in page
    assert "imu.imu.csv: motion recording, which this page cannot show" in page
    cached = world.experiment()
    cached["data"]["feature_cache"] = {"folder": str(tmp_path / "cache"), "values": "fp32"}
    cached["run"]["output_dir"] = str(tmp_path / "run")
    path = write_yaml(tmp_path / "cached.yaml", cached)
    assert cache.main([str(path)]) == 0
    assert train.main(["--cfg-path", str(path)]) == 0
    again = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [step["loss"] for step in again] == pytest.approx([step["loss"] for step in steps], abs=1e-4)
    engine = ChatEngine.from_checkpoint(world.run)
    try:
        for kind, file in world.files.items():
            assert [item.modality for item in engine.attach(file).media] == [kind]
        *_, (turn,) = ask(engine, (), "", [world.files["imu"]], GenerateOptions(max_new_tokens=2))
        assert turn.text == "Describe the motion." and turn.is_done and turn.problem is None
        with pytest.raises(MediaError, match=r"depth \(depth.png, depth.npy, depth.tiff \.\.\.\)"):
            engine.attach(world.folder / "all.yaml")
    finally:
        engine.reader.close()
