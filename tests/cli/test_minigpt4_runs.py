"""MiniGPT-4 from its shipped YAML: the real files parse, the tiny ones train both stages and answer."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from chatbridge.cli import train
from chatbridge.common.errors import ConfigError
from chatbridge.config.merge import load
from chatbridge.conversation.messages import Media, user
from chatbridge.datasets.builders.web_pairs import WebPairs
from chatbridge.experiment.open import open_config
from chatbridge.experiment.roots import Evaluation, Experiment
from chatbridge.models.bridges.qformer import QFormer
from chatbridge.models.encoders.eva_vit import EvaViT
from chatbridge.models.language.base import GenerateOptions
from chatbridge.models.language.causal_lm import CausalLM
from chatbridge.models.loading import read_state, save_component
from chatbridge.models.start_from_checkpoint import changed_frozen_parts
from chatbridge.runners.optim import OptimizerConfig, Schedule, ScheduleConfig, build_optimizer
from chatbridge.serve.engine import ChatEngine
from tests.helpers.mini_world import MiniWorld
from tests.helpers.tiny_media import jpeg, write_tar
from tests.helpers.tiny_models import VISION

ROOT = Path(__file__).parents[2]
PROMPTS = ROOT / "configs" / "prompts" / "minigpt4_alignment.txt"
EVA: dict[str, Any] = {key: value for key, value in VISION.items() if key != "name"} | {"patch_size": 14}
PERCEIVER: dict[str, Any] = {"num_queries": 3, "num_layers": 2, "width": 16, "heads": 2}
MISSING = (
    "is still ???",
    "takes its value from",
    "there is no",
    "no file matches",
    "no such",
    "cannot be read",
    "does not exist",
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> MiniWorld:
    """With the frozen parts in files, as the released ones are: a chat must meet the same again."""
    world = MiniWorld(tmp_path_factory.mktemp("world"))
    torch.manual_seed(0)
    save_component(EvaViT(EvaViT.Config(**EVA)), world.folder / "vision.safetensors")
    frozen = QFormer(QFormer.Config(**PERCEIVER), {"image": EVA["width"]}, 20)
    save_component(frozen, world.folder / "qformer.safetensors")
    return world


@pytest.mark.parametrize(
    ("kind", "name", "keys"),
    [
        (Experiment, "train_configs/minigpt4_stage1_pretrain.yaml", 3),
        (Experiment, "train_configs/minigpt4_stage2_finetune.yaml", 3),
        (Evaluation, "eval_configs/minigpt4_eval.yaml", 4),
        (Evaluation, "eval_configs/minigpt4_llama2_eval.yaml", 3),
    ],
)
def test_the_real_files_lack_files_and_nothing_else(kind: Any, name: str, keys: int) -> None:
    """Fails when a shipped file has a mistake, or a ??? of it does not show up in the message."""
    with pytest.raises(ConfigError) as error:
        open_config(kind, ROOT / name).config  # noqa: B018
    problems = error.value.problems
    assert all(any(words in str(problem) for words in MISSING) for problem in problems), str(error.value)
    assert sum("???" in problem.message for problem in problems) >= keys


@pytest.mark.parametrize(("number", "name"), [(0, "stage1_pretrain"), (1, "stage2_finetune")])
def test_learning_rates_of_the_stages(reference: Path, number: int, name: str) -> None:
    """Fails when a stage's schedule is not the reference's."""
    case = json.loads((reference / "golden" / "minigpt4_lr.json").read_text())["cases"][number]
    node = load(ROOT / "train_configs" / f"minigpt4_{name}.yaml")[0]["run"]
    rate = Schedule(ScheduleConfig(**node["schedule"]), float(node["optimizer"]["lr"]), node["max_steps"])
    for point in case["values"]:
        step = point["epoch"] * case["config"]["iters_per_epoch"] + point["iter"]
        assert rate(step) == pytest.approx(point["lr"], rel=1e-9)
    assert node["max_steps"] == case["config"]["max_epoch"] * case["config"]["iters_per_epoch"]


def test_all_learning_rates(reference: Path) -> None:
    """Fails when lavis_cosine differs from MiniGPT-4's scheduler, a warm-up longer than an epoch included."""
    for case in json.loads((reference / "golden" / "minigpt4_lr.json").read_text())["cases"]:
        config = case["config"]
        settings = {key: config[key] for key in ("warmup_steps", "warmup_lr", "min_lr")}
        schedule = ScheduleConfig(kind="lavis_cosine", epoch_steps=config["iters_per_epoch"], **settings)
        rate = Schedule(schedule, config["init_lr"], config["max_epoch"] * config["iters_per_epoch"])
        for point in case["values"]:
            step = point["epoch"] * config["iters_per_epoch"] + point["iter"]
            assert rate(step) == pytest.approx(point["lr"], rel=1e-9), case["name"]


