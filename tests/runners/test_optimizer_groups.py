"""Learning rate and decay per name pattern, and moments in 8 bits: what is applied, told beforehand, and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from chatbridge.common.errors import ConfigError
from chatbridge.config.schema import parse
from chatbridge.models.trainable import set_trainable
from chatbridge.runners.optim import (
    OptimizerConfig,
    Schedule,
    ScheduleConfig,
    build_optimizer,
    kind_problems,
    learning_rates,
    load_optimizer_state,
    optimizer_state,
    set_lr,
)
from chatbridge.runners.optimizer_groups import GroupConfig, lr_scales
from tests.helpers.tiny_models import tiny_model
from tests.helpers.tiny_run import resumed, tiny_runner


def parameters(*names: str) -> dict[str, nn.Parameter]:
    """A matrix per name; a vector for biases and norms."""
    shapes = {name: (4,) if "bias" in name or "norm" in name else (4, 3) for name in names}
    return {name: nn.Parameter(torch.ones(shape)) for name, shape in shapes.items()}


def settings(optimizer: torch.optim.Optimizer, own: dict[str, nn.Parameter]) -> dict[str, tuple[float, float]]:
    """Name -> learning rate and weight decay."""
    rates = learning_rates(optimizer, own)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    return {name: (rates[name], decay[id(p)]) for name, p in own.items()}


def test_each_group_has_its_rate_and_decay_in_proportion_to_the_schedule():
    """fails when a group keeps the common rate, its rate does not follow the schedule, or decay_vectors overrules it"""
    own = parameters("bridges.q.w", "bridges.q.norm", "language.a.lora_A.default.weight", "language.a.bias")
    config = OptimizerConfig(
        lr=1e-3,
        decay_vectors=False,
        groups=(
            GroupConfig(match=("language.*",), exclude=("*bias",), lr=2e-4),
            GroupConfig(match=("*norm",), lr_scale=10.0, weight_decay=0.3),
        ),
    )
    optimizer = build_optimizer(own, config)
    schedule = Schedule(ScheduleConfig(kind="cosine", warmup_steps=2, warmup_lr=0.0), config.lr, 10)
    for step in (1, 2, 7):
        lr = schedule(step)
        set_lr(optimizer, lr)
        assert settings(optimizer, own) == {
            "bridges.q.w": (lr, 0.05),
            "bridges.q.norm": (lr * 10.0, 0.3),
            "language.a.lora_A.default.weight": (pytest.approx(lr * 0.2), 0.05),
            "language.a.bias": (lr, 0.0),
        }


def test_the_decay_rule_of_multimodal_gpt():
    """fails when its rule cannot be written: decay for gated cross-attention only, without its gates, norms, biases"""
    names = [
        "gated_cross_attn_layer.attn.to_q.weight", "gated_cross_attn_layer.attn_gate", "gated_cross_attn_layer.ff_gate",
        "gated_cross_attn_layer.attn.norm.weight", "gated_cross_attn_layer.ff.bias", "perceiver.latents",
        "decoder_layer.q_proj.lora_A.default.weight",
    ]  # fmt: skip
    own = parameters(*(f"language.layers.0.{name}" for name in names))
    rule = {
        "weight_decay": 0.0,
        "groups": [
            {
                "match": ["*gated_cross_attn_layer*"],
                "exclude": ["*ff_gate*", "*attn_gate*", "*norm*", "*bias*"],
                "weight_decay": 0.1,
            }
        ],
    }
    applied = settings(build_optimizer(own, parse(OptimizerConfig, rule)), own)
    decays = {name: decay for name, (_, decay) in applied.items()}

    def apply_decay(name: str) -> bool:
        """open-mmlab/Multimodal-GPT: mmgpt/train/instruction_finetune.py"""
        return "gated_cross_attn_layer" in name and not any(
            word in name for word in ("ff_gate", "attn_gate", "norm", "bias")
        )

    assert decays == {name: 0.1 if apply_decay(name) else 0.0 for name in own}
    assert sum(decays.values()) == 0.1


def test_wrong_patterns_are_reported_together():
    """fails when a pattern without a tensor, an overlap or an idle exclude is found late, or one hides the others"""
    names = ["bridges.q.w", "bridges.q.norm", "language.a.lora_A.default.weight"]
    groups = (
        GroupConfig(match=("bridges.*",), lr_scale=0.1),
        GroupConfig(match=("*norm", "langauge.*"), weight_decay=0.0),
        GroupConfig(match=("language.*",), exclude=("*lora_B*",), lr=1e-5),
        GroupConfig(match=("*lora*",), exclude=("*lora_A*",), lr=1e-5),
    )
    with pytest.raises(ConfigError) as error:
        lr_scales(groups, names, 1e-4)
    found = {problem.path: problem for problem in error.value.problems}
    assert found["run.optimizer.groups[1].match"].message.endswith("groups[0] has too: bridges.q.norm")
    assert found["run.optimizer.groups[1].match[1]"].nearest == "language.*"
    assert found["run.optimizer.groups[1].match[1]"].allowed == ("bridges.q.*", "language.*")
    assert "takes out none of the 1 tensors" in found["run.optimizer.groups[2].exclude[0]"].message
    assert "only tensors that exclude takes out again" in found["run.optimizer.groups[3].match[0]"].message
    assert len(found) == len(error.value.problems) == 4


@pytest.mark.parametrize(
    ("group", "path", "said"),
    [
        ({"match": ["*"]}, "groups[0]", "changes nothing"),
        ({"match": ["*"], "lr": 1e-3, "lr_scale": 2.0}, "groups[0].lr_scale", "is set beside lr"),
        ({"match": ["*"], "lr": 0.0}, "groups[0].lr", "is 0.0"),
        ({"match": [], "lr": 0.1}, "groups[0].match", "has 0 items"),
        ({"match": ["*"], "weight_decay": -1}, "groups[0].weight_decay", "is -1"),
        ({"match": ["*"], "lr": 1e-3}, "groups[0].lr", "in proportion to optimizer.lr, which is 0"),
    ],
)
def test_settings_out_of_range(group: dict[str, Any], path: str, said: str):
    """fails when a contradiction inside a group is not reported with its path"""
    with pytest.raises(ConfigError) as error:
        parse(OptimizerConfig, {"lr": 0.0 if "proportion" in said else 1e-3, "groups": [group]})
    (problem,) = error.value.problems
    assert problem.path == path and said in problem.message


def test_the_tree_shows_the_factors():
    """fails when the printed tree does not show which part trains at another rate"""
    report = set_trainable(tiny_model(), ["bridges.*", "encoders.vision.norm.*"])
    scales = lr_scales((GroupConfig(match=("bridges.*queries*",), lr_scale=0.1),), report.names, 1e-3)
    tree = {line.split()[0]: " ".join(line.split()[1:]) for line in str(report.with_lr_scales(scales)).splitlines()}
    assert tree["queries"].endswith("full, lr x 0.1")
    assert tree["perceiver"].endswith("full, lr x 0.1 to 1") and "lr x" not in tree["vision"]


@pytest.mark.parametrize("kind", ["adamw", "adamw_8bit"])
def test_a_run_with_groups_resumes_bit_for_bit(kind: str, tmp_path: Path):
    """fails when moments are lost or matched by position, in fp32 or in 8 bits, or a group moves at the common rate"""
    if kind == "adamw_8bit":
        pytest.importorskip("bitsandbytes")
    groups = (
        GroupConfig(match=("*bias",), lr_scale=0.5, weight_decay=0.0),
        GroupConfig(match=("output.weight",), lr=0.01),
    )
    config = OptimizerConfig(lr=0.05, kind=kind, groups=groups)  # type: ignore[arg-type]  # a parametrized literal
    through = tiny_runner(tmp_path / "through", optimizer=config)
    assert through.train() == 0
    assert tiny_runner(tmp_path / "stopped", optimizer=config, stop_at=4).train() == 0
    again = resumed(tiny_runner(tmp_path / "stopped", optimizer=config))
    assert again.state.step == 4 and again.train() == 0
    for one, other in zip(through.parallel.parameters.values(), again.parallel.parameters.values(), strict=True):
        assert torch.equal(one, other)
    files = [tmp_path / name / "checkpoints/step_000008/optimizer.pt" for name in ("through", "stopped")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_moments_in_8_bits_are_small_and_stay_so():
    """fails when adamw_8bit keeps fp32 moments, a resume turns them into fp32, or moments of the other kind load"""
    pytest.importorskip("bitsandbytes")
    own = {"w": nn.Parameter(torch.randn(80, 80)), "small": nn.Parameter(torch.randn(5))}
    config = OptimizerConfig(kind="adamw_8bit")
    optimizer = build_optimizer(own, config)
    for parameter in own.values():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    state = optimizer_state(optimizer, own)
    assert state["w"]["state1"].dtype == state["w"]["state2"].dtype == torch.uint8
    assert state["small"]["state1"].dtype == torch.float32
    size = sum(value.numel() * value.element_size() for value in state["w"].values() if torch.is_tensor(value))
    assert size < 0.5 * 8 * 6400  # fp32 moments take 8 bytes a value; the two tables of 1 kB are part of it
    second = build_optimizer(own, config)
    load_optimizer_state(second, own, state)
    assert all(torch.equal(second.state[own["w"]][key], state["w"][key]) for key in ("state1", "absmax1", "qmap1"))
    with pytest.raises(ValueError, match="moments are those of adamw_8bit, run.optimizer.kind is adamw;"):
        load_optimizer_state(build_optimizer(own, OptimizerConfig()), own, state)


def test_moments_in_8_bits_that_are_not_available(monkeypatch: pytest.MonkeyPatch):
    """fails when a missing package, a device without support or sharding is found at the first step"""
    config = OptimizerConfig(kind="adamw_8bit")
    assert [problem.path for problem in kind_problems(config, "cpu", "shard")] == ["run.optimizer.kind"]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (problem,) = kind_problems(config, "cpu", "replicate")
    assert "8 bit needs bitsandbytes; install it with" in problem.message
    assert not list(kind_problems(OptimizerConfig(), "cpu", "shard"))
