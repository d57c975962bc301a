"""A modality that a plugin registers, from its data file through check, training and evaluation into a chat.

tests/plugins/depth_lab brings a modality, its processor and an encoder; its depth maps take the place of ours.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from chatbridge.cli import report, train
from chatbridge.cli.data import check, index, show
from chatbridge.common.errors import ConfigError, MediaError
from chatbridge.conversation.messages import Media, Text, user
from chatbridge.conversation.modalities import BUILT_IN, MODALITIES
from chatbridge.experiment.data import open_data
from chatbridge.experiment.open import open_config
from chatbridge.experiment.roots import PARTS, Experiment
from chatbridge.models.language import GenerateOptions
from chatbridge.report.run_files import read_task_nodes
from chatbridge.serve.demo.gradio_app import _uploads
from chatbridge.serve.engine import ChatEngine
from chatbridge.serve.session import ask
from tests.helpers.mini_world import write_language_model, write_yaml
from tests.helpers.tiny_media import jpeg, write_json, write_tar
from tests.helpers.tiny_models import PERCEIVER, VISION

FEW = GenerateOptions(max_new_tokens=3)
COUNT = 4


class DepthWorld:
    """Depth maps as .npy and 16-bit PNG, alone and beside an image, and a run over them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run = folder, folder / "run"
        write_language_model(folder / "lm")
        media = folder / "media"
        media.mkdir()
        (media / "scene.jpg").write_bytes(jpeg(120, side=32))
        for number in range(COUNT):
            np.save(media / f"{number}.npy", metres(number))
        Image.fromarray((metres(0) * 1000).astype(np.uint16)).save(media / "png.depth.png")
        Image.fromarray(np.full((8, 8), 7, np.uint8)).save(media / "grey.png")
        write_json(folder / "depth.jsonl", self.records())
        maps = [(f"{number}.npy", (media / f"{number}.npy").read_bytes()) for number in range(COUNT)]
        write_tar(folder / "pairs.tar", [*maps, *((f"{number}.txt", "a red circle .") for number in range(COUNT))])
        self.config = write_yaml(folder / "depth.yaml", self.experiment())

    def records(self) -> list[dict[str, Any]]:
        alone = [one(f"d{number}", {"type": "depth", "path": f"{number}.npy"}) for number in range(COUNT)]
        parts = ({"type": "image", "path": "scene.jpg"}, {"type": "depth", "path": "png.depth.png"})
        return [*alone, one("both", *parts)]

    def experiment(self) -> dict[str, Any]:
        depth = {"encoder": "depth", "bridge": "perceiver", "pieces": {"count": 2, "merge": "mean"}}
        records = {"name": "records", "file": str(self.folder / "depth.jsonl"), "root": str(self.folder / "media")}
        pairs = {"name": "web_pairs", "shards": str(self.folder / "pairs.tar"), "modality": "depth",
                 "pieces": {"depth": 2}}  # fmt: skip
        return {
            "plugins": ["depth_lab"],
            "model": {
                "encoders": {"vision": VISION, "depth": {"name": "depth_grid"}},
                "bridges": {"perceiver": {**PERCEIVER, "queries": {"image": "visual", "depth": "distance"}}},
                "language": {"name": "causal_lm", "weights": str(self.folder / "lm"), "template": "vicuna_v0"},
                "routes": {"image": {"encoder": "vision", "bridge": "perceiver"}, "depth": depth},
                "trainable": ["bridges.*", "encoders.*"],
            },
            "data": {"sources": {"scenes": records, "pairs": pairs}, "max_tokens": 200, "num_workers": 1},
            "run": {"output_dir": str(self.run), "max_steps": 2, "micro_batch": 4, "log_every": 1, "device": "cpu",
                    "optimizer": {"lr": 0.01}, "schedule": {"warmup_steps": 1}},
            "evaluation": {"tasks": {
                "depth_qa": {"name": "vqa", "dataset": records, "max_new_tokens": 3},
                "without": {"name": "vqa", "dataset": records, "max_new_tokens": 3, "drop_media": ["depth"]},
            }},
        }  # fmt: skip


def metres(number: int) -> np.ndarray:
    return np.linspace(1 + number, 3 + number, 8 * 16, dtype=np.float32).reshape(8, 16)


