"""The run card: complete after an end, a stop, an error and a kill, and the same for the same run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chatbridge.common.dist import Dist
from chatbridge.common.revision import revision, revision_text
from chatbridge.datasets.order.mixture import Mixture
from chatbridge.runners.run_card import RunCard, data_order, read_card
from chatbridge.runners.run_card_text import memory_text, time_text
from chatbridge.runners.run_figures import run_figures
from chatbridge.runners.run_folder import open_run_folder
from chatbridge.runners.watchers import Watchers
from tests.helpers.tiny_run import resumed, tiny_runner

SETTINGS = {"run": {"seed": 42, "output_dir": "runs/x"}}


def mixture(size: int = 50, **given: Any) -> Mixture:
    return Mixture({"a": range(size), "b": range(9)}, {"a": 1.0, "b": 1.0}, given.pop("seed", 3), 8, **given)


def trained(folder: Path, is_resumed: bool = False, **run: Any) -> dict[str, Any]:
    """The card after a run of 8 steps."""
    runner = tiny_runner(folder, **run)
    if is_resumed:
        runner = resumed(runner)
    card = RunCard(runner.config, SETTINGS, mixture(), Dist())
    runner.watchers = Watchers([card])
    with card.kept(runner.progress, runner.state.step):
        runner.train()
    return read_card(folder)


def test_the_card_of_a_finished_run(tmp_path):
    """fails when the card lacks a part, or its figures are not those of the run"""
    card = trained(tmp_path / "mine")
    lines = [json.loads(line) for line in (tmp_path / "mine/metrics.jsonl").read_text().splitlines()]
    assert card["state"] == "finished" and card["settings"] == SETTINGS and card["name"] == "mine"
    assert card["first_losses"]["losses"] == [line["loss"] for line in lines] and len(lines) == 8
    figures = card["figures"]
    assert (figures["step"], figures["loss"]) == (8, lines[-1]["loss"])
    assert figures["samples"] == 8 * 8 and figures["tokens"] == 8 * 8 * 6 and figures["padding_share"] == 0
    assert figures["samples_per_s"] == pytest.approx(
        64 / sum(line["samples"] / line["samples_per_s"] for line in lines)
    )
    assert figures["memory_bytes"] == max(line["memory_bytes"] for line in lines)
    assert card["environment"]["torch"] and card["environment"]["ranks"] == 1
    text = (tmp_path / "mine/run_card.md").read_text()
    assert text.startswith("# mine\n\nfinished; ChatBridge ") and "| steps | 8 |" in text
    assert card["data"]["sha256"] in text and str(tmp_path) not in text + json.dumps(card)


def test_a_stop_and_a_resume_give_the_same_card(tmp_path):
    """fails when a resumed run forgets its first losses, or counts only its own steps"""
    through = trained(tmp_path / "run")
    stopped = trained(tmp_path / "b/run", stop_at=3)
    assert stopped["state"] == "stopped" and len(stopped["first_losses"]["losses"]) == 3
    open_run_folder(tmp_path / "b/run", {}, 3)
    again = trained(tmp_path / "b/run", is_resumed=True)
    for part in ("state", "first_losses", "data", "name"):
        assert again[part] == through[part], part
    for figure in ("step", "loss", "samples", "tokens", "supervised", "padding_share"):
        assert again["figures"][figure] == through["figures"][figure], figure


def test_an_error_and_a_kill_leave_a_card(tmp_path):
    """fails when only runs that end well have a card, or the error of the run is hidden"""
    runner = tiny_runner(tmp_path)
    card = RunCard(runner.config, SETTINGS, None, Dist())

    def failing_run() -> None:
        with card.kept(runner.progress, 0):
            assert read_card(tmp_path)["state"] == "running"  # what a kill leaves
            raise KeyError

    with pytest.raises(KeyError):
        failing_run()
    assert read_card(tmp_path)["state"] == "failed" and read_card(tmp_path)["figures"] == {}
    (tmp_path / "run_card.json").write_text("{")
    assert read_card(tmp_path) == {}


def test_the_hash_of_the_data_order_tells_runs_apart():
    """fails when another seed, size, mix or number of steps has the same hash, or the same run another one"""
    found = [
        data_order(one, steps)["sha256"]
        for one, steps in (
            (mixture(), 100), (mixture(seed=4), 100), (mixture(51), 100), (mixture(mix="step"), 100), (mixture(), 99),
            (mixture(held_out={"a": 5}), 100),
        )
    ]  # fmt: skip
    assert len(set(found)) == 6 and data_order(mixture(), 100)["sha256"] == found[0]
    assert data_order(mixture(held_out={"a": 5}), 3)["held_out"] == {"a": 5}


def test_units_of_the_page():
    """fails when a short run has 0.00 hours, or memory is a row of digits"""
    assert [time_text(hours) for hours in (0.0, 0.025, 59.5 / 60, 1.5)] == [
        "0:00 (m:ss)", "1:30 (m:ss)", "59:30 (m:ss)", "1.50 hours"
    ]  # fmt: skip
    assert [memory_text(size) for size in (7e6, 1_234_567_890)] == ["7 MB", "1.23 GB"]


def test_figures_of_torn_and_older_lines(tmp_path):
    """fails when a line that a crash tore, or one of an earlier version, ends in an error or a wrong figure"""
    older = {"step": 1, "loss": 2.0, "tokens": 100, "tokens_per_s": 50.0, "seconds": 3.0, "wait_share": 0.5}
    newer = {**older, "step": 2, "loss": 1.0, "samples": 10, "padding_share": 0.25, "mfu": 0.5, "memory_bytes": 7}
    text = "\n".join([json.dumps(older), '{"step": 2, "lo', json.dumps(newer), "null", "[]"])
    (tmp_path / "metrics.jsonl").write_text(text)
    figures = run_figures(tmp_path)
    assert (figures["step"], figures["loss"], figures["tokens"], figures["tokens_per_s"]) == (2, 1.0, 200, 50.0)
    assert (figures["padding_share"], figures["mfu"], figures["wait_share"]) == (0.25, 0.5, 0.5)
    assert run_figures(tmp_path / "nothing") == {}


def test_the_revision_is_that_of_the_code(repository):
    """fails when the version is not the package's, or the commit is that of another repository"""
    found = revision()
    assert found["version"] in revision_text(found)
    assert (found["commit"] is not None) == (repository / ".git").exists()
    assert revision_text({"version": "1", "commit": "a" * 40, "is_dirty": True}) == (
        "1, commit aaaaaaaaaaaa, with uncommitted changes"
    )
