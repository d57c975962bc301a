"""What `run.parallel: shard` cannot be combined with is reported before anything is built."""

from __future__ import annotations

from typing import Any

import pytest

from chatbridge.common.errors import ConfigError, Problem
from chatbridge.config.schema import parse
from chatbridge.experiment.validate_shard import check_ranks, check_units, ranks_note, sharding_problems
from chatbridge.models.config import ModelConfig
from chatbridge.runners.config import RunConfig
from tests.helpers.tiny_models import LANGUAGE, model_mapping, tiny_model


def run_config(**run: Any) -> RunConfig:
    return parse(RunConfig, {"output_dir": "runs/x", "max_steps": 2, "parallel": "shard", **run})


def problems(run: dict[str, Any], **model: Any) -> list[Problem]:
    config = parse(ModelConfig, model_mapping(**{"trainable": ["bridges.*"], **model}))
    return list(sharding_problems(config, run_config(**run)))


def test_shard_is_accepted_with_every_way_to_train():
    """fails when a valid combination is refused"""
    assert not problems({"sharding": {"reshard_after_forward": False, "reduce": "step", "offload": "cpu"}})
    assert not problems({}, trainable=["language.*"], adapters=[])
    assert not problems({"parallel": "replicate"})


def test_combinations_that_cannot_work_are_reported_together(tmp_path):
    """fails when a run ends inside FSDP2 instead of before it starts"""
    found = problems(
        {"device": "cpu", "sharding": {"offload": "cpu"}},
        language={**LANGUAGE, "load_in_8bit": True},
        adapters=[{"targets": ["language.*q_proj"], "use_dora": True}],
    )
    assert [one.path for one in found] == [
        "model.language.load_in_8bit", "model.adapters[0].use_dora", "run.sharding.offload",
    ]  # fmt: skip
    assert all(one.hint for one in found)


def test_sharding_without_shard_has_no_effect():
    """fails when somebody sets run.sharding, forgets run.parallel, and is not told"""
    (found,) = problems({"parallel": "replicate", "sharding": {"reduce": "step"}})
    assert found.path == "run.sharding" and "run.parallel is replicate" in found.message


@pytest.mark.parametrize(
    ("sharding", "path"), [({"offload": "optimizer"}, "sharding.offload"), ({"reshard": True}, "sharding.reshard")]
)
def test_unknown_keys_and_values_name_what_is_accepted(sharding, path):
    """fails when a misspelled key is ignored"""
    with pytest.raises(ConfigError) as error:
        run_config(sharding=sharding)
    (problem,) = error.value.problems
    assert problem.path == path and problem.allowed


def test_one_rank_cannot_shard_but_can_be_checked(monkeypatch):
    """fails when a run with one rank starts, or a check on a login node fails instead of telling how to start"""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(ConfigError) as error:
        check_ranks(run_config())
    (problem,) = error.value.problems
    assert problem.path == "run.parallel" and "at least 2 ranks, and this command has 1" in problem.message
    assert "torchrun --nproc-per-node" in str(problem.hint) and "replicate" in str(problem.hint)
    assert "torchrun --nproc-per-node" in str(ranks_note(run_config()))
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert ranks_note(run_config()) is None
    check_ranks(run_config())
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert ranks_note(run_config(parallel="replicate")) is None


def test_a_language_model_without_layers_or_with_shared_ones_is_refused():
    """fails when shard silently spreads nothing, or cuts a tensor that two layers use"""
    model = tiny_model()
    check_units(model, run_config())
    layers = model.language.decoder_layers
    layers[1].mlp.up_proj.weight = layers[0].mlp.up_proj.weight
    with pytest.raises(ConfigError, match=r"mlp\.up_proj\.weight of layer 1 is a tensor of layer 0 too"):
        check_units(model, run_config())
    check_units(model, run_config(parallel="replicate"))
    model = tiny_model()
    model.language.lm.config.num_hidden_layers = 7
    with pytest.raises(ConfigError, match="no decoder layers found"):
        check_units(model, run_config())
