"""torch.compile of chosen components: equal losses, and a clear problem without a compiler."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from chatbridge.common.errors import ConfigError
from chatbridge.config.schema import parse
from chatbridge.experiment.validate_levers import check_devices, lever_problems
from chatbridge.models.compilation import Compiled, compile_components, compile_obstacle
from chatbridge.models.config import ModelConfig
from chatbridge.models.memory import checkpoint_activations
from chatbridge.models.trainable import set_trainable
from chatbridge.runners.config import RunConfig
from tests.helpers.fused_rows import ROWS, SIX, batch_of
from tests.helpers.gated_models import gated
from tests.helpers.tiny_models import PERCEIVER, batch, model_mapping, tiny_model

CPU = torch.device("cpu")


def run_of(*patterns: str) -> RunConfig:
    return RunConfig(output_dir=Path("x"), max_steps=1, compile=patterns)


def test_names_copies_and_generation_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when compiling renames tensors, a copy runs the code of its original, or answers are compiled token by
    token."""
    compiled: list[object] = []
    monkeypatch.setattr(torch, "compile", lambda forward: compiled.append(forward) or forward)
    model = tiny_model(bridges={"perceiver": {**PERCEIVER, "dropout": 0.0}})
    names, data = list(model.state_dict()), batch(model, ("image",))
    before = model.eval().generate(data)
    loss = float(model(data).total.detach())
    assert len(compile_components(model, ["language", "bridges.*"])) == 2
    assert model.generate(data) == before
    assert not any(one.__self__ in list(model.language.decoder_layers) for one in compiled)  # pyright: ignore
    assert float(model(data).total.detach()) == loss and list(model.state_dict()) == names
    assert len(compiled) == 4  # two layers each
    layer = copy.deepcopy(model).language.decoder_layers[0]
    assert isinstance(layer.forward, Compiled) and layer.forward.fast is None
    assert layer.forward.forward.__self__ is layer


def test_recomputed_layers_and_those_of_a_fusion_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when activation checkpointing around compiled layers runs them uncompiled, or blocks of a fusion are
    compiled for an answer."""
    compiled: list[object] = []
    monkeypatch.setattr(torch, "compile", lambda forward: compiled.append(forward) or forward)
    model = gated()
    compile_components(model, ["fusion", "language"])
    checkpoint_activations(model, ["fusion", "language"])
    model.generate(batch_of(*ROWS), SIX)
    assert compiled == []
    set_trainable(model, ["fusion.*"])
    model.train()(batch_of(*ROWS)).total.backward()
    assert len(compiled) == 3  # a block and two decoder layers


def test_a_missing_compiler_is_told_before_anything_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when a run starts, reads weights, and ends in the first step because g++ is missing."""
    config = parse(ModelConfig, {**model_mapping(), "trainable": ["bridges.*"]})
    assert [one.path for one in lever_problems(config, run_of("langauge"))] == ["run.compile[0]"]
    monkeypatch.setattr("shutil.which", lambda name: None)
    reason = compile_obstacle(CPU)
    assert reason is not None and "apt install g++" in reason
    with pytest.raises(ConfigError, match="no C\\+\\+ compiler"):
        check_devices(config, run_of("language"), CPU)
    check_devices(config, run_of(), CPU)


@pytest.mark.slow
def test_compiled_losses_and_gradients_equal_eager_ones() -> None:
    """Fails when compiled layers compute something else with activation checkpointing around them, or for another
    length."""
    if reason := compile_obstacle(CPU):
        pytest.skip(reason)

    def results(patterns: list[str], recomputed: list[str]) -> list[torch.Tensor]:
        model = tiny_model(bridges={"perceiver": {**PERCEIVER, "dropout": 0.0}})
        set_trainable(model, ["bridges.*"])
        model.train()
        compile_components(model, patterns)
        checkpoint_activations(model, recomputed)
        found = []
        for lengths in ((12, 9), (15, 14)):
            total = model(batch(model, ("image", "image"), lengths)).total
            total.backward()
            found += [total.detach(), *(p.grad.clone() for p in model.bridges.parameters() if p.grad is not None)]
        return found

    eager = results([], [])
    for one, other in zip(results(["language"], ["language"]), eager, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
