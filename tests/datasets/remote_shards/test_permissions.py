"""Shell commands and remote files of a configuration: none is run or opened without permission."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from chatbridge import __main__ as commands
from chatbridge.cli import demo, train
from chatbridge.common.errors import ConfigError, DataError
from chatbridge.datasets.remote_shards import open_stream as streams
from chatbridge.datasets.remote_shards import permissions
from chatbridge.datasets.remote_shards.permissions import VARIABLE, no_remote_access, refusal
from chatbridge.experiment.open import task_nodes
from chatbridge.report.examples import find_examples as report_examples
from chatbridge.report.run_folders import read_runs
from chatbridge.serve.demo.examples import find_examples
from tests.helpers.mini_world import MiniWorld, write_yaml
from tests.helpers.report_parts import write_runs
from tests.helpers.tiny_media import write_json


@pytest.fixture(autouse=True)
def not_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)  # also undoes what --allow-pipe sets


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> MiniWorld:
    return MiniWorld(tmp_path_factory.mktemp("world"))


def piped(world: MiniWorld, mark: Path) -> dict[str, Any]:
    command = f"pipe:touch {mark}; cat {world.folder / 'pairs.tar'}"
    cache = str(mark.parent / "cache")
    return {"name": "web_pairs", "shards": command, "modality": "image", "samples_per_shard": 4, "cache_folder": cache}


def training(world: MiniWorld, folder: Path, mark: Path) -> Path:
    config = world.experiment(folder / "run", max_steps=2)
    config["data"]["sources"] = {"foreign": piped(world, mark)}
    return write_yaml(folder / "train.yaml", config)


def test_check_lists_the_command_and_training_needs_permission(world: MiniWorld, tmp_path: Path, capsys):
    """fails when --check runs a pipe: command or does not list it, or a training runs it without --allow-pipe"""
    mark = tmp_path / "mark"
    path = training(world, tmp_path, mark)
    assert train.main(["--cfg-path", str(path), "--check"]) == 0
    printed = capsys.readouterr().out
    assert f"data.sources.foreign: touch {mark}; cat " in printed and "needs --allow-pipe" in printed
    with pytest.raises(
        ConfigError, match=rf"(?s)data.sources.foreign.*runs shell commands: touch {mark}.*--allow-pipe"
    ):
        train.main(["--cfg-path", str(path)])
    assert not mark.exists() and not (tmp_path / "run").exists()
    assert train.main(["--cfg-path", str(path), "--allow-pipe"]) == 0
    assert mark.exists() and os.environ[VARIABLE] == "1"


def test_the_environment_variable_gives_permission(world: MiniWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """fails when the variable is ignored, or a value such as 0 counts as permission"""
    monkeypatch.setenv(VARIABLE, "0")
    assert refusal("pipe:true") is not None
    monkeypatch.setenv(VARIABLE, "1")
    assert refusal("pipe:true") is None and refusal("https://host/x.tar") is None


@pytest.mark.parametrize("action", [["check"], ["show", "0"], ["stats"]])
def test_data_commands_need_permission(world: MiniWorld, tmp_path: Path, action: list[str], capsys):
    """fails when data check, show or stats run a pipe: command without --allow-pipe, or do not print it"""
    mark = tmp_path / "mark"
    path = training(world, tmp_path, mark)
    words = ["data", action[0], str(path), *action[1:]]
    try:
        commands.main(words)
        said = "".join(capsys.readouterr())
    except ConfigError as error:
        said = str(error) + "".join(capsys.readouterr())
    assert f"touch {mark}" in said and "--allow-pipe" in said
    assert not mark.exists()


def test_data_check_with_permission_reads(world: MiniWorld, tmp_path: Path, capsys):
    """fails when --allow-pipe does not reach the processes that read samples"""
    mark = tmp_path / "mark"
    commands.main(["data", "check", str(training(world, tmp_path, mark)), "--allow-pipe", "--workers", "1"])
    assert mark.exists()


@pytest.mark.parametrize("address", ["pipe", "http://127.0.0.1:9/x.tar", "memory://bucket/x.tar"])
def test_displaying_a_run_folder_opens_nothing_remote(
    world: MiniWorld, tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
):
    """fails when the demo or the report run a command or contact a server of a resolved.yaml"""
    monkeypatch.setenv(VARIABLE, "1")  # permission for a training does not count for displaying
    mark, asked = tmp_path / "mark", []
    monkeypatch.setattr(streams, "_http", lambda *given: asked.append(given))
    monkeypatch.setattr(streams, "_fsspec", lambda *given: asked.append(given))
    source = piped(world, mark) | ({} if address == "pipe" else {"shards": address})
    for given in (source, {key: value for key, value in source.items() if key != "samples_per_shard"}):
        node = {"name": "captioning", "dataset": given}
        path = write_yaml(tmp_path / "resolved.yaml", {"evaluation": {"tasks": {"foreign": node}}})
        assert find_examples(task_nodes(path), ("image",)) == []
    assert not mark.exists() and not asked


def test_the_report_runs_no_command(world: MiniWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """fails when `report --root` of a foreign folder executes a command of its resolved.yaml"""
    monkeypatch.setenv(VARIABLE, "1")
    mark, root = tmp_path / "mark", write_runs(tmp_path / "runs")
    resolved = root / "eval/resolved.yaml"
    content = yaml.safe_load(resolved.read_text())
    for node in content["evaluation"]["tasks"].values():
        node["dataset"] = piped(world, mark)
    resolved.write_text(yaml.safe_dump(content))
    assert report_examples(read_runs(root)) == {}
    assert not mark.exists()


def test_the_block_ends(monkeypatch: pytest.MonkeyPatch):
    """fails when a process that displayed a run can never read remote data again"""
    with no_remote_access(), no_remote_access():
        assert refusal("https://host/x.tar") is not None
    assert refusal("https://host/x.tar") is None and permissions._num_blocks == 0


@pytest.fixture
def foreign_run(world: MiniWorld, tmp_path: Path) -> Path:
    """A foreign run folder: trained for a step, then pipe: sources were put into its resolved.yaml."""
    run = tmp_path / "run"
    config = world.experiment(run, max_steps=2, save_every=2, device="cpu")
    config["model"]["trainable"] = ["bridges.*", "encoders.*"]  # nothing random stays frozen
    config["data"]["sources"] = {"talks": world.source("questions", "ti-qa")}
    assert train.main(["--cfg-path", str(write_yaml(tmp_path / "x.yaml", config))]) == 0
    resolved = yaml.safe_load((run / "resolved.yaml").read_text())
    resolved["data"]["sources"]["talks"] = piped(world, tmp_path / "mark")
    resolved["evaluation"] = {"tasks": {"cap": {"name": "captioning", "dataset": piped(world, tmp_path / "mark")}}}
    (run / "resolved.yaml").write_text(yaml.safe_dump(resolved))
    return run


def test_no_command_line_runs_the_commands_of_a_foreign_run(
    world: MiniWorld, foreign_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    """fails when any command on a foreign run folder executes a command of its resolved.yaml"""
    monkeypatch.setattr(demo, "build", lambda sides, examples, feedback: examples)
    monkeypatch.setattr(demo, "serve", lambda examples, *given: print(f"{len(examples)} examples"))
    questions = write_json(tmp_path / "q.jsonl", [{"id": "a", "messages": [{"role": "user", "content": "what ?"}]}])
    resolved, evaluation = (
        str(foreign_run / "resolved.yaml"),
        yaml.safe_load((foreign_run / "resolved.yaml").read_text()),
    )
    evaluation = {key: evaluation[key] for key in ("model", "evaluation")}
    evaluation["run"] = {"output_dir": str(tmp_path / "eval"), "init_from": str(foreign_run)}
    config = str(write_yaml(tmp_path / "eval.yaml", evaluation))
    generate = ["generate", str(foreign_run), "--records", str(questions), "--out", str(tmp_path / "a.jsonl")]
    assert demo.main(["--checkpoint", str(foreign_run), "--check"]) == 0
    assert demo.main(["--checkpoint", str(foreign_run)]) == 0
    assert "0 examples" in capsys.readouterr().out
    assert commands.main(["report", str(foreign_run)]) == 0
    assert commands.main([*generate, "--workers", "0", "--task", "max_new_tokens=2"]) == 0
    capsys.readouterr()
    looks = [["evaluate", "--cfg-path", config], ["evaluate", "--cfg-path", config, "--check"],
             ["data", "show", resolved, "0"], ["data", "check", resolved], ["data", "stats", resolved]]  # fmt: skip
    for words in looks:
        try:
            commands.main(words)
            said = ""
        except (ConfigError, DataError) as error:
            said = str(error)
        said += "".join(capsys.readouterr())
        assert "touch" in said and "--allow-pipe" in said, words
    with pytest.raises(ConfigError, match="--allow-pipe"):
        train.main(["--cfg-path", resolved, "--options", f"run.output_dir={tmp_path / 'again'}"])
    assert not (tmp_path / "mark").exists()