def test_biases_are_left_out_of_the_decay() -> None:
    """Fails when decay_vectors: false still pulls a bias to zero, or spares a matrix."""
    layer = torch.nn.Linear(2, 3)
    parameters = dict(layer.named_parameters())
    one, two = (build_optimizer(parameters, OptimizerConfig(decay_vectors=both)) for both in (True, False))
    assert [group["weight_decay"] for group in one.param_groups] == [0.05]
    assert {id(p): group["weight_decay"] for group in two.param_groups for p in group["params"]} == {
        id(layer.weight): 0.05,
        id(layer.bias): 0.0,
    }


def options(world: MiniWorld, *more: str) -> list[str]:
    """What makes a tiny file run in a miniature world instead of the one on disk: smaller parts, random weights."""
    vision = EVA | {"weights": str(world.folder / "vision.safetensors")}
    parts = [f"model.encoders.vision.{key}={json.dumps(value)}" for key, value in vision.items()]
    short = ["run.max_steps=3", "run.micro_batch=3", "run.save_every=3", "run.log_every=1", "run.device=cpu"]
    schedule = ["run.schedule.warmup_steps=1", "run.schedule.epoch_steps=2"]
    return [*parts, f"model.language.weights={world.folder / 'lm'}", "data.num_workers=0", *short, *schedule, *more]


def run(name: str, *options: str) -> None:
    assert train.main(["--cfg-path", str(ROOT / "train_configs" / name), "--options", *options]) == 0


def qformer(world: MiniWorld) -> list[str]:
    """The other variant: a frozen Q-Former whose projection learns, instead of joined patches."""
    bridge = json.dumps({"name": "qformer", **PERCEIVER, "weights": str(world.folder / "qformer.safetensors")})
    trained = 'model.trainable=["bridges.projection.output.*"]'
    return [f"model.bridges.projection={bridge}", trained, "model.encoders.vision.class_token=true"]


@pytest.mark.parametrize("template", ["minigpt4_llama2", "minigpt4_vicuna0"])
def test_both_stages_and_an_answer(world: MiniWorld, tmp_path: Path, template: str) -> None:
    """Fails when the shipped tiny files do not train only the projection in two stages, or an answer is missing."""
    parts = qformer(world) if template == "minigpt4_vicuna0" else []
    here = options(world, *parts, f"model.language.template={template}")
    first, second = tmp_path / "stage1", tmp_path / "stage2"
    run("minigpt4_tiny_stage1.yaml", *here, f"run.output_dir={first}",
        f"data.sources.tiny_images.shards={world.folder / 'pairs.tar'}")  # fmt: skip
    wrapped = tmp_path / "filter_cap.json"
    records = [{"image_id": f"i{number}", "caption": "a red circle ."} for number in range(4)]
    wrapped.write_text(json.dumps({"annotations": records}))
    run("minigpt4_tiny_stage2.yaml", *here, f"run.output_dir={second}", f"run.init_from={first}",
        f"data.sources.tiny_align.annotations={wrapped}", f"data.sources.tiny_align.prompts={PROMPTS}",
        f"data.sources.tiny_align.image_folder={world.folder / 'images'}")  # fmt: skip
    states = [read_state(folder / "checkpoints" / "step_000003" / "model.safetensors") for folder in (first, second)]
    names = {"bridges.projection.output.weight", "bridges.projection.output.bias"}
    assert [set(state) for state in states] == [names, names]
    assert all(not torch.equal(states[0][name], states[1][name]) for name in names)
    engine = ChatEngine.from_checkpoint(second)
    question = user(Media("image", world.folder / "images" / "i0.jpg"), "what color is it ?")
    answer = engine.answer((question,), GenerateOptions(max_new_tokens=5))
    assert isinstance(answer.text, str) and "###" not in answer.text


