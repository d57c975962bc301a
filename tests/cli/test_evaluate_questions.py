"""`chatbridge data check`, `evaluate --check`, `evaluate` and `score` of the question sets with a whole model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chatbridge import __main__ as commands
from chatbridge.common.errors import ConfigError
from chatbridge.config.merge import load
from tests.helpers.mini_questions import POPE
from tests.helpers.mini_world import MiniWorld, write_yaml
from tests.helpers.question_sets import write_question_sets

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
SETS = ("vqav2", "okvqa", "aokvqa", "gqa", "vizwiz", "textvqa", "scienceqa", "pope")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The tasks of all sets with a tiny model, and absolute paths of their miniatures."""
    root = tmp_path_factory.mktemp("questions")
    data = write_question_sets(root)
    tasks: dict[str, Any] = {}
    for name in SETS:
        for key, node in load(ROOT / f"configs/tasks/{name}.yaml")[0]["evaluation"]["tasks"].items():
            dataset = {key: str(data / value) if str(value).startswith("data/") else value
                       for key, value in node["dataset"].items()}  # fmt: skip
            tasks[key] = {
                **node,
                "dataset": dataset,
                "max_new_tokens": 3,
                "num_beams": 2 if node.get("num_beams") else 1,
            }
    world = MiniWorld(root / "world")
    return {
        "model": world.model(),
        "evaluation": {"num_workers": 0, "tasks": tasks},
        "run": {"output_dir": str(root / "one")},
    }


def texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.glob("*.json*") if path.name != "receipt.json"}


def test_the_sets_from_check_to_scores(config: dict[str, Any], tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    """fails when a set cannot be checked or asked with a model, or scoring again gives other files"""
    path = write_yaml(tmp_path / "eval.yaml", config)
    assert commands.main(["data", "check", str(path), "--workers", "1"]) == 0, capsys.readouterr().out
    assert commands.main(["evaluate", "--cfg-path", str(path), "--check"]) == 0
    plan = capsys.readouterr().out
    assert all(name in plan for name in config["evaluation"]["tasks"])
    assert commands.main(["evaluate", "--cfg-path", str(path)]) == 0
    one = Path(config["run"]["output_dir"])
    found = json.loads((one / "metrics.json").read_text())
    assert found.keys() == config["evaluation"]["tasks"].keys()
    assert all(result["unreadable"] == 0 for result in found.values())
    lines = (one / "submission_pope_random.json").read_text().splitlines()
    assert [json.loads(line)["question"] for line in lines] == [record["text"] for record in POPE]
    before = texts(one)
    assert commands.main(["score", str(one)]) == 0
    assert texts(one) == before


def test_a_swapped_file_is_named_before_anything_is_asked(config: dict[str, Any], tmp_path: Path, capsys):
    """fails when the annotations of another set reach the model, or the message does not name the format that fits"""
    tasks = config["evaluation"]["tasks"]
    swapped = {
        **tasks["gqa"],
        "dataset": {**tasks["gqa"]["dataset"], "annotations": tasks["vizwiz_val"]["dataset"]["annotations"]},
    }
    path = write_yaml(tmp_path / "eval.yaml", {**config, "evaluation": {"tasks": {"gqa": swapped}}})
    assert commands.main(["data", "check", str(path)]) != 0
    assert "its records fit format: vizwiz" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"tasks\.gqa .*(?s:.*)its records fit format: vizwiz"):
        commands.main(["evaluate", "--cfg-path", str(path)])
