"""Which changes a plan proposes, in which order, and with which micro-batches."""

from __future__ import annotations

import io
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from chatbridge.cli import plan as command
from chatbridge.common.errors import ConfigError
from chatbridge.experiment.plan import waiting
from chatbridge.experiment.plan.data_table import data
from chatbridge.experiment.plan.fitting import (
    _divisors,
    _levers,
    _smaller,
    _together,
    changes_that_fit,
    ranks_text,
    ranks_that_fit,
)
from chatbridge.experiment.plan.memory import MemoryPlanner
from chatbridge.experiment.plan.planner import Plan, Planner
from chatbridge.experiment.plan.report import after_verdict, memory
from chatbridge.experiment.plan.request import plan_request
from chatbridge.experiment.validate_shard import ranks_note

ROOT = Path(__file__).parents[3]
SOURCES = [f"tiny_{media}_{task}" for media in ("image", "video", "audio") for task in ("qa", "cap", "conv")]
MODELS: dict[str, Any] = {}
FULL = 'model.trainable=["bridges.*", "language.*"]'


@pytest.fixture(autouse=True)
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the shipped configurations and nothing else."""
    shutil.copytree(ROOT / "train_configs", tmp_path / "train_configs")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)


def planned(name: str, *options: str) -> Plan:
    return Planner(f"train_configs/{name}", plan_request(gpu_memory="880MiB"), num_measured=32).plan(options)


def planner_for(*request: Any) -> Planner:
    """Of the tiny instruction run; models are built once for all of these tests."""
    planner = Planner("train_configs/tiny_instruct.yaml", plan_request(*request), num_measured=32)
    planner._models = MODELS
    return planner


def proposed(name: str, *options: str) -> str:
    """The options of all levers of a run."""
    return "\n".join(option for lever in _levers(planned(name, *options)) for option in lever.options)


@pytest.fixture
def without_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """No step is simulated: what is tested does not depend on activations."""
    monkeypatch.setattr(MemoryPlanner, "_simulated", lambda self, run, shape: {})


@pytest.mark.usefixtures("without_steps")
def test_adapters_of_a_run_are_never_replaced() -> None:
    """fails when LoRA is offered to a run that has adapters, or a language model that only carries them keeps 16 bit"""
    found = proposed("tiny_instruct_lora.yaml")
    assert "model.adapters" not in found and "model.trainable" not in found
    assert "load_in_8bit=true" in found and "load_in_4bit=true" in found and "adamw_8bit" in found
    found = proposed("tiny_instruct_lora.yaml", FULL, "model.adapters=[{targets: ['encoders.vision*attn*'], rank: 2}]")
    assert "model.adapters" not in found and "bit=true" not in found
    found = proposed("tiny_instruct.yaml", FULL)
    assert "model.adapters" in found and "load_in_8bit" not in found
    found = proposed("tiny_instruct.yaml")
    assert "model.adapters" not in found and "load_in_8bit=true" in found and "adamw_8bit" not in found


@pytest.mark.usefixtures("without_steps")
def test_micro_batches_shrink_by_what_makes_them() -> None:
    """fails when a factor does not divide every micro-batch, or run.micro_batch changes though no source has it"""
    own = [f"data.sources.{name}.batch={48 - 16 * (at % 2)}" for at, name in enumerate(SOURCES)]
    plan = planned("tiny_instruct.yaml", "data.mix=step", "run.micro_batch=9", *own)
    assert plan.data.own_batches == {name: 48 - 16 * (at % 2) for at, name in enumerate(SOURCES)}
    assert _divisors(plan) == [1, 2, 4, 8, 16] and _smaller(plan, 4) == ("run.accumulate=4",)
    assert "= micro-batches of 32 to 48; run.micro_batch (9) changes no training step" in memory(plan)
    plan = planned("tiny_instruct.yaml", "data.mix=step", "run.micro_batch=24", *own[1:])
    assert _divisors(plan) == [1, 2, 4, 8] and _smaller(plan, 2) == ("run.micro_batch=12", "run.accumulate=2")
    assert "run.micro_batch (24) is for the other sources" in memory(plan)
    plan = planned("tiny_instruct.yaml", "run.micro_batch=6", "run.accumulate=2")
    assert _divisors(plan) == [1, 2, 3, 6] and "data.sources.*.batch" not in memory(plan)


def changes(budget: int, ranks: int, *options: str) -> list[tuple[str, ...]]:
    """What is proposed for the tiny instruction run with these options, each checked to be valid and to fit."""
    planner = planner_for("a100", f"{budget}b", ranks)
    plan = planner.plan(options)
    assert plan.fits is False
    found = changes_that_fit(planner, plan, options)
    for one in found:
        again = planner.plan([*options, *one.options])
        assert again.memory is not None and 0 < again.memory.total == one.total <= budget
        assert ranks_note(again.settings) is None or ranks > 1
    return [one.options for one in found]


@pytest.mark.usefixtures("without_steps")
def test_a_sharded_run_is_offloaded_before_it_trains_less() -> None:
    """fails when the CPU's memory is not proposed, LoRA comes before it, both LoRAs are proposed though one fits, or a
    setting that sharding refuses is"""
    options = (FULL, "run.parallel=shard")
    large = planner_for("a100", None, 4).plan(options)
    assert large.memory is not None
    found = changes(large.memory.total - 1, 4, *options)
    assert found[0] == ("run.sharding.offload=cpu",) and len(found) == 2
    assert "model.adapters" in found[1][0] and not any("bit" in option for one in found for option in one)
    assert large.planner.offloaded(large.settings, 4) == 0


def test_results_are_the_same_only_where_no_lever_changes_them() -> None:
    """fails when a change that rounds weights says `the same results`, from a lever beside it"""
    same = ["the same results; a second forward pass", "the same results, slower: weights travel"]
    assert _together(same) == ["the same results", "a second forward pass", "slower: weights travel"]
    assert _together([*same, "weights are rounded"]) == [*_together(same)[1:], "weights are rounded"]
    assert _together([]) == []


@pytest.mark.usefixtures("without_steps")
def test_one_rank_is_not_told_to_shard() -> None:
    """fails when a change for one rank keeps run.parallel: shard, with which it does not start"""
    options = (FULL, "run.parallel=shard", "run.sharding.reduce=step")
    plan = planner_for("a100").plan(options)
    assert plan.memory is not None and "does not start on 1 rank" in after_verdict(plan)
    for one in changes(plan.memory.total - 1, 1, *options):
        assert one[:2] == ("run.parallel=replicate", "run.sharding.reduce=micro")


@pytest.mark.usefixtures("without_steps")
def test_more_ranks_are_proposed_where_they_help() -> None:
    """fails when the ranks of a sharded run are not among what makes it fit, or those of a replicated one are"""
    options = (FULL, "run.parallel=shard", "run.accumulate=2", "run.micro_batch=2")
    eight = planner_for("a100", None, 8).plan(options)
    assert eight.memory is not None
    budget = f"{eight.memory.total}b"
    two = planner_for("a100", budget, 2).plan(options)
    assert two.fits is False and ranks_that_fit(two) == (8, eight.memory.total)
    assert "--ranks 8" in ranks_text(two) and "32 conversations in place of 8" in ranks_text(two)
    whole = planner_for("a100", budget, 2).plan((FULL,))
    assert whole.fits is False and ranks_text(whole) == ""


def test_bits_that_sharding_refuses_are_refused_without_weights() -> None:
    """fails when a plan accepts a setting that the run, with its weights there, does not"""
    for option in ("model.language.load_in_8bit=true", "model.language.load_in_4bit=true"):
        with pytest.raises(ConfigError, match=option.partition("=")[0]):
            planned("tiny_instruct.yaml", FULL, option)
    with pytest.raises(ConfigError, match="load_in_8bit"):
        planned("tiny_instruct.yaml", "run.parallel=shard", "model.language.load_in_8bit=true")


@pytest.mark.usefixtures("without_steps")
def test_one_source_has_its_figures_in_its_row() -> None:
    """fails when the figures of the only source are those of `all sources`, or those of several have no tokens"""
    one = planned("chatbind_tiny_stage1.yaml")
    assert [kind.name for kind in one.kinds] == list(one.data.mixture.sources) and "\n  all " not in data(one)
    several = data(planned("tiny_instruct.yaml"))
    rows = [line.split() for line in several.splitlines() if line.startswith("  tiny_")]
    assert len(rows) == len(SOURCES) and all(row[-3].rstrip("*").isdigit() for row in rows) and "of draws" in several


@pytest.mark.slow
@pytest.mark.parametrize("batches", [(32,), (32, 48)])
def test_own_batches_are_divided_by_accumulate(batches: tuple[int, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """fails when run.micro_batch is proposed though nothing depends on it, or the plan does not say so"""
    own = [f"data.sources.{name}.batch={batches[at % len(batches)]}" for at, name in enumerate(SOURCES)]
    arguments = ["train_configs/tiny_instruct.yaml", "--gpu-memory", "850MiB", "--json", "plan.json", "--options"]
    options = ["data.mix=step", "run.micro_batch=8", *own]
    assert command.main([*arguments, *options]) == command.DOES_NOT_FIT
    text = capsys.readouterr().out
    assert "accumulate 1 x ranks 1) = micro-batches of 32" in text and "(8) changes no training step" in text
    changes = json.loads(Path("plan.json").read_text())["changes_that_fit"]
    assert changes and all("run.micro_batch" not in option for one in changes for option in one)
    assert any("run.accumulate" in option for one in changes for option in one)
    assert command.main([*arguments, *options, *changes[0]]) == 0
    assert text.index("DOES NOT FIT") < text.index("changes that fit") < text.index("missing before a run")


@pytest.mark.usefixtures("without_steps")
def test_no_cell_of_the_sources_is_empty(capsys: pytest.CaptureFixture[str]) -> None:
    """fails when a figure is left out without a word, or a part of the memory has no owner"""
    assert command.main(["train_configs/tiny_instruct.yaml", "--gpu", "a100"]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith("source "))
    rows = [line.split() for line in lines[start : start + 11]]
    assert {len(row) for row in rows[1:]} == {9} and any("together" in line for line in lines)
    assert not any(line.split()[:1] == ["activations"] for line in lines)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_long_plan_says_what_it_does(is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """fails when a terminal shows nothing, keeps the line, or a file gets it"""
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: is_terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(waiting, "PATIENCE_S", 0.01)
    with waiting.told("planning x.yaml"):
        deadline = time.monotonic() + 5
        while is_terminal and "planning" not in stream.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
    text = stream.getvalue()
    assert ("planning x.yaml: 0 s" in text and text.endswith("\033[K")) if is_terminal else text == ""
