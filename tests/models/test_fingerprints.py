"""The fingerprint of a frozen part is that of its weights, with or without adapters; shards are in ranks_runner.py."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from chatbridge.models.component_tensors import describe_components, trainable_parameters
from chatbridge.models.fingerprints import base_name, fingerprint
from chatbridge.models.start_from_checkpoint import changed_frozen_parts
from tests.helpers.tiny_models import tiny_model


def frozen_model() -> nn.Module:
    return tiny_model().requires_grad_(False)


def language_print(model: nn.Module) -> str:
    return describe_components(model)["language"]["frozen"]["fingerprint"]


def test_the_value_stays_what_it_was():
    """fails when checkpoints of earlier versions no longer fit the same frozen weights"""
    weights = {"b.weight": torch.arange(6000.0).reshape(60, 100) / 7, "a": torch.tensor([1.5, -2.0])}
    assert fingerprint(weights) == "52a2b5b4fe3fafff"


@pytest.mark.parametrize("targets", [["q_proj", "up_proj"], ["embed_tokens", "lm_head"]], ids=["linear", "embedding"])
def test_lora_on_the_language_model(targets):
    """fails when a checkpoint trained with a plain model is rejected for the same model with LoRA, or the reverse"""
    peft = pytest.importorskip("peft")
    plain, adapted = frozen_model(), frozen_model()
    before = describe_components(plain)["language"]["frozen"]
    lm: Any = adapted.language.lm
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=targets, modules_to_save=["norm"]), lm)
    manifest = {"components": describe_components(adapted)}
    assert manifest["components"]["language"]["frozen"] == before
    num_adapted = 2 if "lm_head" in targets else 4  # and 5 norms, as `modules_to_save` has them
    assert manifest["components"]["language"]["trained"]["tensors"] == 2 * num_adapted + 5
    trained = trainable_parameters(adapted)
    assert changed_frozen_parts(plain, manifest, trained) == changed_frozen_parts(adapted, manifest, trained) == []
    assert changed_frozen_parts(adapted, {"components": describe_components(plain)}, ()) == []
    plain.language.lm.model.layers[1].mlp.down_proj.weight.data[0, 0] += 1.0
    changed = [line for line in changed_frozen_parts(plain, manifest, trained) if "fingerprint" in line]
    assert len(changed) == 1 and changed[0].startswith("  language: fingerprint ")  # other lines say how to go on


def test_frozen_adapters_are_a_component_of_their_own():
    """fails when the adapters of an earlier stage change the fingerprint of the weights they adapt, or are not
    compared"""
    peft = pytest.importorskip("peft")
    model = frozen_model()
    before = language_print(model)
    lm: Any = model.language.lm
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False), lm)
    model.requires_grad_(False)
    manifest = {"components": describe_components(model)}
    assert language_print(model) == before
    assert manifest["components"]["adapters.language"]["frozen"]["tensors"] == 4
    lm.model.layers[0].self_attn.q_proj.lora_A["default"].weight.data[0, 0] += 1.0
    (line,) = changed_frozen_parts(model, manifest, ())
    assert line.strip().startswith("adapters.language: fingerprint")


class Adapted(nn.Module):
    """Names as peft gives them, for environments without peft."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base_layer = base
        self.lora_A = nn.ModuleDict({"default": nn.Linear(3, 2, bias=False)})


def test_names_below_an_adapter(monkeypatch):
    """fails when a tensor under stacked adapters has another name than without them, or a name decides without the
    class: networks have layers that they call base_layer"""
    model = nn.ModuleDict({"q": Adapted(Adapted(nn.Linear(3, 3))), "base_layer": nn.Linear(3, 3)})
    assert base_name(model, "q.base_layer.base_layer.weight") == "q.base_layer.base_layer.weight"
    monkeypatch.setitem(sys.modules, "peft.tuners.tuners_utils", SimpleNamespace(BaseTunerLayer=Adapted))
    monkeypatch.setitem(sys.modules, "peft.utils.other", SimpleNamespace(AuxiliaryTrainingWrapper=Adapted))
    assert base_name(model, "q.base_layer.base_layer.weight") == "q.weight"
    assert base_name(model, "q.base_layer.lora_A.default.weight") == "adapters.q.base_layer.lora_A.default.weight"
    assert base_name(model, "base_layer.weight") == "base_layer.weight"


class Doubled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * self.scale


def test_a_parametrization_on_a_frozen_weight():
    """fails when a parametrized weight has another fingerprint than the original weight"""
    model = frozen_model()
    before = language_print(model)
    parametrize.register_parametrization(model.language.lm.lm_head, "weight", Doubled())
    assert "language.lm.lm_head.parametrizations.weight.original" in model.state_dict()
    assert language_print(model) == before
