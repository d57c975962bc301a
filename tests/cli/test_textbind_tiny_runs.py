"""The tiny TextBind from its shipped YAML: what each stage trains, and a chat that draws."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from chatbridge.cli import train
from chatbridge.config.merge import load
from chatbridge.conversation.messages import Drawing, Text, user
from chatbridge.models.encoders.eva_vit import EvaViT
from chatbridge.models.language.base import GenerateOptions
from chatbridge.models.loading import read_state, save_component
from chatbridge.serve.engine import ChatEngine
from dataset_prep.tiny_world import write_files, write_textbind
from dataset_prep.tiny_world.generators.tiny_renderer import TinyRenderer
from tests.helpers.mini_world import write_language_model
from tests.helpers.train_runs import records

ROOT = Path(__file__).parents[2]
STAGE1, STAGE2 = (ROOT / f"train_configs/textbind_tiny_stage{number}.yaml" for number in (1, 2))
TRUNK = {"width": 16, "depth": 1, "heads": 2, "image_size": 32, "patch_size": 16, "mlp_ratio": 3.0}
SMALL = {"num_queries": 2, "num_layers": 1, "width": 16, "heads": 2, "mlp_width": 16}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random language model and encoder, pairs of stage 1 and conversations of stage 2."""
    folder = tmp_path_factory.mktemp("world")
    write_language_model(folder / "lm")
    write_files.write_pairs(folder / "alignment", "image", 8, seed=1)
    write_textbind.write_conversations(folder, seed=1, count=24)
    torch.manual_seed(0)
    save_component(EvaViT(EvaViT.Config(**TRUNK)), folder / "vision.safetensors")
    return folder


def options(world: Path, output: Path, source: str) -> list[str]:
    """What makes a tiny file run in the miniature world: smaller parts, two steps, its own files."""
    vision = {**TRUNK, "weights": str(world / "vision.safetensors")}
    nodes = {"encoders.vision": vision, "bridges.qformer": SMALL, "language": {"weights": str(world / "lm")}}
    parts = [f"model.{node}.{key}={json.dumps(value)}" for node, sizes in nodes.items() for key, value in sizes.items()]
    short = ("max_steps=2", "micro_batch=8", "save_every=2", "device=cpu", "schedule.warmup_steps=1", "log_every=1")
    return [*parts, f"data.sources.{source}", "data.num_workers=0", f"run.output_dir={output}",
            *(f"run.{one}" for one in short)]  # fmt: skip


@pytest.fixture(scope="module")
def runs(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The run folders of both stages, after two steps each."""
    folder = tmp_path_factory.mktemp("runs")
    first, second = folder / "stage1", folder / "stage2"
    given = options(world, first, f"tiny_images.shards={world}/alignment/images-*.tar")
    assert train.main(["--cfg-path", str(STAGE1), "--options", *given]) == 0
    given = options(world, second, f"tiny_textbind.annotations={world}/instruct/textbind.json")
    given.append(f"data.sources.tiny_textbind.root={world}/instruct")
    assert train.main(["--cfg-path", str(STAGE2), "--options", *given, f"run.init_from={first}"]) == 0
    return first, second


def trained(run: Path) -> dict[str, torch.Tensor]:
    return read_state(run / "checkpoints/step_000002/model.safetensors")


def test_each_stage_trains_its_own_tensors(runs: tuple[Path, Path]):
    """Fails when stage 1 trains more than the Q-Former, or stage 2 leaves out the language model or a token."""
    first, second = map(trained, runs)
    assert {name.split(".")[0] for name in first} == {"bridges"}
    assert {name.split(".")[0] for name in second} == {"bridges", "language", "added_tokens"}
    assert any(not torch.equal(value, second[name]) for name, value in first.items())
    assert all(torch.isfinite(torch.tensor(step["loss"])) for run in runs for step in records(run))


def test_a_chat_with_a_run_draws(runs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch):
    """Fails when a run's own folder does not bring the renderer, or a drawn image is not that of its caption."""
    engine = ChatEngine.from_checkpoint(runs[1])
    assert isinstance(engine.generator, TinyRenderer)
    start, end = engine.layout.template.drawing_ids or (0, 0)
    forced = [start, *engine.layout.tokenizer.encode("a dragon"), end]
    real = engine.model.language.logits

    def logits(hidden: torch.Tensor) -> torch.Tensor:
        found = real(hidden)
        if forced:
            found = torch.full_like(found, -100.0)
            found[:, forced.pop(0)] = 100.0
        return found

    monkeypatch.setattr(engine.model.language, "logits", logits)
    answer = engine.answer((user("Show me a dragon."),), GenerateOptions(max_new_tokens=len(forced) + 2))
    drawn = next(part for part in answer.parts if isinstance(part, Drawing))
    assert drawn.caption and isinstance(drawn.ref, torch.Tensor) and (drawn.ref == 128).all()
    assert isinstance(engine.answer((user("Show me."), answer.message, user(Text("color ?")))).text, str)


def test_the_stages_follow_each_other():
    """Fails when a stage starts elsewhere, sees what the evaluation asks about, or has parts TextBind has not."""
    first, second, asked = (load(path)[0] for path in (STAGE1, STAGE2, ROOT / "eval_configs/textbind_tiny_eval.yaml"))
    assert second["run"]["init_from"] == first["run"]["output_dir"]
    assert asked["run"]["init_from"] == second["run"]["output_dir"]
    for stage in (first, second):
        text = json.dumps(stage["data"]["sources"])
        assert "data/tiny/" in text and "heldout" not in text
    parts = ("encoders", "bridges", "language", "added_tokens", "routes", "generator")
    assert all(first["model"][part] == second["model"][part] == asked["model"][part] for part in parts)
    published = load(ROOT / "configs/models/textbind_llama2_7b.yaml")[0]["model"]
    for part in ("added_tokens", "fusion"):
        assert published[part] == second["model"][part]
    assert published["language"]["template"] == second["model"]["language"]["template"] == "textbind"
    for kind in ("encoders", "bridges"):
        assert {k: v["name"] for k, v in published[kind].items()} == {
            k: v["name"] for k, v in first["model"][kind].items()
        }
