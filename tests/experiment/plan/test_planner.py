"""Plans of the shipped training runs, without weights and data."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from chatbridge.cli import plan as command
from chatbridge.cli import train
from chatbridge.common.errors import ConfigError
from chatbridge.config.schema import parse
from chatbridge.datasets.config import DataConfig
from chatbridge.experiment.plan.probe import MOST_PARAMETERS
from chatbridge.experiment.plan.request import parse_size, plan_request, show_size
from chatbridge.experiment.plan.settings import SIZES
from chatbridge.experiment.plan.sources import _assumed
from chatbridge.runners.gpus import GPUS, gpu_of_device
from tests.helpers.mini_world import MiniWorld, write_yaml

ROOT = Path(__file__).parents[3]
SHIPPED = sorted(path.name for path in (ROOT / "train_configs").glob("*.yaml"))
TINY = [name for name in SHIPPED if "tiny" in name]
OTHERS = ("tiny", "stamps", "modern")  # stamps: planned from its files; modern: test_modern_recipes.py
LARGE = [name for name in SHIPPED if not name.startswith(OTHERS) and "tiny" not in name]
RANKS = {"minigpt4_stage1_pretrain.yaml": 4, "minigpt4_stage2_finetune.yaml": 1,
         "chatbind_stage1.yaml": 4, "chatbind_stage2.yaml": 4}  # fmt: skip
LANGUAGE_SIZES = {
    "chatbind_stage1.yaml": 6.7e9,
    "chatbind_stage2.yaml": 6.7e9,
    "mmgpt.yaml": 6.7e9,
    "textbind_stage1.yaml": 6.7e9,
    "textbind_stage2.yaml": 6.7e9,
}  # values of the language model, where not 13 B


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the shipped configurations and nothing else."""
    shutil.copytree(ROOT / "train_configs", tmp_path / "train_configs")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(name: str, *arguments: str) -> dict:
    """The JSON of a plan; asserts that it fits."""
    path = Path("plan.json")
    assert command.main([f"train_configs/{name}", "--json", str(path), *arguments]) == 0
    return json.loads(path.read_text())


def test_all_runs_are_found() -> None:
    """fails when the search finds nothing, so that the tests below test nothing"""
    assert len(TINY) >= 4 and len(LARGE) >= 4


QUICK = ("tiny_instruct.yaml",)


