"""Every shipped YAML parses, and its model builds on the meta device."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from chatbridge.cli import evaluate, train
from chatbridge.config.merge import load
from chatbridge.datasets.config import DataConfig
from chatbridge.experiment.roots import Evaluation, Experiment
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.config import ModelConfig
from chatbridge.models.trainable import set_trainable
from chatbridge.tasks.config import EvaluationConfig
from tests.helpers.placeholder_world import parse_with_placeholders, write_placeholder_world

ROOT = Path(__file__).parents[2]
FOLDERS = ("configs/models", "configs/datasets", "configs/mixtures", "configs/tasks", "train_configs", "eval_configs")
FILES = {folder: sorted(path.relative_to(ROOT) for path in (ROOT / folder).rglob("*.yaml")) for folder in FOLDERS}
AT_LEAST = {"configs/models": 6, "configs/datasets": 30, "configs/mixtures": 5, "train_configs": 9, "eval_configs": 3}
TINY_RUNS = [path for path in FILES["train_configs"] if path.name.startswith(("tiny_pretrain", "tiny_instruct"))]


@dataclass(frozen=True, kw_only=True)
class Fragment:
    """A file in configs/, which a complete run names in its base."""

    model: ModelConfig | None = None
    data: DataConfig | None = None
    evaluation: EvaluationConfig | None = None
    plugins: tuple[str, ...] = ()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_placeholder_world(tmp_path_factory.mktemp("placeholders"))


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the placeholders as the working folder."""
    monkeypatch.chdir(folder)
    return folder


QUICK_MODERN = {"modern_2b", "modern_stage1", "modern_stage2", "modern_eval"}


def names(*folders: str) -> list[Any]:
    """The files; those that build another large model of current parts are slow."""
    paths = [path for folder in folders for path in FILES[folder]]
    large = [path.name.startswith("modern_") and path.stem not in QUICK_MODERN and "mixtures" not in path.parts
             for path in paths]  # fmt: skip
    return [pytest.param(str(one), marks=pytest.mark.slow if slow else ()) for one, slow in zip(paths, large)]


def test_all_files_are_found():
    """fails when a folder was renamed or the search finds nothing, so that the tests below test nothing"""
    found = {folder: len(files) for folder, files in FILES.items()}
    assert all(found[folder] >= least for folder, least in AT_LEAST.items()), found
    elsewhere = {path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yaml")} - {
        path for files in FILES.values() for path in files
    }
    assert not elsewhere, f"no test reads {sorted(map(str, elsewhere))}"


@pytest.mark.parametrize("name", names("configs/models", "configs/datasets", "configs/mixtures", "configs/tasks"))
def test_fragments_parse_and_models_build(here: Path, name: str):
    """fails when a named choice has an unknown key, a value out of range, or a model that cannot be built"""
    fragment = parse_with_placeholders(Fragment, Path(name))
    assert any((fragment.model, fragment.data, fragment.evaluation and fragment.evaluation.tasks))
    if fragment.model is not None:
        build(fragment.model)
    if fragment.data is not None:
        assert fragment.data.sources


@pytest.mark.parametrize("name", names("train_configs"))
def test_runs_parse_and_build(here: Path, name: str):
    """fails when a shipped training run has a mistake that does not depend on data and weights"""
    experiment = parse_with_placeholders(Experiment, Path(name))
    build(experiment.model)


@pytest.mark.parametrize("name", names("eval_configs"))
def test_evaluations_parse_and_build(here: Path, name: str):
    """fails when a shipped evaluation has a mistake that does not depend on data and weights"""
    evaluation = parse_with_placeholders(Evaluation, Path(name))
    build(evaluation.model)


BUILT: list[ModelConfig] = []


def build(config: ModelConfig) -> None:
    """Build on the meta device, once for files with the same model; the patterns of `trainable` must match."""
    if config in BUILT:
        return
    with torch.device("meta"):
        model = ChatModel(config)
    set_trainable(model, config.trainable, config.adapters)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert set(model.media_lengths()) == set(config.routes)
    BUILT.append(config)


