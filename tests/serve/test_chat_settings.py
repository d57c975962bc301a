"""The configurations from which a chat engine is built."""

from __future__ import annotations

import pytest

from chatbridge.common.errors import ConfigError
from chatbridge.experiment.open import config_of, open_chat
from chatbridge.processors.limits import Limits
from chatbridge.serve.engine import ChatEngine


def test_limits_of_a_chat_are_settings(world):
    """fails when the limits of uploads cannot be set, are those of training, or are not validated"""
    limits = open_chat(world.config).config.evaluation.chat
    assert limits.max_pixels < Limits().max_pixels and limits.time_limit_s < Limits().time_limit_s
    options = ["evaluation.chat.max_pixels=1000", "evaluation.chat.time_limit_s=3"]
    limits = open_chat(world.config, options).config.evaluation.chat
    assert (limits.limits.max_pixels, limits.limits.time_limit_s) == (1000, 3.0)
    with pytest.raises(ConfigError, match=r"evaluation\.chat\.max_pixels"):
        open_chat(world.config, ["evaluation.chat.max_pixels=0"])


def test_a_run_folder_is_enough(world, tmp_path):
    """fails when a chat with a run folder or one of its checkpoints needs a YAML file"""
    run = tmp_path / "run"
    step = run / "checkpoints" / "step_000002"
    step.mkdir(parents=True)
    world.write("chat.yaml").rename(run / "resolved.yaml")
    (step / "manifest.json").write_text("{}")
    world.write("chat.yaml")
    assert config_of(run) == run / "resolved.yaml" == config_of(step)
    with pytest.raises(ConfigError, match=r"expected\s+format\s+'chatbridge-checkpoint-1'"):
        ChatEngine.from_checkpoint(run)
    with pytest.raises(ConfigError, match="has no description of its model"):
        ChatEngine.from_checkpoint(tmp_path)
    with pytest.raises(ConfigError, match=r"(?s)runs does not exist.*did you mean .*/run\?.*expected a run folder"):
        ChatEngine.from_checkpoint(tmp_path / "runs")


def test_a_chat_needs_no_data(world):
    """fails when a chat needs the evaluation or training data of its model"""
    config = world.write(
        "no_data.yaml", evaluation={"tasks": {"x": {"name": "nobody", "dataset": "???"}}}, data={"s": 1}
    )
    assert open_chat(config).config.evaluation_template == "vicuna_v0"
    assert open_chat(config, ["evaluation.template=caption"]).config.evaluation_template == "caption"


def test_mistakes_are_reported_together(world):
    """fails when a misspelled key or an option without effect is accepted, or only the first mistake is reported"""
    config = world.write("wrong.yaml", modle={})
    options = ["run.devise=cpu", "model.fusion.name=inlin", "evaluation.template=vicunna_v0", "run.device=gpu"]
    with pytest.raises(ConfigError) as caught:
        open_chat(config, options, checkpoint="no/such run")
    reported = {problem.path: problem for problem in caught.value.problems}
    assert set(reported) == {
        "modle", "run.devise", "model.fusion.name", "run.device", "run.init_from", "evaluation.template"
    }  # fmt: skip
    assert reported["modle"].nearest == "model" and reported["run.devise"].nearest == "run.device"
    with pytest.raises(ConfigError, match=r"no template named 'vicunna_v0'[\s\S]*did you mean vicuna_v0"):
        open_chat(world.config, ["evaluation.template=vicunna_v0"])