@pytest.mark.parametrize("name", [one if one in QUICK else pytest.param(one, marks=pytest.mark.slow) for one in TINY])
def test_the_small_runs(clone: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """fails when a plan needs a file, or leaves one"""
    found = planned(name, "--gpu", "a100")
    assert found["fits"] and found["hours"] > 0 and found["memory"]["total"] > 0
    assert all(source["is_assumed"] and source["passes"] > 0 for source in found["sources"].values())
    assert 0 <= found["padding"] < (0.55 if name == "chatbind_tiny_stage2.yaml" else 0.5)  # its assumed dialogues: 0.51
    text = capsys.readouterr().out
    for words in ("missing before a run can start", "model.language.weights", "assumed", "most memory"):
        assert words in text, text
    assert not (clone / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_the_published_runs(clone: Path, name: str) -> None:
    """fails when a run of the published size cannot be planned, or its plan takes long"""
    start = time.process_time()
    found = planned(name, "--gpu", "a100", "--ranks", str(RANKS.get(name, 8)))
    assert time.process_time() - start < 20
    language = next(one for one in found["components"] if one["name"] == "language")
    is_tuned, size, cost = (
        language["trained"] > 0,
        LANGUAGE_SIZES.get(name, 13.0e9),
        found["flops_per_step"]["language"],
    )
    assert size < language["trained" if is_tuned else "frozen"] < 1.01 * size
    on_gpu = is_tuned and name != "textbind_stage2.yaml"  # whose moments are in the memory of the CPU
    assert found["memory"]["dominant"] == ("optimizer" if on_gpu else "weights")
    assert (0 if is_tuned else 2 * size) < found["memory"]["total"] < 80 * 2**30  # tuned: sharded over the ranks
    # a gradient flows through a frozen model; a tuned one has gradients of its weights too
    assert cost["backward"] == pytest.approx((1 + is_tuned) * cost["forward"], rel=0.02)


def test_data_that_is_there_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """fails when real files are assumed, or a weights folder's tokenizer and sizes are not used"""
    world = MiniWorld(tmp_path)
    path = write_yaml(tmp_path / "train.yaml", world.experiment(tmp_path / "run"))
    assert command.main([str(path), "--json", str(tmp_path / "plan.json")]) == 0
    found = json.loads((tmp_path / "plan.json").read_text())
    assert not any(source["is_assumed"] for source in found["sources"].values())
    assert {source["samples"] for source in found["sources"].values()} == {6}
    assert found["hours"] is None and found["fits"] is None and found["missing"] == found["assumed"] == []
    assert found["dtype"] == "float32" and "name a GPU" in capsys.readouterr().out


def test_changes_that_fit(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """fails when a plan that does not fit names no change, or one that does not fit either"""
    name = "train_configs/minigpt4_tiny_stage1.yaml"
    without = ["--gpu-memory", "876MiB", "--options", "run.micro_batch=256"]
    assert command.main([name, *without]) == command.DOES_NOT_FIT
    text = capsys.readouterr().out
    assert "DOES NOT FIT" in text and "run.micro_batch=" in text
    line = next(line for line in text.splitlines() if line.startswith("  --options"))
    options = ["run.micro_batch=256", *line.split()[1:]]
    assert command.main([name, "--gpu-memory", "876MiB", "--options", *options]) == 0


def test_mistakes_are_told_at_once(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """fails when a wrong argument is accepted, or hides another one"""
    with pytest.raises(ConfigError) as caught:
        plan_request(gpu="h10", gpu_memory="80 apples", ranks=0, mfu=2.0)
    text = str(caught.value)
    for words in ("did you mean h100", "allowed: a100", "80GiB", "1 or more", "up to 1"):
        assert words in text, text
    for path, words in (("eval_configs/tiny_eval.yaml", "no section data"), ("nowhere.yaml", "nowhere.yaml")):
        with pytest.raises(ConfigError, match=words):
            command.main([str(ROOT / path) if "eval" in path else path])
    with pytest.raises(ConfigError, match="max_stepz"):
        command.main(["train_configs/tiny_pretrain.yaml", "--options", "run.max_stepz=3"])
    with pytest.raises(ConfigError, match="not a multiple of"):
        command.main(["train_configs/chatbridge_pretrain.yaml", "--ranks", "7"])


def test_sizes_of_memory() -> None:
    """fails when GB and GiB are confused, or nonsense becomes a size"""
    assert parse_size("80GiB") == 80 * 2**30 and parse_size("80 GB") == 80 * 10**9
    assert parse_size("80000MiB") == 80000 * 2**20 and parse_size("1.5gib") == 3 * 2**29
    assert show_size(parse_size("79.5GiB")) == "79.5 GiB"
    for text in ("80", "GiB", "80 bananas", "-3GiB", "0GiB", ""):
        with pytest.raises(ValueError, match="80GiB"):
            parse_size(text)


def test_devices_are_found_in_the_table() -> None:
    """fails when the name that torch gives a GPU is not recognised, or an unknown one is taken for another"""
    names = {"NVIDIA A100-SXM4-80GB": "a100", "NVIDIA H100 80GB HBM3": "h100", "NVIDIA H100 PCIe": "h100-pcie",
             "NVIDIA H200": "h200", "NVIDIA GeForce RTX 4090": "rtx4090", "NVIDIA L40S": "l40s", "NVIDIA L4": "l4",
             "NVIDIA A100-SXM4-40GB": "a100-40gb"}  # fmt: skip
    assert {name: gpu_of_device(name) for name in names} == {name: GPUS[key] for name, key in names.items()}
    assert gpu_of_device("Tesla K80") is None


def test_assumed_sizes_are_those_of_the_cards() -> None:
    """fails when a source of configs/datasets has no assumed sizes, or they differ from its data card"""
    sources = yaml.safe_load(SIZES.read_text())["sources"]
    named = {
        name for path in (ROOT / "configs/datasets").glob("*.yaml")
        for name in yaml.safe_load(path.read_text())["data"]["sources"]
    }  # fmt: skip
    assert named <= sources.keys()
    for name, entry in sources.items():
        if "card" not in entry:
            continue
        card = (ROOT / "dataset_prep/cards" / f"{entry['card']}.md").read_text()
        size = next(line for line in card.splitlines() if line.startswith("| **Plan**"))
        assert f"{name} {entry['samples']:,}" in size, f"{entry['card']}.md: {size}"


def test_text_only_sources_have_no_media(tmp_path: Path) -> None:
    """fails when the plan of an absent text-only source counts the positions of an image"""
    file = tmp_path / "a.jsonl"
    file.touch()
    nodes = {
        "dolly": {"name": "instructions", "format": "dolly", "annotations": str(file)},
        "captions": {"name": "captions", "tag": "ti", "annotations": str(file), "image_folder": str(tmp_path)},
        "own": {"name": "records", "file": str(file)},  # its media are known once it is open
    }
    found = parse(DataConfig, {"sources": nodes}).sources
    run: Any = SimpleNamespace(config=SimpleNamespace(model=SimpleNamespace(routes={"image": {}})))
    assumed = {name: _assumed(name, choice, None, {"image": 64}, run) for name, choice in found.items()}
    assert {name: set(one.modalities) for name, one in assumed.items()} == {
        "dolly": set(), "captions": {"image"}, "own": {"image"}
    }  # fmt: skip
    assert assumed["captions"].overhead - 64 == assumed["dolly"].overhead


def test_check_shows_the_plan(tmp_path: Path, clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """fails when train --check omits the costs, hides the plan of a run whose files are missing, or then succeeds"""
    world = MiniWorld(tmp_path / "world")
    path = write_yaml(tmp_path / "train.yaml", world.experiment(tmp_path / "run"))
    assert train.main(["--cfg-path", str(path), "--check"]) == 0
    text = capsys.readouterr().out
    for words in (
        "TFLOP per step and rank",
        "bridges.perceiver",
        "memory of one rank",
        "largest micro-batch",
        "passes",
    ):
        assert words in text, text
    with pytest.raises(ConfigError, match="does not exist"):
        train.main(["--cfg-path", "train_configs/tiny_pretrain.yaml", "--check"])
    text = capsys.readouterr().out
    assert "missing before a run can start" in text and "memory of one rank" in text
    with pytest.raises(ConfigError, match="max_stepz"):  # another mistake: no plan
        train.main(["--cfg-path", "train_configs/tiny_pretrain.yaml", "--check", "--options", "run.max_stepz=3"])
    assert not capsys.readouterr().out


@pytest.mark.slow
def test_a_probe_measures_what_was_planned(
    clone: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """fails when the probe needs weights or data, does not reach the planned micro-batch, or is far from the plan"""
    options = ["run.micro_batch=4", "run.precision=fp32"]
    name, path = "train_configs/minigpt4_tiny_stage2.yaml", Path("plan.json")
    assert command.main([name, "--probe", "--json", str(path), "--options", *options]) == 0
    found = json.loads(path.read_text())["probe"]
    assert [one["rows"] for one in found["steps"]] == [1, 2, 4]
    for one in found["steps"]:
        assert one["predicted"] == pytest.approx(one["peak"], rel=0.15)
        assert one["seconds"] > 0 and one["flops_per_second"] > 0
    assert 0.85 < found["correction"] < 1.15
    assert "the plan corrected by it" in capsys.readouterr().out
    monkeypatch.setitem(MOST_PARAMETERS, "cpu", 1000)
    with pytest.raises(ConfigError, match="parameters on the cpu, at most 1,000"):
        command.main([name, "--probe"])
