"""A run folder of an earlier version: settings that it did not have are no differences, others are."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from chatbridge.cli import train
from chatbridge.common.errors import ConfigError
from chatbridge.config.added_settings import with_added_settings
from chatbridge.config.schema import parse, plain
from chatbridge.runners.run_folder import differences
from tests.helpers.mini_world import MiniWorld, write_yaml


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: int
    shade: str = "white"


@dataclass(frozen=True, kw_only=True)
class Root:
    needed: int
    parts: dict[str, Inner] = field(default_factory=dict)
    rows: tuple[Inner, ...] = ()


NOW = {
    "needed": 1, "parts": {"a": {"size": 1, "shade": "white"}, "b": {"size": 2, "shade": "black"}},
    "rows": [{"size": 3, "shade": "white"}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("then", "expected"),
    [
        (NOW, []),
        ({**NOW, "parts": {"a": {"size": 1}, "b": NOW["parts"]["b"]}, "rows": [{"size": 3}]}, []),
        ({**NOW, "parts": {**NOW["parts"], "b": {"size": 2}}}, ['parts.b.shade: "white" -> "black"']),
        ({**NOW, "gone": 5}, ["gone: 5 -> (not set)"]),
        ({"parts": NOW["parts"], "rows": NOW["rows"]}, ["needed: (not set) -> 1"]),
        (
            {**NOW, "parts": {"a": {"size": 1}}},
            ["parts.b.size: (not set) -> 2", 'parts.b.shade: (not set) -> "black"'],
        ),
        ({**NOW, "needed": 7, "gone": "${x}", "rows": [{"size": 3}]}, ["needed: 7 -> 1", 'gone: "${x}" -> (not set)']),
    ],
)
def test_only_what_differs_from_a_default_is_a_difference(then: dict[str, Any], expected: list[str]) -> None:
    """fails when a setting that the code gained refuses a resume, or a real difference passes with it"""
    now = plain(parse(Root, NOW))
    assert sorted(differences(with_added_settings(Root, then, now), now)) == sorted(expected)


def test_a_run_of_an_earlier_version_resumes(tmp_path: Path) -> None:
    """fails when a run folder that lacks settings of this version is refused, or one with other settings is not"""
    world = MiniWorld(tmp_path / "world")
    path = write_yaml(tmp_path / "t.yaml", world.experiment(tmp_path / "run", max_steps=2))
    assert train.main(["--cfg-path", str(path), "--options", "run.stop_at=1"]) == 0
    resolved = tmp_path / "run" / "resolved.yaml"
    settings = yaml.safe_load(resolved.read_text())
    del settings["data"]["media"], settings["run"]["clip_norm"], settings["run"]["optimizer"]["eps"]
    del settings["model"]["language"]["load_in_8bit"], settings["model"]["bridges"]["perceiver"]["dropout"]
    resolved.write_text(yaml.safe_dump(settings | {"gone": True}))
    with pytest.raises(ConfigError, match="other settings") as error:
        train.main(["--cfg-path", str(path), "--check"])
    assert "gone: true -> (not set)" in str(error.value) and str(error.value).count("->") == 2
    resolved.write_text(yaml.safe_dump(settings))
    with pytest.raises(ConfigError, match="run.clip_norm: 1.0 -> 2.0"):
        train.main(["--cfg-path", str(path), "--check", "--options", "run.clip_norm=2.0"])
    assert train.main(["--cfg-path", str(path)]) == 0
    assert (tmp_path / "run" / "checkpoints" / "step_000002").is_dir()
