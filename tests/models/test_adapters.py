"""LoRA: which layers get an adapter, what trains, what a wrong setting says, merging, and weights in 4 and 8 bits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from chatbridge.common.errors import ConfigError
from chatbridge.config.schema import parse
from chatbridge.models.adapter_layers import adapted_layers, inject_adapters, merge_adapters, restart_magnitudes
from chatbridge.models.adapters import AdapterConfig, adapter_targets, linear_layers
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.component_tensors import describe_components, trainable_parameters, under_own_names
from chatbridge.models.config import ModelConfig
from chatbridge.models.language.causal_lm import CausalLM
from chatbridge.models.loading import load_weights
from chatbridge.models.start_from_checkpoint import changed_frozen_parts
from chatbridge.models.trainable import set_trainable
from tests.helpers.mini_world import write_language_model
from tests.helpers.tiny_languages import tiny_language
from tests.helpers.tiny_models import LANGUAGE, PERCEIVER, batch, model_mapping, tiny_model

pytest.importorskip("peft")
MEDIA = ("image", "video", "audio")


def adapter(*targets: str, **settings: Any) -> AdapterConfig:
    return AdapterConfig(targets=targets, **{"rank": 2, "alpha": 4.0, **settings})


ATTENTION = adapter("language.*q_proj", "language.*v_proj")
MLP = adapter("language.*.mlp.*.weight", rank=4, alpha=2.0)
EVERYWHERE = (ATTENTION, MLP, adapter("encoders.*", "bridges.*", rank=3))


def adapted(adapters: tuple[AdapterConfig, ...], patterns: tuple[str, ...] = (), seed: int = 0) -> ChatModel:
    """The tiny model with adapters that are not zero."""
    model = tiny_model()
    set_trainable(model, patterns, adapters)
    inject_adapters(model, adapters)
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            nn.init.normal_(parameter, std=0.6)
    return model.eval()


def loss(model: ChatModel) -> float:
    with torch.no_grad():
        return model(batch(model, MEDIA)).total.item()


def test_every_linear_layer_learns_and_nothing_else_moves() -> None:
    """Fails when a layer of a component reads its weight past the adapter, when the report misses an adapter tensor,
    or when one step moves a base tensor."""
    model = tiny_model(bridges={"perceiver": {**PERCEIVER, "weight_std": 0.2}})
    layers = linear_layers(model)
    adapters = (*EVERYWHERE, adapter("language.*k_proj", "language.*o_proj", "*lm_head"))
    report = set_trainable(model, ["bridges.perceiver.queries.*"], adapters)
    start = model.eval()(batch(model, MEDIA)).total
    inject_adapters(model, adapters)
    torch.testing.assert_close(model.eval()(batch(model, MEDIA)).total, start)  # B is zero
    trained = trainable_parameters(model)
    assert set(report.names) == set(trained)
    assert report.num_trainable == sum(parameter.numel() for parameter in trained.values())
    assert {name for name, _ in adapted_layers(model)} == set(layers)
    for name, parameter in trained.items():
        if ".lora_B." in name:
            nn.init.normal_(parameter, std=0.1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(trained.values(), lr=0.1, weight_decay=0.0)
    model.train()
    model(batch(model, MEDIA)).total.backward()
    optimizer.step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == set(report.names)


def test_a_plan_counts_the_same_tensors() -> None:
    """Fails when the model on the meta device has other adapters than the one with weights."""
    with torch.device("meta"):
        model = ChatModel(parse(ModelConfig, model_mapping()))
        report = set_trainable(model, [], EVERYWHERE)
        inject_adapters(model, EVERYWHERE)
    trained = trainable_parameters(model)
    assert set(report.names) == set(trained) and all(parameter.is_meta for parameter in trained.values())
    tree = {line.split()[0]: " ".join(line.split()[1:]) for line in str(report).splitlines()}
    assert "LoRA, " in tree["language"] and "LoRA, " in tree["vision"] and "LoRA, " in tree["perceiver"]
    assert report.as_dict()["tree"]["language"]["adapters"] == report.counts["language"][0] > 0


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"use_dora": True}, {"dropout": 0.5}], ids=str)
def test_merged_equals_unmerged(settings: dict[str, Any]) -> None:
    """Fails when merging forgets the scale, the magnitude or a rank of its own, or leaves an adapter behind."""
    adapters = tuple(
        parse(AdapterConfig, {"targets": list(one.targets), "rank": one.rank, "alpha": one.alpha, **settings})
        for one in EVERYWHERE
    )
    model = adapted(adapters)
    plain, unmerged = loss(tiny_model().eval()), loss(model)
    names = set(tiny_model().state_dict())
    assert merge_adapters(model) == len(adapter_targets(tiny_model(), adapters))
    assert set(model.state_dict()) == names and not list(adapted_layers(model))
    assert abs(unmerged - plain) > 1e-2
    assert loss(model) == pytest.approx(unmerged, rel=1e-5)


def test_rslora_scales_by_the_root_of_the_rank() -> None:
    """Fails when the options do not reach peft."""
    scale = {name: layer.scaling["default"] for name, layer in adapted_layers(adapted((MLP,)))}
    root = adapter(*MLP.targets, rank=4, alpha=2.0, use_rslora=True)
    rooted = {name: layer.scaling["default"] for name, layer in adapted_layers(adapted((root,)))}
    assert set(scale.values()) == {0.5} and set(rooted.values()) == {1.0}


def test_the_magnitude_of_dora_follows_weights_that_are_loaded_later() -> None:
    """Fails when stage 2 with DoRA does not start at the loss of stage 1: its weights come after the adapters."""
    dora = (adapter("language.*q_proj", use_dora=True),)
    other = tiny_model().requires_grad_(False)
    for name, parameter in other.named_parameters():
        if "q_proj" in name:
            nn.init.normal_(parameter, std=0.3)
    model = tiny_model()
    set_trainable(model, [], dora)
    inject_adapters(model, dora)
    state = under_own_names(model, other.state_dict())
    assert "language.lm.model.layers.0.self_attn.q_proj.base_layer.weight" in state
    model.load_state_dict(state, strict=False)
    assert loss(model.eval()) != pytest.approx(loss(other.eval()), rel=1e-5)
    restart_magnitudes(model, state)
    assert loss(model) == pytest.approx(loss(other), rel=1e-6)
    assert all(layer.lora_magnitude_vector["default"].weight.requires_grad for _, layer in adapted_layers(model))


def test_gpt2_whose_layers_are_transposed() -> None:
    """Fails when a Conv1D is not a linear layer, or its sizes are read the other way round."""
    language = tiny_language("gpt2").requires_grad_(False)
    (only,) = adapter_targets(language, [adapter("*h.0.mlp.c_fc", rank=3)])
    assert only.sizes == (32, 128)
    ids = torch.tensor([[1, 5, 6]])
    before = language.logits(language(language.embed(ids)))
    inject_adapters(language, [adapter("*c_fc", "*c_attn", "*c_proj", rank=3)])
    for name, parameter in language.named_parameters():
        if ".lora_" in name:
            nn.init.normal_(parameter, std=0.1)
    unmerged = language.logits(language(language.embed(ids)))
    merge_adapters(language)
    merged = language.logits(language(language.embed(ids)))
    assert not torch.allclose(before, unmerged)
    torch.testing.assert_close(merged, unmerged, rtol=1e-5, atol=1e-5)


def test_wrong_targets_are_reported_together() -> None:
    """Fails when a mistake of model.adapters passes silently, or one hides the others."""
    tied = {**LANGUAGE, "architecture": {**LANGUAGE["architecture"], "tie_word_embeddings": True}}  # type: ignore[dict-item]
    model = tiny_model(language=tied)
    adapters = (
        adapter("language.*q_porj"),
        adapter("language.*norm.weight", "language.*v_proj"),
        adapter("language.*layers.1.*v_proj", "bridges.perceiver.output"),
        adapter("language.*k_proj", rank=21),
        adapter("*lm_head"),
    )
    with pytest.raises(ConfigError) as error:
        set_trainable(model, ["bridges.*", "bridgse.*", "*.lora_A.*"], adapters)
    found = {problem.path: problem for problem in error.value.problems}
    assert found["model.adapters[0].targets[0]"].nearest == "language.*q_proj"
    assert found["model.adapters[0].targets[0]"].allowed == (
        "encoders.vision.*", "encoders.audio.*", "bridges.perceiver.*", "language.*"
    )  # fmt: skip
    assert "matches 5 tensors, none of a linear layer" in found["model.adapters[1].targets[0]"].message
    shared, trained = [one for one in error.value.problems if one.path == "model.adapters[2].targets"]
    assert "model.adapters[1] has too: language.lm.model.layers.1.self_attn.v_proj" in shared.message
    assert "trains in full: bridges.perceiver.output" in trained.message and "remove these" in str(trained.hint)
    assert "20 inputs and 20 outputs" in found["model.adapters[3].rank"].message
    assert "the embedding too (tied weights)" in found["model.adapters[4].targets"].message
    assert found["model.trainable[1]"].nearest == "bridges.*"
    assert "adapters (model.adapters) train without being named" in str(found["model.trainable[2]"].hint)


def test_added_tokens_and_an_adapter_on_the_head_exclude_each_other() -> None:
    """Fails when the logits of added tokens would be added to an update that has none."""
    with pytest.raises(ConfigError, match=r"extended by model\.added_tokens"):
        set_trainable(tiny_model(added_tokens=["<image>"]), [], (adapter("language.*head"),))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rank": 0}, "rank: is 0, expected a value of at least 1"),
        ({"alpha": 0}, "alpha: is 0"),
        ({"dropout": 1.0}, "dropout: is 1.0"),
        ({"kind": "lara"}, "; lora"),
        ({"targets": []}, "targets: has 0 items"),
        ({"targets": ["encoder.*"]}, "'encoder.*' matches no part"),
        ({"targets": ["added_tokens.*"]}, "'added_tokens.*' matches no part"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], said: str) -> None:
    """Fails when a value that peft would take, or reject with a traceback, is not reported with its path."""
    entry = {"targets": ["language.*q_proj"], **settings}
    with pytest.raises(ConfigError) as error:
        parse(ModelConfig, model_mapping(adapters=[entry]))
    (problem,) = error.value.problems
    assert problem.path.startswith("adapters[0].") and said in f"{problem.path}: {problem.message}; {problem.nearest}"


def test_the_next_step_without_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when adapters without peft end in an ImportError at the first step."""
    monkeypatch.setattr("chatbridge.models.adapters.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"need the package 'peft'.*\.\[adapters\]"):
        parse(ModelConfig, model_mapping(adapters=[{"targets": ["language.*q_proj"]}]))


def test_the_base_keeps_its_fingerprint_and_its_names() -> None:
    """Fails when a checkpoint of stage 1 does not fit the model with adapters, or the reverse."""
    plain, model = tiny_model().requires_grad_(False), adapted(EVERYWHERE)
    manifest = {"components": describe_components(model)}
    assert manifest["components"]["language"]["frozen"] == describe_components(plain)["language"]["frozen"]
    assert changed_frozen_parts(plain, manifest, trainable_parameters(model)) == []
    assert set(under_own_names(model, plain.state_dict())) <= set(model.state_dict())


@pytest.mark.parametrize("bits", [4, 8])
def test_adapters_on_a_quantized_language_model(bits: int, tmp_path: Any) -> None:
    """Fails when nothing is stored in so many bits, when the adapters are not fp32 or get no gradient, when full
    training is accepted, or when the count of values is that of the packed storage."""
    pytest.importorskip("bitsandbytes")
    write_language_model(tmp_path)
    language = {"name": "causal_lm", "weights": str(tmp_path), f"load_in_{bits}bit": True}
    entries = [{"targets": ["language.*_proj"], "rank": 4}]
    config = parse(ModelConfig, model_mapping(language=language, adapters=entries))
    model = ChatModel(config)
    report = set_trainable(model, [], config.adapters)
    (said,) = [line for line in load_weights(model) if line.startswith("language")]
    assert f"in {bits} bit" in said
    stored = {type(layer.get_base_layer()).__name__ for _, layer in adapted_layers(model)}
    assert stored == {f"Linear{'4bit' if bits == 4 else '8bitLt'}"}
    trained = trainable_parameters(model)
    assert set(trained) == set(report.names) and {one.dtype for one in trained.values()} == {torch.float32}
    assert set_trainable(model, ["*lora_*"]).counts["language"] == report.counts["language"]
    optimizer = torch.optim.AdamW(trained.values(), lr=0.01)
    frozen = {name: value.clone() for name, value in model.state_dict().items() if name not in trained}
    start, losses = loss(model.eval()), []  # without a gradient: no weight may be repacked
    for _ in range(6):
        optimizer.zero_grad()
        total = model.train()(batch(model, MEDIA)).total
        total.backward()
        optimizer.step()
        losses.append(total.item())
    assert losses[0] == pytest.approx(start, rel=1e-6) and losses[-1] < losses[0] - 1.0
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in frozen.items())
    exact = ChatModel(parse(ModelConfig, model_mapping(language={**language, f"load_in_{bits}bit": False})))
    load_weights(exact.requires_grad_(False))
    manifest = {"components": {"language": describe_components(model)["language"]}}
    assert changed_frozen_parts(exact, manifest, trained) == changed_frozen_parts(model, manifest, trained) == []
    exact.language.lm.model.norm.weight.data[0] += 1.0
    assert len(changed_frozen_parts(exact, manifest, trained)) == 1
    with pytest.raises(ValueError, match=r"cannot be trained.*adapters \(model\.adapters\)"):
        CausalLM(CausalLM.Config(weights=tmp_path, load_in_4bit=True)).load(torch.device("cpu"), torch.float32)
