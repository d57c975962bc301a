"""docs/running.md and docs/configuration.md: the error message is that of the program, and the keys exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from chatbridge.cli import train
from chatbridge.common.errors import ConfigError
from chatbridge.models.config import ModelConfig
from chatbridge.runners.config import RunConfig
from chatbridge.tasks.base import ReportSettings
from tests.helpers.placeholder_world import write_placeholder_world

DOCS = Path(__file__).parents[2] / "docs"
KEYS = {  # head of a table -> the Config whose keys its first column names
    "key of `model`": ("configuration.md", ModelConfig),
    "key of `run`": ("configuration.md", RunConfig),
    "key of `evaluation.tasks.<task>.report`": ("running.md", ReportSettings),
}
MISTAKES = """base: [train_configs/tiny_pretrain.yaml]
model:
  encoders:
    vision: {name: eva_vitt}
data:
  sources:
    image_qa: {name: questions, tag: ti-qa, annotations: data/ti_question.json, image_folder: data}
run:
  max_stepz: 3
"""


def test_the_example_of_an_error_is_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """fails when the report of three mistakes differs from the one on the page"""
    write_placeholder_world(tmp_path)
    (tmp_path / "data/ti_questions.json").write_text("[]")
    (tmp_path / "my_run.yaml").write_text(MISTAKES)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        train.main(["--cfg-path", "my_run.yaml", "--check"])
    page = (DOCS / "running.md").read_text(encoding="utf-8")
    (shown,) = [block for block in page.split("```") if "problems in the config" in block]
    shown = shown.removeprefix("text\n")
    assert str(caught.value).startswith(shown.removeprefix("chatbridge: ").split(", ...")[0]), str(caught.value)


@pytest.mark.parametrize("head", KEYS)
def test_the_keys_of_the_tables_exist(head: str):
    """fails when a table explains a key that was renamed, or leaves out a key of the model or of a report"""
    page, config = KEYS[head]
    table = (DOCS / page).read_text(encoding="utf-8").split(f"| {head} |")[1].split("\n\n")[0]
    named = {key for line in table.splitlines()[2:] for key in re.findall(r"`(\w+)`", line.split("|")[1])}
    assert named <= set(config.__dataclass_fields__)
    assert config is RunConfig or named == set(config.__dataclass_fields__)
