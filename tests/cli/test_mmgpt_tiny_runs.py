"""The tiny Multimodal-GPT from its shipped YAML: what each stage trains, both streams, and its chat."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from chatbridge.cli import train
from chatbridge.config.merge import load
from chatbridge.conversation.messages import Media, user
from chatbridge.models.encoders.eva_vit import EvaViT
from chatbridge.models.language.base import GenerateOptions
from chatbridge.models.loading import read_state, save_component
from chatbridge.serve.engine import ChatEngine
from dataset_prep.tiny_world import write_text
from tests.helpers.mini_world import MiniWorld
from tests.helpers.train_runs import records

ROOT = Path(__file__).parents[2]
STAGE1, STAGE2 = (ROOT / f"train_configs/mmgpt_tiny_stage{number}.yaml" for number in (1, 2))
TRUNK = {
    "width": 16,
    "depth": 1,
    "heads": 2,
    "image_size": 32,
    "patch_size": 16,
    "mlp_ratio": 3.0,
    "class_token": False,
}
SMALL = {
    "bridges.resampler": {"depth": 1, "num_latents": 2, "heads": 2, "head_width": 4},
    "fusion": {"heads": 2, "head_width": 8, "media_width": 16},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> MiniWorld:
    made = MiniWorld(tmp_path_factory.mktemp("world"))
    write_text.write_text(made.folder, seed=1, counts=(24, 12, 6))
    torch.manual_seed(0)
    save_component(EvaViT(EvaViT.Config(**TRUNK)), made.folder / "vision.safetensors")
    return made


def options(world: MiniWorld, output: Path, *sources: str) -> list[str]:
    """What makes a tiny file run in the miniature world: smaller parts, two steps, its own files."""
    vision = {**TRUNK, "weights": str(world.folder / "vision.safetensors")}
    nodes = {"encoders.vision": vision, "language": {"weights": str(world.folder / "lm")}, **SMALL}
    parts = [f"model.{node}.{key}={json.dumps(value)}" for node, sizes in nodes.items() for key, value in sizes.items()]
    files = {
        "tiny_image_qa": world.source("questions", "ti-qa"),
        "tiny_image_cap": world.source("captions", "ti-cap"),
        "tiny_text": {"annotations": str(world.folder / "instruct/text.json")},
        "tiny_text_chat": {"annotations": str(world.folder / "instruct/text_chat.json")},
    }
    paths = [f"data.sources.{name}.{key}={files[name][key]}" for name in sources
             for key in ("annotations", "image_folder") if key in files[name]]  # fmt: skip
    short = ("max_steps=2", "micro_batch=2", "save_every=2", "device=cpu", "schedule.warmup_steps=1", "log_every=1")
    return [*parts, *paths, "data.num_workers=0", f"run.output_dir={output}", *(f"run.{one}" for one in short)]


@pytest.fixture(scope="module")
def runs(world: MiniWorld, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The run folders of both stages, after two steps each."""
    folder = tmp_path_factory.mktemp("runs")
    first, second = folder / "stage1", folder / "stage2"
    given = options(world, first, "tiny_image_cap")
    assert train.main(["--cfg-path", str(STAGE1), "--options", *given]) == 0
    given = options(world, second, "tiny_image_qa", "tiny_image_cap", "tiny_text", "tiny_text_chat")
    given += ["data.sources.tiny_image_conv=null", f"run.init_from={first}"]
    assert train.main(["--cfg-path", str(STAGE2), "--options", *given]) == 0
    return first, second


def trained(run: Path) -> dict[str, torch.Tensor]:
    return read_state(run / "checkpoints/step_000002/model.safetensors")


def test_each_stage_trains_its_own_tensors(runs: tuple[Path, Path]):
    """Fails when a stage trains other tensors than OpenFlamingo's and Multimodal-GPT's, or moves a frozen one."""
    first, second = map(trained, runs)
    assert {name.split(".")[0] for name in first} == {"bridges", "fusion"}
    assert {name for name in first if name.endswith("_gate")} == {
        f"fusion.layers.1.{part}_gate" for part in ("attention", "feed_forward")
    }
    lora = {name for name in second if ".lora_" in name}
    attention = {f"self_attn.{one}_proj" for one in "qkvo"}
    blocks = {"attention.to_q", "attention.to_kv", "attention.to_out", "feed_forward.up", "feed_forward.down"}
    layers = {name.partition(".lora_")[0] for name in lora}
    assert layers == {f"language.lm.model.layers.{n}.{one}" for n in (0, 1) for one in attention} | {
        f"fusion.layers.1.{one}" for one in blocks
    }
    carried = {name.replace(".base_layer", ""): value for name, value in second.items() if name not in lora}
    assert carried.keys() == first.keys()
    assert all(torch.equal(value, first[name]) for name, value in carried.items())


def test_both_streams_are_in_every_step(runs: tuple[Path, Path]):
    """Fails when a step has no text, or no image, or its loss is not the sum of both means."""
    steps = records(runs[1])
    assert len(steps) == 2
    for step in steps:
        assert step["per_stream"].keys() == {"visual", "language"}
        assert step["loss"] == pytest.approx(sum(step["per_stream"].values()))


def test_a_chat_about_an_image_and_without_one(runs: tuple[Path, Path], world: MiniWorld):
    """Fails when a run cannot be chatted with, or the blocks change answers of stage 1 that no image belongs to."""
    first, second = (ChatEngine.from_checkpoint(run) for run in runs)
    asked = user("what color is it ?")
    picture = Media("image", world.folder / "images" / "i0.jpg")
    few = GenerateOptions(max_new_tokens=3)
    assert isinstance(second.answer((user(picture, "what color is it ?"),), few).text, str)
    before = first.answer((asked,), few).text
    with torch.no_grad():
        for name, value in first.model.named_parameters():
            if name.endswith("_gate"):
                value.fill_(5.0)
    assert first.answer((asked,), few).text == before


def test_the_stages_follow_each_other():
    """Fails when a stage starts elsewhere, sees what the evaluation asks about, or differs from the published model."""
    first, second, asked = (load(path)[0] for path in (STAGE1, STAGE2, ROOT / "eval_configs/mmgpt_tiny_eval.yaml"))
    language = load(ROOT / "train_configs/mmgpt_tiny_language.yaml")[0]
    assert second["run"]["init_from"] == first["run"]["output_dir"]
    assert asked["run"]["init_from"] == second["run"]["output_dir"]
    for stage in (language, first, second):
        files = [source["annotations"] for source in stage["data"]["sources"].values()]
        assert files and all(file.startswith("data/tiny/instruct/") for file in files)
    assert first["model"]["fusion"] == second["model"]["fusion"] == asked["model"]["fusion"]
    assert second["model"]["fusion"]["media"] == "next" and first["model"]["adapters"] == []
    assert language["model"]["language"]["template_settings"] == second["model"]["language"]["template_settings"]
    texts = {name: source for name, source in second["data"]["sources"].items() if source["stream"] == "language"}
    assert {**language["data"]["sources"]} == {
        name: {key: value for key, value in source.items() if key != "stream"} for name, source in texts.items()
    }
