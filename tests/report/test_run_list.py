"""`chatbridge runs`: any run folders in one table, with the reason where something cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

from chatbridge.cli import runs as command
from chatbridge.common.errors import DataError
from chatbridge.report.run_differences import differences_text, setting_differences
from chatbridge.report.run_list import list_runs
from chatbridge.report.run_list_page import MOST_POINTS, runs_page


def run_folder(folder: Path, losses: tuple[float, ...] = (3.0, 2.0), state: str = "finished", **run: Any) -> Path:
    """A run folder with a line per loss."""
    folder.mkdir(parents=True)
    settings = {"model": {"trainable": ["bridges.*"]}, "run": {"output_dir": str(folder), "max_steps": 2, **run}}
    (folder / "resolved.yaml").write_text(yaml.safe_dump(settings))
    lines = [
        {"step": step, "loss": loss, "lr": 1e-4, "tokens": 10, "tokens_per_s": 5.0, "samples": 4, "seconds": 3600.0}
        for step, loss in enumerate(losses, start=1)
    ]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    scores = [{"step": step, "validation/loss": loss + 1} for step, loss in enumerate(losses, start=1)]
    (folder / "scores.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in scores))
    code = {"version": "0.1.0", "commit": "abcdef0123456789", "is_dirty": True}
    (folder / "run_card.json").write_text(json.dumps({"state": state, "code": code}))
    return folder


def table(*folders: Path) -> dict[str, dict[str, str]]:
    """run -> its cells"""
    return {run.name: run.cells() for run in list_runs(folders)}


def test_the_table_has_what_the_runs_wrote(tmp_path):
    """fails when a cell is of another run, or not what its files say"""
    run_folder(tmp_path / "a", (3.0, 2.0, 2.5), max_steps=9)
    run_folder(tmp_path / "deep/er/b", state="stopped")
    cells = table(tmp_path)
    assert cells["a"] == {
        "run": "a", "state": "finished", "steps": "3/9", "loss": "2.5000", "best": "3.0000 validation/loss @2",
        "samples/s": "2.0", "hours": "3.00", "revision": "abcdef0123+",
    }  # fmt: skip
    assert (cells["b"]["state"], cells["b"]["steps"]) == ("stopped", "2/2")


def test_running_and_killed_runs_are_told_apart(tmp_path):
    """fails when a run that was killed looks as if it were running, or the look ends the run"""
    running, killed = (run_folder(tmp_path / name, state="running") for name in ("running", "killed"))
    for folder in (running, killed):
        (folder / ".lock").touch()
    with FileLock(running / ".lock"):
        cells = table(tmp_path)
    assert cells["running"]["state"] == "running" and cells["killed"]["state"] == "killed"


def test_a_run_of_an_earlier_version_is_listed(tmp_path):
    """fails when a folder without card, scores and new figures is not a run"""
    folder = run_folder(tmp_path / "old")
    for name in ("run_card.json", "scores.jsonl"):
        (folder / name).unlink()
    (folder / "metrics.jsonl").write_text('{"step": 2, "loss": 1.0, "tokens_per_s": 7}\n')
    assert table(folder)["old"] == {
        "run": "old", "state": "finished", "steps": "2/2", "loss": "1.0000", "best": "", "samples/s": "",
        "hours": "0.00", "revision": "",
    }  # fmt: skip


DAMAGE = {
    "resolved.yaml": ["", "[", "- 1", "a: !!python/object:os.system x", "\x00", "run: 3",
                      "run: {max_steps: many, best: 3}"],
    "metrics.jsonl": ["", "{", "[1]", '{"step": "x", "loss": 1}', '{"step": 1, "loss": "x"}', "\x00\xff", "null\n" * 3,
                      '{"step": 1e999, "loss": NaN, "tokens": {}}', '{"step": 1, "loss": 1, "per_source": 3}'],
    "scores.jsonl": ["", "{", '{"step": 1, "validation/loss": "x"}', '{"validation/loss": 1}', "[]"],
    "run_card.json": ["", "{", "[]", '{"state": 3, "code": 4}', '{"code": {"commit": {}}}'],
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_folder_is_listed_with_the_reason(tmp_path, name, capsys):
    """fails when one damaged file hides a run, the other runs, or ends in a traceback"""
    run_folder(tmp_path / "intact")
    for number, content in enumerate(DAMAGE[name]):
        (run_folder(tmp_path / f"bad{number}") / name).write_text(content, encoding="latin-1")
    folder = run_folder(tmp_path / "folder")
    (folder / name).unlink()
    (folder / name).mkdir()
    assert command.main([str(tmp_path), "--diff", "--html", str(tmp_path / "page.html")]) == 0
    found = list_runs([tmp_path])
    assert len(found) == len(DAMAGE[name]) + 2
    by_name = {run.name: run for run in found}
    assert not by_name["intact"].problems and by_name["folder"].problems
    told = [run.name for run in found if run.problems]
    assert len(told) >= 2, told
    out = capsys.readouterr().out
    assert all(f"{run}: " in out for run in told)


def test_settings_that_differ(tmp_path, capsys):
    """fails when an equal setting is listed, a different one is not, or one that only one run has"""
    run_folder(tmp_path / "a", seed=1, optimizer={"lr": 0.1, "eps": 1})
    run_folder(tmp_path / "b", seed=1, optimizer={"lr": 0.2, "eps": 1}, clip_norm=None)
    differing = setting_differences(list_runs([tmp_path]))
    assert sorted(differing) == ["run.clip_norm", "run.optimizer.lr"]
    assert set(differing["run.optimizer.lr"]) == {"0.1", "0.2"}
    assert command.main([str(tmp_path / "a"), "--diff"]) == 0
    assert "one run: nothing to compare" in capsys.readouterr().out


def test_an_evaluation_is_no_run(tmp_path, capsys):
    """fails when an evaluation is a row or part of the differences, or a run before its first step is not"""
    run_folder(tmp_path / "a")
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval/resolved.yaml").write_text("evaluation: {num_workers: 0}\nrun: {output_dir: eval}\n")
    (tmp_path / "young").mkdir()
    (tmp_path / "young/resolved.yaml").write_text("data: {}\nevaluation: {every: 5}\nrun: {max_steps: 3}\n")
    assert sorted(table(tmp_path)) == ["a", "young"]
    assert command.main([str(tmp_path / "a"), str(tmp_path / "eval"), "--diff"]) == 0
    out = capsys.readouterr().out
    assert f"1 skipped, which is an evaluation: {tmp_path / 'eval'}" in out and "nothing to compare" in out
    with pytest.raises(DataError, match="results of evaluations, no training run"):
        list_runs([tmp_path / "eval"])


def test_differences_are_readable(tmp_path):
    """fails when a source of some runs has a line per key, or many runs make lines wider than a terminal"""
    for name in "abcd":
        folder = run_folder(tmp_path / name, seed=1 if name == "d" else 2, note=f"{name}/" * 30)
        settings = yaml.safe_load((folder / "resolved.yaml").read_text())
        sources = {"both": {"weight": 1}} | ({"extra": {"weight": 2, "file": "x"}} if name in "ab" else {})
        (folder / "resolved.yaml").write_text(yaml.safe_dump({**settings, "data": {"sources": sources}}))
    lines = differences_text(list_runs([tmp_path])).splitlines()
    assert "data.sources.extra: only in a, b" in lines and not any("weight" in line for line in lines)
    assert lines[lines.index("run.seed") + 1 :][:2] == ["    2: a, b, c", "    1: d"]
    assert max(map(len, lines)) <= 120


def test_the_page_has_the_curves_of_all_runs(tmp_path):
    """fails when a curve or a score is missing, a long run makes a huge page, or a name is taken for HTML"""
    run_folder(tmp_path / "long", tuple(1 + 1 / n for n in range(1, 4 * MOST_POINTS)))
    run_folder(tmp_path / "<b>short", seed=2)
    page = runs_page(list_runs([tmp_path]))
    assert page.count('<figure class="chart"') == 3  # loss, learning rate, validation/loss
    assert "<b>short" not in page and "&lt;b&gt;short" in page and "Settings that differ" in page
    assert len(page) < 400_000


def test_folders_without_runs_are_told(tmp_path):
    """fails when a misspelled folder gives an empty table"""
    run_folder(tmp_path / "runs/a")
    with pytest.raises(DataError, match="did you mean .*runs"):
        list_runs([tmp_path / "rums"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is a file; name a run folder"):
        list_runs([Path(__file__)])
    with pytest.raises(DataError, match="there is no run in"):
        list_runs([tmp_path / "empty"])


def test_a_run_without_settings_makes_no_differences(tmp_path):
    """fails when one unreadable resolved.yaml lists every setting of the others as different"""
    run_folder(tmp_path / "a", seed=1)
    run_folder(tmp_path / "b", seed=2)
    (run_folder(tmp_path / "c") / "resolved.yaml").write_text("a: [")
    runs = list_runs([tmp_path])
    found = setting_differences(runs)
    assert list(found) == ["run.seed"]
    assert dict(zip((run.name for run in runs), found["run.seed"], strict=True)) == {"a": "1", "b": "2", "c": "?"}