def test_load_in_8bit_says_when_it_is_not_in_effect(world: MiniWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when 8 bit is set where it is not available without a message, or for trainable parameters."""
    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace(supported_torch_devices={"cuda"}))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    language = CausalLM(CausalLM.Config(weights=world.folder / "lm", load_in_8bit=True)).requires_grad_(False)
    said = language.load(torch.device("cpu"), torch.float32)
    assert "load_in_8bit is NOT in effect" in said and "on cpu" in said
    assert not any(parameter.is_meta for parameter in language.parameters())
    with pytest.raises(ValueError, match="cannot be trained"):
        language.requires_grad_(True).load(torch.device("cpu"), torch.float32)


def test_load_in_8bit_is_in_8_bit_and_means_the_same(world: MiniWorld) -> None:
    """Fails when nothing is held in 8 bit, when it answers something else, or when no gradient passes through it."""
    pytest.importorskip("bitsandbytes")
    models = []
    for load_in_8bit in (False, True):
        config = CausalLM.Config(weights=world.folder / "lm", load_in_8bit=load_in_8bit)
        models.append(CausalLM(config).requires_grad_(False))
        said = models[-1].load(torch.device("cpu"), torch.float32)
        assert ("in 8 bit" in said) is load_in_8bit
    assert any(parameter.dtype == torch.int8 for parameter in models[1].parameters())
    found = []
    for model in models:
        rows = model.embed(torch.tensor([[1, 5, 6, 7, 8]])).detach().requires_grad_(True)
        logits = model.logits(model(rows))
        logits.sum().backward()
        found.append((logits.detach(), rows.grad))
    for exact, rounded in zip(*found, strict=True):
        assert exact is not None and rounded is not None
        difference = float((rounded - exact).norm() / exact.norm())
        assert 0 < difference < 0.1  # 127 steps per row


def test_the_run_settings_of_the_reference() -> None:
    """Fails when batch, clipping or decay of a stage is changed by accident."""
    stages = [
        load(ROOT / "train_configs" / f"minigpt4_{name}.yaml")[0] for name in ("stage1_pretrain", "stage2_finetune")
    ]
    assert [stage["run"]["micro_batch"] for stage in stages] == [64, 12]
    assert all(
        stage["run"]["clip_norm"] is None and stage["run"]["optimizer"]["weight_decay"] == 0.05 for stage in stages
    )
    assert all(stage["run"]["optimizer"]["decay_vectors"] is False for stage in stages)
    weights = {name: source["weight"] for name, source in stages[0]["data"]["sources"].items()}
    assert weights == {"minigpt4_laion": 115, "minigpt4_cc_sbu": 14}


def test_a_language_model_in_8_bit_is_not_compared_with_the_one_in_training() -> None:
    """Fails when a run cannot be evaluated with load_in_8bit, or other changed weights are excused with it."""
    lm: Any = torch.nn.Linear(2, 2)
    model: Any = torch.nn.Module()
    model.language = torch.nn.Module()
    model.language.lm = lm
    manifest = {"components": {"language": {"frozen": {"fingerprint": "of bf16", "tensors": 2}}}}
    assert len(changed_frozen_parts(model, manifest, [])) == 1
    lm.is_loaded_in_8bit = True
    assert changed_frozen_parts(model, manifest, []) == []


def test_captions_and_images_as_the_reference_prepared_them(tmp_path: Path) -> None:
    """Fails when stage 1 cleans captions by ChatBridge's rules, or images are resized in two ways."""
    write_tar(tmp_path / "0.tar", [("1.jpg", jpeg(9)), ("1.json", json.dumps({"caption": "A Dog (fast)!"}).encode())])
    config = WebPairs.Config(shards=str(tmp_path / "0.tar"), modality="image", text="json", cleaner="minigpt4")
    record = WebPairs(config, "pairs").record(0, np.random.default_rng(0))
    assert record.conversation[-1].text == "a dog fast"
    train_time = [EvaViT.Config(train_resize=way).processor("image", True, 1).train for way in ("bicubic", "bilinear")]
    assert train_time == [False, True]
