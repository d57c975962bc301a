"""Settings per component are checked against the model before anything is built, all together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chatbridge.common.errors import Problem
from chatbridge.config.schema import parse
from chatbridge.experiment.validate_levers import lever_problems
from chatbridge.models.config import ModelConfig
from chatbridge.runners.config import RunConfig
from tests.helpers.tiny_models import model_mapping


def problems(run: dict[str, Any], **model: Any) -> list[Problem]:
    config = parse(ModelConfig, model_mapping(**{"trainable": ["bridges.*"], **model}))
    return list(lever_problems(config, parse(RunConfig, {"output_dir": "runs/x", "max_steps": 2, **run})))


def test_components_that_keep_activations_are_accepted() -> None:
    """Fails when a pattern that has an effect is refused: a frozen bridge after a trained encoder has one."""
    assert not problems({"activation_checkpointing": ["language", "bridges.*", "*"]})
    assert not problems({"activation_checkpointing": ["bridges.perceiver"]}, trainable=["encoders.vision.*"])
    assert not problems({"activation_checkpointing": ["encoders.*"]}, trainable=["encoders.audio.*"])


def test_patterns_without_effect_are_reported_together(tmp_path: Path) -> None:
    """Fails when a misspelled name, a pattern over tensors, or a frozen encoder passes silently."""
    found = problems({"activation_checkpointing": ["languge", "bridges.*", "encoders.*", "fusion", "language.lm.*"]})
    paths = [problem.path for problem in found]
    assert paths == [f"run.activation_checkpointing[{number}]" for number in (0, 3, 4, 2)]
    misspelled, fusion, tensors, frozen = found
    assert misspelled.nearest == "language" and "encoders.vision" in misspelled.allowed
    assert "matches no component with parameters" in fusion.message and "fusion" not in fusion.allowed
    assert tensors.nearest == "language" or "not of tensors" in str(tensors.hint)
    assert "no gradient passes through encoders.vision, encoders.audio" in frozen.message
    assert frozen.allowed == ("bridges.perceiver", "language")


@pytest.mark.parametrize("value", ["language", [1], {"language": True}])
def test_values_of_another_type_are_refused(value: Any) -> None:
    """Fails when a single string is read as a list of letters."""
    with pytest.raises(ValueError, match=r"activation_checkpointing"):
        problems({"activation_checkpointing": value})
