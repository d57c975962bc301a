"""Files of OpenFlamingo and Multimodal-GPT, rebuilt small: `model.weights` and then `run.init_from`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from chatbridge.models.adapter_layers import inject_adapters
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.component_tensors import is_without_file
from chatbridge.models.importers.released import load_model_weights, start_from
from chatbridge.models.trainable import set_trainable
from tests.helpers.flamingo_release import FUSION, LORA, TOKENS, TUNING, adapters, flamingo, random_values, released


@pytest.fixture(scope="module")
def values() -> dict[str, Tensor]:
    """The tensors of the released model: its base by the names without adapters, and its adapters."""
    return random_values(flamingo()) | {
        name: value for name, value in random_values(adapted()).items() if ".lora_" in name
    }


def adapted(weights: Path | None = None, **changes: Any) -> ChatModel:
    """The model with adapters, and with `model.weights` read into it."""
    more = {} if weights is None else {"weights": str(weights)}
    model = flamingo(**{"adapters": [LORA], **more, **changes})
    set_trainable(model, ())
    inject_adapters(model, model.config.adapters)
    load_model_weights(model)
    return model


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize(("has_aliases", "as_base"), [(True, True), (False, False)])
def test_openflamingo_fills_its_parts(
    values: dict[str, Tensor], tmp_path: Path, has_aliases: bool, as_base: bool
) -> None:
    """Fails when a tensor gets another's place or stays as it was, a row goes to another token, anything else changes,
    or the frozen tensors are (as model.weights) or are not (as run.init_from) in every checkpoint."""
    path = saved(tmp_path / "checkpoint.pt", released(values, has_aliases))
    model = flamingo(**({"weights": str(path)} if as_base else {}))
    set_trainable(model, ())
    assert is_without_file(model, "fusion") != as_base  # also before the file is read, as for --check
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = "\n".join(load_model_weights(model)) if as_base else str(start_from(model, path))
    filled = [name for name in before if name.startswith(("bridges.", "fusion.", "added_tokens.embedding."))]
    filled.append("language.lm.model.embed_tokens.weight")
    for name, value in model.state_dict().items():
        assert torch.equal(value, values[name] if name in filled else before[name]), name
    assert model.carried == (frozenset() if as_base else frozenset(filled))
    assert "dropped: 4 tensors of the language model" in report and "bridges.resampler: 25 tensors" in report
    assert not as_base or not (is_without_file(model, "fusion") or is_without_file(model, "bridges.resampler"))


@pytest.mark.parametrize("adapter", ["default.", ""])
@pytest.mark.parametrize("prefix", ["module.", ""])
def test_adapters_in_every_spelling(values: dict[str, Tensor], tmp_path: Path, adapter: str, prefix: str) -> None:
    """Fails when a spelling of peft or of DDP loads nothing, a matrix gets another's place, or the base changes."""
    base = saved(tmp_path / "checkpoint.pt", released(values))
    model = adapted(base)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = adapters(values, adapter, prefix)
    assert len(state) == 2 * (4 * 4 + 2 * 5)
    content = {"model_state_dict": state, "tuning_config": argparse.Namespace(**TUNING), "epoch": 0}
    report = start_from(model, saved(tmp_path / "lora.pt", content))
    for name, value in model.state_dict().items():
        assert torch.equal(value, values[name] if ".lora_" in name else before[name]), name
    assert f"adapters: {len(state)} tensors" in str(report) and model.carried == frozenset()


def test_more_than_adapters(values: dict[str, Tensor], tmp_path: Path) -> None:
    """Fails when the tensors that `unfrozen` named beside the adapters are lost, or a file of both parts is refused."""
    base = saved(tmp_path / "checkpoint.pt", released(values))
    extra = {f"lang_encoder.base_model.model.gated_cross_attn_layers.1.{gate}": torch.full((1,), 0.25)
             for gate in ("attn_gate", "ff_gate")} | {"perceiver.latents": torch.ones(3, 24)}  # fmt: skip
    model = adapted(base)
    start_from(model, saved(tmp_path / "lora.pt", adapters(values) | extra))
    state = model.state_dict()
    assert float(state["fusion.layers.1.attention_gate"]) == float(state["fusion.layers.1.feed_forward_gate"]) == 0.25
    assert torch.equal(state["bridges.resampler.latents"], torch.ones(3, 24))
    assert torch.equal(state["fusion.layers.3.attention_gate"], values["fusion.layers.3.attention_gate"])
    assert model.carried >= {"fusion.layers.1.attention_gate", "bridges.resampler.latents"}
    whole = adapted()  # the blocks are in the same file
    start_from(whole, saved(tmp_path / "whole.pt", released(values) | adapters(values)))
    to_q = "fusion.layers.1.attention.to_q"
    assert torch.equal(whole.state_dict()[f"{to_q}.base_layer.weight"], values[f"{to_q}.weight"])


def refusal(model: ChatModel, path: Path) -> str:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError) as caught:
        start_from(model, path)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return str(caught.value)


