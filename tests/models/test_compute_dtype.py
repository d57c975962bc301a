"""Components compute in a dtype of their own, beside a run in another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from chatbridge.common.errors import Problem
from chatbridge.config.schema import parse
from chatbridge.experiment.validate_levers import dtype_problems
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.config import ModelConfig
from chatbridge.models.loading import load_weights
from chatbridge.models.trainable import set_trainable
from chatbridge.runners.config import RunConfig
from tests.helpers.tiny_models import PERCEIVER, batch, model_mapping, tiny_model

BF16, FP32 = torch.bfloat16, torch.float32
BRIDGES = {"perceiver": {**PERCEIVER, "dropout": 0.0}}


def loaded(dtype: torch.dtype, dtypes: dict[str, torch.dtype], *trainable: str) -> tuple[ChatModel, dict[str, Any]]:
    """The model, and the dtypes that its parts see while a loss is computed."""
    model = tiny_model(bridges=BRIDGES)
    set_trainable(model, trainable or ("bridges.*",))
    load_weights(model, "cpu", dtype, dtypes=dtypes)
    model.train()
    seen: dict[str, Any] = {}
    linears = {
        "vision": model.encoders["vision"].vit.blocks[0].mlp.fc1,
        "bridge": model.bridges["perceiver"].output,
        "language": model.language.decoder_layers[0].mlp.up_proj,
        "head": model.language.head,
    }
    for name, linear in linears.items():
        linear.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out.dtype}))
    return model, seen


def loss_of(model: ChatModel) -> float:
    model.zero_grad()
    total = model(batch(model, ("image", "audio"))).total
    total.backward()
    return float(total.detach())


@pytest.mark.parametrize(
    ("dtype", "dtypes", "expected"),
    [
        (BF16, {"encoders.vision": FP32}, {"vision": FP32, "bridge": BF16, "language": BF16}),
        (BF16, {"bridges.perceiver": FP32}, {"vision": BF16, "bridge": FP32, "language": BF16}),
        (BF16, {"language": FP32}, {"vision": BF16, "bridge": BF16, "language": FP32}),
        (FP32, {"language": BF16}, {"vision": FP32, "bridge": FP32, "language": BF16}),
        (FP32, {"encoders.vision": BF16, "encoders.audio": BF16}, {"vision": BF16, "bridge": FP32, "language": FP32}),
    ],
)
def test_each_component_computes_and_is_stored_in_its_dtype(
    dtype: torch.dtype, dtypes: dict[str, torch.dtype], expected: dict[str, torch.dtype]
) -> None:
    """Fails when autocast of the run reaches an exception, its frozen weights are rounded, or tensors of two dtypes
    meet between components."""
    model, seen = loaded(dtype, dtypes)
    loss = loss_of(model)
    assert {name: seen[name] for name in expected} == expected and seen["head"] == expected["language"]
    assert model.encoders["vision"].vit.blocks[0].mlp.fc1.weight.dtype == expected["vision"]
    assert model.language.decoder_layers[0].mlp.up_proj.weight.dtype == expected["language"]
    assert model.bridges["perceiver"].output.weight.dtype == FP32  # trained
    assert all(torch.isfinite(p.grad).all() for p in model.bridges.parameters() if p.grad is not None)
    assert loss == pytest.approx(loss_of(loaded(FP32, {})[0]), rel=0.03)
    assert len(model.eval().generate(batch(model, ("image",)))) == 1


def test_all_exceptions_together_are_the_run_in_that_dtype() -> None:
    """Fails when a component in fp32 inside a run in bf16 loses digits: the losses are those of a run in fp32."""
    everything = {"encoders.vision": FP32, "encoders.audio": FP32, "bridges.perceiver": FP32, "language": FP32}
    assert loss_of(loaded(BF16, everything)[0]) == loss_of(loaded(FP32, {})[0])


def problems(dtypes: dict[str, str], **more: bool) -> list[Problem]:
    run = parse(RunConfig, {"output_dir": "runs/x", "max_steps": 2, "compute_dtype": dtypes})
    return list(dtype_problems(parse(ModelConfig, model_mapping(trainable=["bridges.*"])), run, **more))


def test_exceptions_that_cannot_apply_are_told_together(tmp_path: Path) -> None:
    """Fails when a misspelled component computes in the dtype of the run silently, or another setting overrules it."""
    found = problems({"encoder.vision": "fp32", "language": "fp32", "encoders.*": "bf16"}, is_sharded=True,
                     is_cached=True)  # fmt: skip
    paths = [problem.path for problem in found]
    assert paths == [f"run.compute_dtype.{name}" for name in ("encoder.vision", "language", "encoders.*")]
    assert found[0].nearest == "encoders.vision" and "run.parallel: shard" in found[1].message
    assert "cached features" in found[2].message
    assert not problems({"*": "fp32", "language": "bf16"}) and problems({"language": "bf16", "*": "fp32"})
    with pytest.raises(ValueError, match="compute_dtype"):
        problems({"language": "fp16"})
