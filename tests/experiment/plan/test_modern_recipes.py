"""The recipes of current parts: they are planned without files, and docs/modern_parts.md states what the plan finds."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from chatbridge.cli import plan, train
from chatbridge.common.errors import ConfigError
from chatbridge.config.merge import load
from chatbridge.runners.gpus import GPUS

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/modern_parts.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `(modern_\w+)` \| ([\d,]+) \| ([\d,]+) \| ([\d.]+) GiB \| (.+?) \|$", re.MULTILINE)
STATED = {
    name: (steps, conversations, memory, hours) for name, steps, conversations, memory, hours in ROW.findall(PAGE)
}
CARDS = {"modern": ("rtx4090", 1), "modern_80gb": ("a100", 1), "modern_8x80gb": ("a100", 8)}
QUICK = "modern_stage2"
EACH = [name if name == QUICK else pytest.param(name, marks=pytest.mark.slow) for name in STATED]


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the shipped configurations, without weights and data."""
    for name in ("configs", "train_configs", "eval_configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_has_every_recipe():
    """fails when a recipe is added without its plan, or a row of the table is not read"""
    shipped = {path.stem for path in (ROOT / "train_configs").glob("modern_*.yaml")}
    assert shipped == STATED.keys() and len(shipped) == 6


@pytest.mark.parametrize("name", EACH)
def test_the_plan_is_the_one_of_the_page(name: str, empty: Path, capsys: pytest.CaptureFixture[str]):
    """fails when a recipe cannot be planned without its files, does not fit its card, or the page has other figures"""
    gpu, ranks = CARDS[name.rpartition("_")[0]]
    asked = [f"train_configs/{name}.yaml", "--gpu", gpu, "--ranks", str(ranks), "--json", "plan.json"]
    assert plan.main(asked) == 0
    found, text = json.loads(Path("plan.json").read_text()), capsys.readouterr().out
    steps, conversations, memory, hours = STATED[name]
    assert f"{steps} steps, {conversations} conversations" in text
    assert found["memory"]["total"] / 2**30 == pytest.approx(float(memory), abs=0.06)
    for card, stated in re.findall(r"(\w+) ([\d.]+)", hours):
        expected = found["hours"] * GPUS[gpu].flops / GPUS[card].flops
        assert expected == pytest.approx(float(stated), abs=0.06), card
    assert "the template is taken for ChatML" in text and not any(Path(".").glob("runs"))


@pytest.mark.slow
@pytest.mark.parametrize("name", STATED)
def test_a_check_lists_nothing_but_absent_files(name: str, empty: Path, monkeypatch: pytest.MonkeyPatch):
    """fails when a recipe has a mistake beside the files that are not there, or one of them is not named"""
    monkeypatch.setenv("WORLD_SIZE", str(CARDS[name.rpartition("_")[0]][1]))
    with pytest.raises(ConfigError) as caught:
        train.main(["--cfg-path", f"train_configs/{name}.yaml", "--check"])
    absent = re.compile(r"there is no |does not exist|no model of that id")
    assert [one for one in caught.value.problems if not absent.search(one.message)] == []
    paths = {one.path for one in caught.value.problems}
    data = load(Path(f"train_configs/{name}.yaml"))[0]["data"]["sources"]
    parts = {"model.encoders.eyes.weights", "model.encoders.ears.weights", "model.language.weights"}
    assert parts <= paths and all(any(path.startswith(f"data.sources.{one}.") for path in paths) for one in data)


def test_stages_follow_each_other():
    """fails when a stage 2 starts from another run than its stage 1, their models differ, or a step has another size"""
    for prefix, (_, ranks) in CARDS.items():
        first, second = (load(ROOT / f"train_configs/{prefix}_stage{number}.yaml")[0] for number in (1, 2))
        assert second["run"]["init_from"] == first["run"]["output_dir"]
        parts = ("encoders", "bridges", "language", "routes")
        assert all(first["model"][part] == second["model"][part] for part in parts)
        sizes = [run["micro_batch"] * run.get("accumulate", 1) * ranks for run in (first["run"], second["run"])]
        assert sizes == [256, 128], prefix
        weights = sum(one["weight"] for one in second["data"]["sources"].values())
        assert second["run"]["max_steps"] == weights // 128, prefix
    asked, last = (
        load(ROOT / name)[0] for name in ("eval_configs/modern_eval.yaml", "train_configs/modern_stage2.yaml")
    )
    assert asked["run"]["init_from"] == last["run"]["output_dir"]
    assert asked["model"]["adapters"] == last["model"]["adapters"]