def one(name: str, *media: dict[str, str]) -> dict[str, Any]:
    asked = [*media, {"type": "text", "text": "what color is it ?"}]
    said = {"role": "assistant", "content": "a red circle ."}
    return {"id": name, "answers": ["red"], "messages": [{"role": "user", "content": asked}, said]}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory):
    """A trained run of the plugin; the process forgets the plugin afterwards."""
    before = dict(MODALITIES._registered), [list(registry.packages) for registry in PARTS], list(sys.path)
    sys.path.insert(0, str(Path(__file__).parents[1] / "plugins"))
    made = DepthWorld(tmp_path_factory.mktemp("depth"))
    assert train.main(["--cfg-path", str(made.config)]) == 0
    yield made
    MODALITIES._registered, packages, sys.path[:] = before
    for registry, names in zip(PARTS, packages, strict=True):
        registry.packages[:] = names
        registry._parts.pop("depth_grid", None)
    for name in [name for name in sys.modules if name.partition(".")[0] == "depth_lab"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def engine(world: DepthWorld):
    made = ChatEngine.from_checkpoint(world.run)
    yield made
    made.reader.close()


def test_training_moves_the_encoder_of_the_plugin(world: DepthWorld):
    """fails when depth maps of records or tar shards do not reach the loss, or the run loses their number of pieces"""
    steps = [json.loads(line) for line in (world.run / "metrics.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [1, 2]
    assert set().union(*(step["per_source"] for step in steps)) == {"scenes", "pairs"}
    trained = load_file(world.run / "checkpoints/step_000002/model.safetensors")
    assert {"encoders.depth.project.weight", "bridges.perceiver.queries.distance"} <= trained.keys()
    manifest = json.loads((world.run / "checkpoints/step_000002/manifest.json").read_text())
    assert manifest["model"]["routes"]["depth"]["pieces"] == {"count": 2, "merge": "mean"}


def test_evaluation_answers_about_it(world: DepthWorld):
    """fails when a question about a depth map is not answered, or its ablation is not one"""
    folder = world.run / "evaluation/step_000002"
    results = json.loads((folder / "metrics.json").read_text())
    assert results["depth_qa"]["count"] == results["without"]["count"] == COUNT + 1
    rows = [json.loads(line) for line in (folder / "predictions_depth_qa.jsonl").read_text().splitlines()]
    assert len(rows) == COUNT + 1 and not any("problem" in row for row in rows)


def test_the_report_shows_it(world: DepthWorld, monkeypatch: pytest.MonkeyPatch):
    """fails when the page calls depth maps audio, or lacks examples because the plugin is not registered yet"""
    monkeypatch.setattr(MODALITIES, "_registered", {one.name: one for one in BUILT_IN})
    monkeypatch.delitem(sys.modules, "depth_lab.modalities")
    assert report.main([str(world.run), "--out", str(world.folder / "report")]) == 0
    page = (world.folder / "report" / "report.html").read_text()
    assert "Depth maps" in page and "Images and depth maps" in page and "without the depth map" in page
    assert "0.npy: depth map, which this page cannot show" in page and "<audio" not in page
    assert 'alt="png.depth.png"' in page  # a PNG, so a browser can


def test_data_check_reads_it(world: DepthWorld, tmp_path: Path, capsys: pytest.CaptureFixture):
    """fails when intact depth maps are reported, or a damaged one is not, with its reason"""
    assert check.main([str(world.config), "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert "scenes" in said and "pairs" in said
    broken = world.experiment()
    (world.folder / "media" / "short.npy").write_bytes((world.folder / "media" / "0.npy").read_bytes()[:100])
    write_json(tmp_path / "broken.jsonl", [*world.records(), one("short", {"type": "depth", "path": "short.npy"})])
    broken["data"]["sources"]["scenes"]["file"] = str(tmp_path / "broken.jsonl")
    path = write_yaml(tmp_path / "broken.yaml", broken)
    assert check.main([str(path), "--workers", "1", "--source", "scenes"]) == 1
    assert "short.npy: not a readable depth map" in capsys.readouterr().out


def test_data_index_counts_it(world: DepthWorld, capsys: pytest.CaptureFixture):
    """fails when the tars of a plugin's modality are indexed without it, so that every sample lacks its media"""
    assert index.main([str(world.config)]) == 0
    assert f"{COUNT} samples (depth {COUNT}, txt {COUNT})" in capsys.readouterr().out


def test_data_show_shows_it(world: DepthWorld, tmp_path: Path, capsys: pytest.CaptureFixture):
    """fails when a depth map is drawn as audio, or its tokens are not counted"""
    asked = [str(world.config), str(COUNT), "--source", "scenes", "--out", str(tmp_path)]
    assert show.main(asked) == 0
    said = capsys.readouterr().out
    assert "depth  " in said and "float32[2, 1, 8, 8]" in said and "<depthx3>" in said
    with Image.open(tmp_path / "depth_1.png") as picture:
        assert picture.format == "PNG" and picture.width > picture.height  # two crops side by side
    assert "depth_1.png" in said and (tmp_path / "sample.html").is_file()


def test_a_chat_takes_its_files(engine: ChatEngine, world: DepthWorld):
    """fails when an upload is not known as a depth map, or a question about it is not answered"""
    found = engine.attach(world.folder / "media" / "0.npy")
    assert (found.kind, [item.modality for item in found.media]) == ("depth map", ["depth"])
    assert engine.attach(world.folder / "media" / "png.depth.png").kind == "depth map"
    assert engine.attach(world.folder / "media" / "grey.png").kind == "image"
    *_, (turn,) = ask(engine, (), "", [world.folder / "media" / "0.npy"], FEW)
    assert turn.text == "Describe the depth map." and turn.is_done and turn.problem is None
    assert engine.reply([Media("depth", torch.from_numpy(metres(1))), Text("what color is it ?")], FEW) is not None
    assert set(_uploads(engine.modalities)) == {"image", ".npy", ".png"}


def test_a_chat_lists_what_it_takes(engine: ChatEngine, tmp_path: Path):
    """fails when a file or a part of an unknown kind is refused without a list of what the model takes"""
    (tmp_path / "x.vec").write_bytes(b"\x00\x01\x02 and more")
    with pytest.raises(MediaError, match=r"image \(jpg, png, webp \.\.\.\), depth \(npy, depth\.png\)"):
        engine.attach(tmp_path / "x.vec")
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY and no more")
    with pytest.raises(MediaError, match=r"^bad\.npy: not a readable depth map"):
        engine.attach(tmp_path / "bad.npy")
    with pytest.raises(MediaError, match="cannot process dept; it accepts image, depth; did you mean depth"):
        engine.answer((user(Media("dept", torch.zeros(2, 2)), "how far ?"),), FEW)


ASKED = ("evaluation", "tasks", "without", "dataset")


@pytest.mark.parametrize(
    ("keys", "value", "path", "nearest"),
    [
        (("model", "routes", "dpeth"), {"encoder": "depth", "bridge": "perceiver"}, "model.routes.dpeth", "depth"),
        (("data", "sources", "pairs", "modality"), "deph", "data.sources.pairs.modality", "depth"),
        (("data", "sources", "pairs", "pieces"), {"dept": 2}, "data.sources.pairs.pieces.dept", "depth"),
        (("evaluation", "tasks", "without", "drop_media"), ["dept"], "evaluation.tasks.without.drop_media", "depth"),
        ((*ASKED, "pieces"), {"dept": 2}, f"{'.'.join(ASKED)}.pieces.dept", "depth"),
    ],
    ids=["route", "shards", "pieces", "dropped", "asked"],
)
def test_a_misspelled_name_is_reported(world: DepthWorld, tmp_path: Path, keys, value, path: str, nearest: str):
    """fails when an unknown modality in a configuration is reported without the nearest match and the list"""
    config = world.experiment()
    node: Any = config
    for key in keys[:-1]:
        node[key] = {**node[key]}  # a source of the training may be that of a task too
        node = node[key]
    node[keys[-1]] = value
    with pytest.raises(ConfigError) as error:
        open_data(open_config(Experiment, write_yaml(tmp_path / "slip.yaml", config)))
    problem = next(one for one in error.value.problems if one.path == path)
    assert problem.nearest == nearest and problem.allowed == ("image", "video", "audio", "depth", "thermal", "imu")


def test_a_misspelled_type_in_a_data_file_is_reported(world: DepthWorld, tmp_path: Path):
    """fails when a part of an unknown type is accepted, or a marker of the modality is trained on as text"""
    config = world.experiment()
    write_json(tmp_path / "slip.jsonl", [one("slip", {"type": "dept", "path": "0.npy"})])
    config["data"]["sources"] = {"scenes": {"name": "records", "file": str(tmp_path / "slip.jsonl")}}
    with pytest.raises(ConfigError, match="'type' cannot be 'dept'.*image, video, audio, depth.*did you mean 'depth'"):
        open_data(open_config(Experiment, write_yaml(tmp_path / "slip.yaml", config)))


def test_two_plugins_with_one_ending_are_reported(world: DepthWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """fails when a file could be of two modalities, and which one it is depends on the order of the plugins"""
    (tmp_path / "thermal_lab").mkdir()
    (tmp_path / "thermal_lab" / "__init__.py").touch()
    (tmp_path / "thermal_lab" / "modalities.py").write_text(
        "from chatbridge.conversation.modalities import MODALITIES, Endings, Modality\n"
        "MODALITIES.register(Modality('thermal', 'thermal image', Endings.for_all('npy')))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = {**world.experiment(), "plugins": ["depth_lab", "thermal_lab"]}
    with pytest.raises(ConfigError) as error:
        open_data(open_config(Experiment, write_yaml(tmp_path / "two.yaml", config)))
    (problem,) = error.value.problems
    assert problem.path == "plugins" and "the ending .npy is taken by 'depth'" in problem.message
    assert "use a longer ending such as .thermal.npy" in problem.message


def test_a_report_without_the_plugin_warns(world: DepthWorld, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """fails when a report needs a package that is not on this machine, or silently lacks its examples"""
    settings = (world.run / "resolved.yaml").read_text()
    path = tmp_path / "resolved.yaml"
    path.write_text(settings.replace("- depth_lab", "- gone_lab"))
    assert set(read_task_nodes(path)) == {"depth_qa", "without"}
    assert "there is no importable package 'gone_lab'; the report has no examples of its data" in caplog.text
