"""TextBind's released weights, rebuilt small, as users load them: `run.init_from: FILE`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Blip2QFormerConfig, Blip2QFormerModel, LlamaConfig, LlamaForCausalLM

from chatbridge.cli.weights.check_released import check_released
from chatbridge.common.types import Features
from chatbridge.models.chat_model import ChatModel
from chatbridge.models.component_tensors import carried_tensors
from chatbridge.models.importers.released import start_from
from chatbridge.models.loading import load_weights
from chatbridge.models.trainable import set_trainable
from tests.helpers.textbind_release import FEATURES, ROWS, TOKENS, qformer_file, stage_1_file, stage_2_file, textbind
from tests.helpers.tiny_models import LANGUAGE, VISION


def saved(folder: Path, tensors: Any) -> Path:
    torch.save(tensors, folder / "second_stage_model.pt")
    return folder / "second_stage_model.pt"


def values(model: ChatModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(model: ChatModel, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("wrapper", ["", "module."])
def test_stage_1(tmp_path: Path, wrapper: str) -> None:
    """Fails when queries, layers or projection are not those of transformers' classes with the file's weights."""
    model, tensors = textbind(), stage_1_file()
    before = values(model)
    report = start_from(model, saved(tmp_path, {wrapper + name: value for name, value in tensors.items()}))
    assert changed(model, before) == {name for name in before if name.startswith("bridges.qformer.")}
    assert f"{len(tensors)} tensors" in str(report)
    config = Blip2QFormerConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, cross_attention_frequency=2,
        encoder_hidden_size=FEATURES,
    )  # fmt: skip
    theirs = Blip2QFormerModel(config).eval()
    theirs.load_state_dict({n.removeprefix("qformer."): v for n, v in tensors.items() if n.startswith("qformer.")})
    features = torch.randn(2, 5, FEATURES)
    with torch.no_grad():
        queries = tensors["query_tokens"].expand(2, -1, -1)
        hidden = theirs(query_embeds=queries, encoder_hidden_states=features).last_hidden_state
        wanted = hidden @ tensors["qformer_projection.weight"].T + tensors["qformer_projection.bias"]
        found = model.eval().bridges["qformer"](Features(features), "image")
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_stage_2(tmp_path: Path) -> None:
    """Fails when logits of the added tokens or of others are not those of a Llama with 53 rows."""
    model, tensors = textbind(), stage_2_file()
    report = start_from(model, saved(tmp_path, tensors))
    assert "added_tokens: rows of <image>, <start>, <end>" in str(report) and "dropped: 2 tensors" in str(report)
    lm = LlamaForCausalLM(LlamaConfig(**{**LANGUAGE["architecture"], "vocab_size": ROWS + 3})).eval()
    own = {name.removeprefix("language_model."): value for name, value in tensors.items()}
    lm.load_state_dict({name: own[name] for name in lm.state_dict()})
    ids = torch.tensor([[1, 50, 51, 7, 52, 9]])
    lm_here: Any = model.eval().language.lm
    with torch.no_grad():
        torch.testing.assert_close(lm_here(ids).logits, lm(ids).logits, atol=1e-5, rtol=1e-5)


def test_tokens_in_another_order(tmp_path: Path) -> None:
    """Fails when rows follow the order of the YAML instead of the names."""
    tensors = stage_2_file()
    model = textbind(added_tokens=["<end>", "<image>", "<start>", "<more>"])
    before = values(model)
    start_from(model, saved(tmp_path, tensors))
    after = model.state_dict()
    for row, token in enumerate(TOKENS, start=ROWS):
        for part, name in (("embedding", "model.embed_tokens"), ("head", "lm_head")):
            theirs = tensors[f"language_model.{name}.weight"][row]
            assert torch.equal(after[f"added_tokens.{part}.{token}"], theirs)
    assert torch.equal(after["added_tokens.head.<more>"], before["added_tokens.head.<more>"])


def test_the_start_file_keeps_the_projection(tmp_path: Path) -> None:
    """Fails when blip2_qformer.pt is refused, or the missing projection is not named."""
    model = textbind()
    before = values(model)
    report = start_from(model, saved(tmp_path, qformer_file()))
    assert "no qformer_projection in the file" in str(report)
    assert not changed(model, before) & {"bridges.qformer.output.weight", "bridges.qformer.output.bias"}


def test_frozen_parts_of_the_file_are_in_checkpoints(tmp_path: Path) -> None:
    """Fails when a run over a stage-2 file with a frozen language model would lose that model."""
    model = textbind(trainable=["bridges.*"])
    set_trainable(model, ["bridges.*"])
    start_from(model, saved(tmp_path, stage_2_file()))
    assert {name.partition(".")[0] for name in carried_tensors(model)} == {"language", "added_tokens"}


def without(*beginnings: str) -> Callable[[], dict[str, Tensor]]:
    return lambda: {name: value for name, value in stage_2_file().items() if not name.startswith(beginnings)}


def renamed(old: str, new: str) -> Callable[[], dict[str, Tensor]]:
    def tensors() -> dict[str, Tensor]:
        found = stage_2_file().items()
        return {new + name.removeprefix(old) if name.startswith(old) else name: value for name, value in found}

    return tensors


@pytest.mark.parametrize(
    ("tensors", "changes", "message"),
    [
        (without("query_tokens"), {}, "lacks query_tokens, so it is incomplete"),
        (without("qformer."), {}, "lacks qformer, so it is incomplete"),
        (without("qformer_projection"), {}, "lacks qformer_projection, so it is incomplete"),
        (without("qformer_projection.bias"), {}, "missing +output.bias"),
        (without("qformer.encoder.layer.1.attention.output"), {}, "missing +qformer.encoder.layer.1.attention.output"),
        (without("language_model.lm_head"), {}, "lacks lm_head.weight of language_model"),
        (without("language_model.model.layers.1.mlp.up_proj"), {}, r"missing +language.lm.model.layers.1.mlp.up_proj"),
        (renamed("language_model.", "llm."), {}, "unexpected tensors: llm.model.embed_tokens.weight.*; expected names"),
        (renamed("qformer.", "q_former."), {}, "unexpected tensors: q_former.layernorm.weight"),
        (
            renamed("language_model.model.", "language_model.net."),
            {},
            "unexpected tensors of language_model: net.embed",
        ),
        (lambda: stage_2_file() | {"vision_model.post_layernorm.bias": torch.ones(24)}, {}, "is a whole BLIP-2"),
        (lambda: stage_2_file(num_added=2), {}, "has 52 rows, expected 53"),
        (stage_2_file, {"added_tokens": ["<image>"]}, "add to model.added_tokens: <start>, <end>"),
        (
            stage_1_file,
            {"bridges": {"linear": {"name": "linear"}}, "routes": {"image": {"encoder": "vision", "bridge": "linear"}}},
            "bridges.linear is Linear, expected a Q-Former; set name: qformer",
        ),
        (stage_1_file, {"encoders": {"vision": {**VISION, "width": 32}}}, "shape +qformer.encoder.layer.0.cross"),
    ],
)
def test_files_that_do_not_fit(
    tmp_path: Path, tensors: Callable[[], dict[str, Tensor]], changes: dict[str, Any], message: str
) -> None:
    """Fails when a wrong prefix, a missing part or another size is silent, changes the model, or passes the check."""
    model = textbind(**changes)
    before = values(model)
    path = saved(tmp_path, tensors())
    with pytest.raises(ValueError, match=message):
        start_from(model, path)
    assert not changed(model, before)
    assert any(one.problems for one in check_released(model, path))


def test_weights_check(tmp_path: Path) -> None:
    """Fails when `weights check` compares other tensors than loading does."""
    path = saved(tmp_path, stage_2_file())
    found = {one.component: one for one in check_released(textbind(), path)}
    assert set(found) == {"bridges.qformer", "added_tokens", "language"}
    assert not any(one.problems for one in found.values())
    model = textbind()
    counts = {name: one.num_loaded for name, one in found.items()}
    assert counts == {name: sum(key.startswith(f"{name}.") for key in model.state_dict()) for name in counts}


@pytest.mark.parametrize("bits", [pytest.param(8, marks=pytest.mark.slow), 4])
def test_a_language_model_in_few_bits(tmp_path: Path, bits: int) -> None:
    """Fails when the released model cannot run in few bits over a folder of its language model, or over another one."""
    pytest.importorskip("bitsandbytes")
    tensors, path = stage_2_file(), saved(tmp_path, stage_2_file())
    lm = LlamaForCausalLM(LlamaConfig(**LANGUAGE["architecture"]))
    lm.save_pretrained(tmp_path / "other")
    own = {name: tensors[f"language_model.{name}"][: len(value)] for name, value in lm.state_dict().items()}
    lm.load_state_dict(own)
    lm.save_pretrained(tmp_path / "tuned")

    def built(name: str) -> ChatModel:
        language = {"name": "causal_lm", "weights": str(tmp_path / name), f"load_in_{bits}bit": True}
        model = textbind(language=language)
        set_trainable(model, [])
        load_weights(model)
        return model

    model = built("tuned")
    assert f"language: in {bits} bits, read from {tmp_path / 'tuned'}" in str(start_from(model, path))
    assert torch.equal(model.state_dict()["added_tokens.head.<end>"], tensors["language_model.lm_head.weight"][-1])
    with pytest.raises(ValueError, match=f"that of {tmp_path / 'other'} is another one.*--part causal_lm --base LLAMA"):
        start_from(built("other"), path)
