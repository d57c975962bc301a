"""`${oc.env:...}`: a run uses the value, and nothing that it writes or prints holds it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from chatbridge import __main__ as commands
from chatbridge.cli import train
from chatbridge.common import environment
from chatbridge.common.environment import Reference, changed, digests, hidden, with_references
from chatbridge.common.errors import ConfigError
from chatbridge.config.merge import load, save_resolved
from chatbridge.models.checkpoint_manifest import read_manifest
from chatbridge.models.checkpoints import find_checkpoint
from tests.helpers.mini_world import MiniWorld, write_yaml


@pytest.fixture(autouse=True)
def own_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_known", {})
    monkeypatch.setenv("CB_WORD", "swordfish-7")
    monkeypatch.setenv("CB_NUMBER", "3")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> MiniWorld:
    return MiniWorld(tmp_path_factory.mktemp("world"))


FILE = """
plain: swordfish
key: s3://bucket/${oc.env:CB_WORD}/x
again: ${key}
steps: ${oc.decode:${oc.env:CB_NUMBER}}
fallback: ${oc.env:CB_ABSENT, other}
items: [a, "${oc.env:CB_WORD}"]
inner: {deep: "${again}"}
text: \\${oc.env:CB_WORD}
"""


def test_references_follow_every_way_to_the_environment(tmp_path: Path):
    """fails when a value reaches a file through another key, a list, a default or a conversion"""
    path = tmp_path / "a.yaml"
    path.write_text(FILE)
    values, origins = load(path)
    assert values["key"] == "s3://bucket/swordfish-7/x" and values["steps"] == 3 and values["fallback"] == "other"
    settings = with_references(values, origins.references)
    assert settings == {
        "plain": "swordfish",
        "key": "s3://bucket/${oc.env:CB_WORD}/x",
        "again": "s3://bucket/${oc.env:CB_WORD}/x",
        "steps": "${oc.decode:${oc.env:CB_NUMBER}}",
        "fallback": "${oc.env:CB_ABSENT, other}",
        "items": ["a", "${oc.env:CB_WORD}"],
        "inner": {"deep": "s3://bucket/${oc.env:CB_WORD}/x"},
        "text": "${oc.env:CB_WORD}",
    }
    assert not isinstance(settings["text"], Reference)
    save_resolved(settings, tmp_path / "b.yaml")
    assert "swordfish-7" not in (tmp_path / "b.yaml").read_text()
    assert load(tmp_path / "b.yaml")[0] == values


def test_a_value_that_changed_is_noticed(monkeypatch: pytest.MonkeyPatch):
    """fails when a resume cannot tell another value behind the same reference, or the digest gives it away"""
    references = {"a": "${oc.env:CB_WORD}", "b": "${oc.env:CB_NUMBER}"}
    then = digests(with_references({"a": "swordfish-7", "b": 3, "c": 1}, references))
    assert "swordfish" not in json.dumps(then) and all(len(one["digest"]) == 8 for one in then.values())
    assert changed(then, with_references({"a": "swordfish-7", "b": 3}, references)) == []
    assert changed(then, with_references({"a": "swordfish-7", "b": 4}, references)) == [("b", "${oc.env:CB_NUMBER}")]


def test_messages_show_references(tmp_path: Path):
    """fails when an error repeats a value of the environment, however short it is"""
    environment.note_variables("${oc.env:CB_WORD}")
    assert hidden("no file /data/swordfish-7/x") == "no file /data/${oc.env:CB_WORD}/x"
    path = tmp_path / "a.yaml"
    path.write_text("run: {device: '${oc.env:CB_NUMBER}', precision: '${oc.env:CB_WORD}'}\nmodel: {}\nevaluation: {}\n")
    with pytest.raises(ConfigError) as caught:
        commands.main(["evaluate", "--cfg-path", str(path), "--check"])
    said = str(caught.value)
    assert "swordfish" not in said and "'3'" not in said
    assert "${oc.env:CB_NUMBER}" in said and "${oc.env:CB_WORD}" in said


def test_a_short_value_is_hidden_as_a_word(monkeypatch: pytest.MonkeyPatch):
    """fails when a message is garbled because a word of it holds a short value"""
    monkeypatch.setenv("CB_SHORT", "here")
    environment.note_variables("${oc.env:CB_SHORT}")
    said = hidden("there is no file at data/here/x: here, where")
    assert said == "there is no file at data/${oc.env:CB_SHORT}/x: ${oc.env:CB_SHORT}, where"


def _everything(folder: Path) -> str:
    return "\n".join(
        path.read_bytes().decode("utf-8", "replace") for path in sorted(folder.rglob("*")) if path.is_file()
    )


def test_no_file_of_a_run_holds_a_value(world: MiniWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """fails when resolved.yaml, manifest, logs, failures, the plan or data commands hold a value of the environment, a
    resume takes an unchanged value for another, or a changed one for the same"""
    link = tmp_path / "swordfish-7"
    link.symlink_to(world.folder)
    monkeypatch.setenv("CB_WORLD", str(link))
    config = world.experiment(
        tmp_path / "run", max_steps=3, save_every=1, stop_at=1, seed="${oc.decode:${oc.env:CB_NUMBER}}"
    )
    text = yaml.safe_dump(config, sort_keys=False).replace(str(world.folder), "${oc.env:CB_WORLD}")
    path = tmp_path / "train.yaml"
    path.write_text(text)
    capsys.readouterr()
    assert train.main(["--cfg-path", str(path), "--check"]) == 0
    assert train.main(["--cfg-path", str(path)]) == 0
    commands.main(["data", "check", str(path), "--workers", "1", "--sample", "2"])
    assert "swordfish" not in "".join(capsys.readouterr()) + _everything(tmp_path / "run")
    resolved: dict[str, Any] = yaml.safe_load((tmp_path / "run/resolved.yaml").read_text())
    assert resolved["run"]["seed"] == "${oc.decode:${oc.env:CB_NUMBER}}"
    assert resolved["model"]["language"]["weights"].startswith("${oc.env:CB_WORLD}/")
    manifest = read_manifest(find_checkpoint(tmp_path / "run"))
    assert manifest["model"]["language"]["weights"] == str(link / "lm"), "the reader gets the value"
    assert train.main(["--cfg-path", str(path), "--options", "run.stop_at=2"]) == 0
    monkeypatch.setenv("CB_NUMBER", "4")
    with pytest.raises(ConfigError, match=r"run.seed: the value of .*CB_NUMBER.* has changed"):
        train.main(["--cfg-path", str(path)])


def test_an_evaluation_keeps_references(world: MiniWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """fails when the resolved.yaml of an evaluation holds a value"""
    monkeypatch.setenv("CB_WORLD", str(world.folder))
    tasks = {"image_qa": world.tasks()["image_qa"]}
    content = {"model": world.model(), "evaluation": {"tasks": tasks}, "run": {"output_dir": str(tmp_path / "eval")}}
    path = write_yaml(tmp_path / "eval.yaml", content)
    path.write_text(path.read_text().replace(str(world.folder), "${oc.env:CB_WORLD}"))
    assert commands.main(["evaluate", "--cfg-path", str(path)]) == 0
    assert str(world.folder) not in (tmp_path / "eval/resolved.yaml").read_text()
