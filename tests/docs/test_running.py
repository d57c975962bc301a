"""docs/running.md: the error messages on the page are those of the program."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatbridge.cli import train
from chatbridge.common.errors import ConfigError
from tests.helpers.standin_world import write_standin_world

PAGE = Path(__file__).parents[2] / "docs/running.md"
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
    write_standin_world(tmp_path)
    (tmp_path / "data/ti_questions.json").write_text("[]")
    (tmp_path / "my_run.yaml").write_text(MISTAKES)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        train.main(["--cfg-path", "my_run.yaml", "--check"])
    (shown,) = [block for block in PAGE.read_text(encoding="utf-8").split("```") if "problems in the config" in block]
    shown = shown.removeprefix("text\n")
    assert str(caught.value).startswith(shown.removeprefix("chatbridge: ").split(", ...")[0]), str(caught.value)