@pytest.mark.parametrize("path", TINY_RUNS, ids=lambda path: path.stem)
def test_the_plans_of_the_tiny_runs(here: Path, path: Path, capsys):
    """fails when train.py --check cannot open what write_files writes, or leaves files"""
    untrained = ["--options", "run.init_from=null"]  # the placeholder of a run folder has no checkpoint
    assert train.main(["--cfg-path", str(path), "--check", *untrained]) == 0
    plan = capsys.readouterr().out
    assert all(source in plan for source in load(path)[0]["data"]["sources"])
    assert not list((here / "runs").rglob("resolved.yaml"))


def test_the_plan_of_the_tiny_evaluation(here: Path, capsys):
    """fails when a task's questions or media are not where write_files writes them"""
    untrained = ["--options", "run.init_from=null"]  # the placeholder of a run folder has no checkpoint
    assert evaluate.main(["--cfg-path", "eval_configs/tiny_eval.yaml", "--check", *untrained]) == 0
    plan = capsys.readouterr().out
    assert all(f"  {task}: " in plan for task in load(Path("eval_configs/tiny_eval.yaml"))[0]["evaluation"]["tasks"])


def test_stages_agree():
    """fails when stage 2 does not start from stage 1, evaluation not from stage 2, or their models differ"""
    stage1, stage2, asked = (
        load(ROOT / name)[0]
        for name in (
            "train_configs/tiny_pretrain.yaml",
            "train_configs/tiny_instruct.yaml",
            "eval_configs/tiny_eval.yaml",
        )
    )
    assert stage2["run"]["init_from"] == stage1["run"]["output_dir"]
    assert asked["run"]["init_from"] == stage2["run"]["output_dir"]
    parts = ("encoders", "bridges", "language", "routes")
    assert all(stage1["model"][part] == stage2["model"][part] == asked["model"][part] for part in parts)


def test_the_mix_of_stage_1_is_the_published_one(reference: Path):
    """fails when a source, its modality, frames, clips, batch or share differs from the published mix file"""
    published = json.loads((reference / "data/multis_mix_stage1.json").read_text())["data_cfg"]["train"]
    data = load(ROOT / "configs/mixtures/chatbridge_alignment.yaml")[0]["data"]
    total, weights = (
        sum(entry["steps"] for entry in published),
        sum(source["weight"] for source in data["sources"].values()),
    )
    assert (data["mix"], data["template"]) == ("step", "caption")
    assert len(published) == len(data["sources"]) == 6
    for entry in published:
        files = entry["datasets"][0]
        source = data["sources"][files["name"].replace("-", "_").lower()]
        assert source["weight"] / weights == entry["steps"] / total
        assert (source["modality"], source["batch"]) == (files["datatype"], entry["batch_size"])
        assert source.get("frames") == entry.get("video_sample_num")
        assert source.get("clips") == entry.get("audio_sample_num")


def test_the_run_of_stage_1_is_the_published_one():
    """fails when a hyperparameter of ChatBridge's first stage changes, or a batch does not divide on usual machines"""
    config = load(ROOT / "train_configs/chatbridge_pretrain.yaml")[0]
    run = config["run"]
    assert run["optimizer"] == {"lr": 1e-4, "weight_decay": 0.05}
    assert run["schedule"] == {
        "kind": "lavis_cosine", "warmup_steps": 5000, "warmup_lr": 1e-6, "min_lr": 1e-5, "epoch_steps": 10_000
    }  # fmt: skip
    assert (run["max_steps"], run["clip_norm"], run["seed"]) == (20 * 10_000, None, 42)
    assert config["model"]["trainable"] == ["bridges.*"]
    assert config["model"]["bridges"]["perceiver"].get("dropout", 0) == 0
    assert config["model"]["encoders"]["audio"]["mel_bins"] == 128
    machines = [(8, 1), (1, 8), (4, 2), (2, 1), (16, 1)]  # ranks, accumulate
    batches = [source["batch"] for source in config["data"]["sources"].values()]
    assert all(batch % (ranks * accumulate) == 0 for batch in batches for ranks, accumulate in machines)


@pytest.mark.parametrize("path", sorted((ROOT / "configs/prompts").glob("*.json")), ids=lambda path: path.name)
def test_prompts_are_lists_of_texts(path: Path):
    """fails when a prompt file is not JSON, has an empty list, or a question prompt without room for the question"""
    prompts = json.loads(path.read_text(encoding="utf-8"))
    assert prompts
    for tag, texts in prompts.items():
        assert texts and all(isinstance(text, str) and text.strip() for text in texts), tag
        assert "qa" not in tag or all("<QUESTION>" in text for text in texts), tag