def test_files_that_do_not_fit(values: dict[str, Tensor], tmp_path: Path) -> None:
    """Fails when a file is taken in part, or a message lacks what arrived, what is expected, or the next step."""
    state, file = released(values), tmp_path / "file.pt"
    alias = "lang_encoder.gated_cross_attn_layers.1.attn.to_q.weight"
    assert "two names of one tensor, and have different values" in refusal(
        flamingo(), saved(file, state | {alias: state[alias] + 1})
    )
    less = {name: value for name, value in state.items() if not name.endswith("layers.3.ff_gate")}
    less.pop("lang_encoder.model.layers.3.gated_cross_attn_layer.ff_gate")
    assert "missing  fusion.layers.3.feed_forward_gate" in refusal(flamingo(), saved(file, less))
    more = state | {"lang_encoder.model.layers.9.mystery": torch.ones(1), "lang_encoder.odd": torch.ones(1)}
    assert "unknown names: lang_encoder.odd" in refusal(flamingo(), saved(file, more))
    message = refusal(flamingo(), saved(file, {"resampler.latents": torch.ones(3, 24)}))
    assert "it has resampler.latents, expected are names as perceiver.latents" in message
    message = refusal(flamingo(fusion={**FUSION, "every": 4}), saved(file, state))
    assert "its blocks are before decoder layers 1, 3, those of this model before 3" in message
    assert "set model.fusion.every to 2" in message
    inline = flamingo(fusion={"name": "inline"})
    assert "set model.fusion to {name: cross_attention, every: 2}" in refusal(inline, saved(file, state))
    linear = flamingo(bridges={"resampler": {"name": "linear"}})
    assert "holds a resampler (perceiver.*), but bridges.resampler is Linear" in refusal(linear, saved(file, state))
    taller = torch.randn(90, 20)
    message = refusal(flamingo(), saved(file, state | {"lang_encoder.model.embed_tokens.weight": taller}))
    assert "its embedding has 90 rows" in message and "set model.language.weights" in message
    bare = {name: value for name, value in state.items() if "embed_tokens" not in name}
    assert f"missing: lang_encoder.model.embed_tokens.weight, which holds the rows of {', '.join(TOKENS)}" in refusal(
        flamingo(), saved(file, bare)
    )
    for name, words in (("perceiver.latents", "bridges.resampler.latents"), (alias, "fusion.layers.1.attention.to_q")):
        broken = {key: value * torch.nan if key[-9:] == name[-9:] else value for key, value in state.items()}
        assert f"values of {words}" in refusal(flamingo(), saved(file, broken))
    whole = {name: value.to(torch.int8) for name, value in state.items()}
    message = refusal(flamingo(), saved(file, whole))
    assert "type     fusion.layers.1.attention_gate" in message and "float32    int8" in message
    assert "its tensors have no names but 1, so it is not" in refusal(flamingo(), saved(file, {1: torch.ones(2)}))


def test_adapters_that_do_not_fit(values: dict[str, Tensor], tmp_path: Path) -> None:
    """Fails when adapters run with another rank, scale or layer than they were trained with, or without the
    cross-attention they belong to."""
    base, file = saved(tmp_path / "checkpoint.pt", released(values)), tmp_path / "lora.pt"
    saved(file, {"model_state_dict": adapters(values), "tuning_config": argparse.Namespace(**TUNING)})
    assert "without the cross-attention they belong to, and model.weights is not set" in refusal(adapted(), file)
    with pytest.raises(ValueError, match=r"model.weights names it, which is the place of OpenFlamingo's checkpoint.pt"):
        adapted(file)
    message = refusal(adapted(base, adapters=[]), file)
    assert "this model has no adapters; set\nmodel.adapters:\n  - {targets: [" in message
    assert '"language.*q_proj"' in message and '"fusion.*to_kv"' in message and "rank: 2, alpha: 3}" in message
    assert "its adapters have rank 2, those of model.adapters 4: set model.adapters[0].rank to 2" in refusal(
        adapted(base, adapters=[{**LORA, "rank": 4}]), file
    )
    message = refusal(adapted(base, adapters=[{**LORA, "alpha": 16.0}]), file)
    for key, value in (("lora_alpha", float("nan")), ("lora_alpha", "3"), ("lora_alpha", 0), ("lora_r", 64)):
        settings = argparse.Namespace(**{**TUNING, key: value})
        odd = saved(tmp_path / "odd.pt", {"model_state_dict": adapters(values), "tuning_config": settings})
        assert f"its tuning_config has {key} {value!r}, expected" in refusal(adapted(base), odd)
    assert "a factor of 1.5; that of model.adapters[0] is 8: set its alpha to 3" in message
    fewer = adapted(base, adapters=[{**LORA, "targets": ["language.*.self_attn.?_proj"]}])
    message = refusal(fewer, file)
    assert "unexpected  fusion.layers.1.attention.to_q.lora_A.default.weight" in message
    assert "the entry of model.adapters for this file is\n  - {targets: [" in message
    inline = flamingo(fusion={"name": "inline"}, adapters=[{**LORA, "targets": ["language.*.self_attn.?_proj"]}])
    inject_adapters(inline, inline.config.adapters)
    assert "before decoder layers 1, 3; this model has none" in refusal(inline, file)


def test_a_run_is_not_a_released_file(tmp_path: Path) -> None:
    """Fails when model.weights takes a checkpoint of a run, or the file of another family."""
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match="run.init_from takes it"):
        adapted(tmp_path)
    with pytest.raises(ValueError, match=r"is a folder without one; expected a weights file \(\.pth"):
        adapted(tmp_path / "checkpoints")
    (tmp_path / "file.xyz").touch()
    with pytest.raises(ValueError, match="has another ending; expected a weights file"):
        adapted(tmp_path / "file.xyz")
    (step := tmp_path / "checkpoints/step_000002").mkdir()
    (step / "manifest.json").touch()
    part = saved(step / "model.pt", {"bridges.a": torch.ones(2)})
    for load in (adapted, lambda path: start_from(flamingo(), path)):
        with pytest.raises(ValueError, match=r"step_000002; set run.init_from to that folder"):
            load(part)
    other = saved(tmp_path / "other.pt", {"llama_proj.weight": torch.ones(2, 2)})
    with pytest.raises(ValueError, match="model.weights is for files of several parts"):
        adapted(other)
