"""docs/training.md, docs/watching.md and docs/clusters.md: every YAML is accepted; the table of keys is complete."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from chatbridge.common.errors import ConfigError
from chatbridge.experiment.open import open_config
from chatbridge.experiment.roots import Experiment
from chatbridge.models.adapters import AdapterConfig
from tests.helpers.placeholder_world import write_placeholder_world

DOCS = Path(__file__).parents[2] / "docs"
BASE = "train_configs/tiny_pretrain.yaml"
PAGES = {"training.md": 7, "watching.md": 6, "clusters.md": 1}  # page -> number of YAML blocks
PACKAGES = {"adapters:": "peft", "load_in_4bit": "bitsandbytes", "wandb:": "wandb", "mlflow:": "mlflow"}


def text(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[str]:
    return re.findall(r"^```yaml\n(.*?)^```", text(page), re.MULTILINE | re.DOTALL)


BLOCKS = [(page, number) for page, count in PAGES.items() for number in range(count)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_placeholder_world(tmp_path_factory.mktemp("training"))


def test_all_blocks_are_found():
    """fails when a page gains or loses a YAML block, so that one is not tried"""
    assert {page: len(blocks(page)) for page in PAGES} == PAGES


@pytest.mark.parametrize(("page", "number"), BLOCKS)
def test_every_yaml_is_accepted(world: Path, page: str, number: int, monkeypatch: pytest.MonkeyPatch):
    """fails when a key of the page does not exist, has another type, or contradicts the settings beside it"""
    block = blocks(page)[number]
    if missing := [name for mark, name in PACKAGES.items() if mark in block and find_spec(name) is None]:
        pytest.skip(f"{', '.join(missing)} is not installed")
    monkeypatch.chdir(world)
    path = world / f"{page}_{number}.yaml"
    given = yaml.safe_load(block)
    path.write_text(block if "base" in given else f"base: [{BASE}]\n{block}", encoding="utf-8")
    problems: tuple[object, ...] = ()
    try:
        open_config(Experiment, path)
    except ConfigError as error:
        problems = tuple(error.problems)
    left = [str(one) for one in problems if "chatbridge cache" not in str(one)]  # no cache was built here
    assert left == []


def test_the_adapter_table_is_complete():
    """fails when the table lacks a key of model.adapters, or explains one that is gone"""
    table = text("training.md").split("| key of `model.adapters` |")[1].split("\n\n")[0]
    named = {key for line in table.splitlines()[2:] for key in re.findall(r"`(\w+)`", line.split("|")[1])}
    assert named == set(AdapterConfig.__dataclass_fields__)
