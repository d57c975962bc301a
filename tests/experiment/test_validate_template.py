"""Tokens that a chat template writes and the model lacks, reported before anything is built."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chatbridge.config.schema import parse
from chatbridge.experiment.validate_template import token_problems
from chatbridge.models.config import ModelConfig
from tests.helpers.mini_world import write_language_model
from tests.helpers.tiny_models import LANGUAGE, model_mapping


def problems(added: tuple[str, ...] = (), template: str = "textbind", **language: Any) -> list[Any]:
    given = model_mapping(language={**LANGUAGE, "template": template, **language}, added_tokens=list(added))
    return list(token_problems((template, template), parse(ModelConfig, given)))


def test_tokens_of_the_template(tmp_path: Path) -> None:
    """fails when the tokens that textbind writes may be absent until the model is built, are asked for twice, or the
    names of the settings do not count"""
    (problem,) = problems()
    assert problem.path == "model.added_tokens" and "lacks <image>, <start>, <end>" in problem.message
    (problem,) = problems(("<image>", "<Start>", "<end>"))
    assert "lacks <start>," in problem.message and problem.nearest == "<Start>"
    assert '["<image>", "<Start>", "<end>", "<start>"]' in str(problem.hint)
    assert problems(("<image>", "<start>", "<end>")) == problems(template="vicuna_v0") == []
    (problem,) = problems(("<image>", "<start>", "<end>"), template_settings={"start": "<draw>"})
    assert "lacks <draw>," in problem.message


@pytest.mark.parametrize("file", ["tokenizer.json", "added_tokens.json"])
def test_a_tokenizer_that_has_the_tokens(file: str, tmp_path: Path) -> None:
    """fails when a released folder whose tokenizer has the three tokens needs them in the YAML too"""
    write_language_model(tmp_path)
    assert len(problems(weights=str(tmp_path), architecture={})) == 1
    (tmp_path / file).write_text(json.dumps({"<image>": 50, "<start>": 51, "<end>": 52}))
    assert problems(weights=str(tmp_path), architecture={}) == []
